"""What works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

from engines.device import version_of

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
    _Part("torch", ("torch",), "PyTorch models", "pip install 'optimize-trt[torch]'"),
    _Part(
        "onnxruntime", ("onnxruntime",), "checks, calibration and the onnxruntime backend", "pip install onnxruntime"
    ),
)


def examine(disk: Path = Path(".")) -> Dict[str, Any]:
    """Look at this machine.

    Returns:
        `facts` (`engines.device.facts`), `features` of the CPU, `backends` and `parts` with name, state and fix,
        `disk_free_bytes`, `writable`, `ok` (something can be built) and `fix`.
    """
    from engines import backend as backends
    from engines.device import cpu_features, facts

    engines = []
    for name in backends.ORDER:
        why = backends.unavailable(name)
        engines.append(
            {
                "name": name,
                "works": not why,
                "why": why,
                "fix": backends.hint(name) if why else "",
                "version": _version(name),
            }
        )
    parts = []
    for part in _PARTS:
        if part.name == "tf-keras" and _version("tensorflow", "tensorflow-cpu").startswith(
            ("2.12", "2.13", "2.14", "2.15")
        ):
            continue  # these releases read such files themselves
        version = _version(*part.distributions)
        parts.append(
            {
                "name": part.name,
                "works": bool(version),
                "version": version,
                "purpose": part.purpose,
                "fix": "" if version else part.fix,
            }
        )
    working = [e["name"] for e in engines if e["works"]]
    return {
        "facts": facts(),
        "features": list(cpu_features()),
        "backends": engines,
        "parts": parts,
        "disk_free_bytes": shutil.disk_usage(disk).free,
        "writable": os.access(disk, os.W_OK),
        "ok": bool(working),
        "chosen": working[0] if working else "",
        "fix": "" if working else "pip install 'optimize-trt[openvino]'",
    }


def _version(*distributions: str) -> str:
    return next((v for v in map(version_of, distributions) if v), "")


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
        out.append(f"{one['name']:12}{state}" + (f"\n            {one['fix']}" if one["fix"] else ""))
    for one in found["parts"]:
        state = f"ok  {one['version']}" if one["works"] else f"no  (for {one['purpose']})"
        out.append(f"{one['name']:12}{state}" + (f"\n            {one['fix']}" if one["fix"] else ""))
    if not found["writable"]:
        out.append("folder      no  this folder cannot be written to\n            choose another with -o DIR")
    if found["chosen"]:
        out.append(f"--backend auto builds {found['chosen']} engines here")
    return out
