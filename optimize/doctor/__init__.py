"""What works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from bench import loadgen
from engines import board, driver
from engines.device import version_of
from optimize.doctor import nvidia
from optimize.doctor.interpreter import Interpreter, look, own_pip
from optimize.doctor.software import tensorflow_wheel
from optimize.serving import NEWEST_PYTHON

_GB = 1e9


class _Part(NamedTuple):
    """A Python package that some command needs."""

    name: str
    distributions: Tuple[str, ...]
    purpose: str
    fix: str


_PARTS = (
    _Part("tensorflow", ("tensorflow", "tensorflow-cpu"), "Keras models", "pip install 'optimize-trt[tensorflow]'"),
    _Part(
        "tf-keras", ("tf-keras",), "Keras files of TensorFlow 2.15 and older", "pip install 'optimize-trt[tensorflow]'"
    ),
    _Part("tf2onnx", ("tf2onnx",), "export of Keras models", "pip install 'optimize-trt[tensorflow]'"),
    _Part("torch", ("torch",), "PyTorch models", "make setup TORCH=1 (the CPU build; a plain pip install brings CUDA)"),
    _Part(
        "onnxruntime", ("onnxruntime",), "checks, calibration and the onnxruntime backend", "pip install onnxruntime"
    ),
    _Part("loadgen", ("mlcommons_loadgen",), "MLPerf LoadGen's loads: bench --load", loadgen.HINT),
    _Part("trust", ("cryptography",), "signed shipments", "pip install 'optimize-trt[trust]'"),
    _Part("s3", ("boto3",), "s3:// stores", "pip install 'optimize-trt[s3]'"),
    _Part("triton", ("tritonclient",), "Triton's model repositories", "pip install 'optimize-trt[triton]'"),
    _Part("serve", ("mlserver",), "optimize serve", "pip install 'optimize-trt[serve]'"),
)


_STATES: Dict[str, Optional[bool]] = {"ok": True, "no": False, "?": None}


def examine(
    disk: Path = Path("."), root: Path = Path("/"), run: board.Run = board.output, python: Optional[Interpreter] = None
) -> Dict[str, Any]:
    """Look at this machine.

    Args:
        disk: Folder that results would go to.
        root: Stands for `/` where an NVIDIA board is looked for.
        run: Runs a command of that board.
        python: The interpreter judged on such a board; this one by default.

    Returns:
        `facts` (`engines.device.facts`), `features` of the CPU, `backends` and `parts` with name, state and fix,
        `board` (None where there is nothing of NVIDIA's, else `facts` of `engines.board` and `checks` with `name`,
        `works` (None: cannot be told), `text` and `fix`), `disk_free_bytes`, `writable`, `ok` (something can be built)
        and `fix`.
    """
    from engines.device import cpu_features, facts

    here = facts()
    gpu, no_gpu = driver.ask()
    found = board.facts(root, run) if board.present(root) or gpu else None
    checks: List[Dict[str, Any]] = [
        {"name": row.name, "works": _STATES[row.state], "text": row.text, "fix": row.fix}
        for row in (nvidia.rows(found, python or look(), gpu, no_gpu, here["container"]) if found else [])
    ]
    engines = _backends(checks)
    working = [e["name"] for e in engines if e["works"]]
    return {
        "facts": here,
        "features": list(cpu_features()),
        "backends": engines,
        "parts": _parts(found),
        "board": {"facts": found, "checks": checks} if found else None,
        "disk_free_bytes": shutil.disk_usage(disk).free,
        "writable": os.access(disk, os.W_OK),
        "ok": bool(working),
        "chosen": working[0] if working else "",
        "fix": "" if working else "pip install 'optimize-trt[openvino]'",
    }


def _backends(checks: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Which backends work; TensorRT must also have loaded when it was tried, on a JetPack that is not too old."""
    from engines import backend as backends
    from engines.device import backend_version

    broken = [check for check in checks if check["works"] is False and check["name"] in nvidia.NEEDED]
    too_old = next((check["text"] for check in checks if check["name"] == "trtexec"), "")  # its line says how
    out = []
    for name in backends.ORDER:
        why = backends.unavailable(name)
        fix = backends.hint(name) if why else ""
        if name == "tensorrt" and too_old:
            why, fix = too_old, ""
        elif name == "tensorrt" and broken and not why:
            why, fix = broken[0]["text"], broken[0]["fix"]
        out.append({"name": name, "works": not why, "why": why, "fix": fix, "version": backend_version(name)})
    return out


def _parts(found: Optional[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Packages that some command needs; on a Jetson TensorFlow is NVIDIA's, and must not come from elsewhere."""
    made, command = tensorflow_wheel(found["l4t"]) if found and found["jetson"] else ("", "")
    tensorflow = _version("tensorflow", "tensorflow-cpu") or made
    fixes = {"tensorflow": command, "tf-keras": f"pip install 'tf-keras=={tensorflow[:4]}.*'"} if made else {}
    out = []
    for part in _PARTS:
        if part.name == "tf-keras" and tensorflow.startswith(("2.11", "2.12", "2.13", "2.14", "2.15")):
            continue  # these releases read such files themselves
        if part.name == "serve" and sys.version_info[:2] > NEWEST_PYTHON:
            continue  # there is nothing to install
        version = _version(*part.distributions)
        out.append(
            {
                "name": part.name,
                "works": bool(version),
                "version": version,
                "purpose": part.purpose,
                "fix": "" if version else fixes.get(part.name, part.fix),
            }
        )
    return out


def _version(*distributions: str) -> str:
    return next((v for v in map(version_of, distributions) if v), "")


def _to_type(fix: str) -> List[str]:
    return [f"            {own_pip(fix)}"] if fix else []


def lines(found: Dict[str, Any]) -> List[str]:
    """What `examine` found, one line a thing, with the command that mends it."""
    facts = found["facts"]
    out = [
        f"machine   {facts.get('cpu', 'unknown CPU')}, {facts.get('cores', '?')} cores, "
        f"{(facts.get('memory_bytes') or 0) / _GB:.1f} GB memory, {found['disk_free_bytes'] / _GB:.1f} GB free here",
        f"features  {' '.join(found['features']) or 'none that matter'}",
    ]
    for one in found["backends"]:
        state = f"ok  {one['version']}" if one["works"] else f"no  {one['why']}"
        out.append("\n".join([f"{one['name']:12}{state}", *_to_type(one["fix"])]))
    shown = {one["name"] for one in found["backends"]}
    for one in (part for part in found["parts"] if part["name"] not in shown):
        state = f"ok  {one['version']}" if one["works"] else f"no  (for {one['purpose']})"
        out.append("\n".join([f"{one['name']:12}{state}", *_to_type(one["fix"])]))
    marks = {works: state for state, works in _STATES.items()}
    for one in found["board"]["checks"] if found["board"] else []:
        out += [f"{one['name']:12}{marks[one['works']]:4}{one['text']}", *_to_type(one["fix"])]
    if not found["writable"]:
        out.append("folder      no  this folder cannot be written to\n            choose another with -o DIR")
    if found["chosen"]:
        out.append(f"--backend auto builds {found['chosen']} engines here")
    return out
