"""Virtual environments for the peers, each with its own packages, outside the project's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from calib.datasets.find import cache_dir
from engines.device import version_of
from engines.errors import IncompatibleError, OptimizeError
from engines.spec import Progress, quiet

_STAMP = ".peers.json"

_TAIL = 300
"""Characters of pip's last line that a reason shows."""

_TORCH = "torch==2.13.0" + ("+cpu" if sys.platform == "linux" else "")
"""The CPU build: on Linux the plain version brings gigabytes of CUDA. PyTorch 2.4 is the last on Python 3.8."""


class Environment(NamedTuple):
    """Packages of one environment: `steps` are calls of pip, in order; `same` are pinned to the versions here."""

    steps: Tuple[Tuple[str, ...], ...]
    same: Tuple[str, ...] = ()


_RUNTIMES = ("numpy", "onnx", "onnxruntime", "openvino")

TABLE: Dict[str, Environment] = {
    # sympy: ONNX Runtime's pre-processing infers shapes with it.
    "onnxruntime": Environment((("sympy",),), ("numpy", "onnx", "onnxruntime")),
    "nncf": Environment((("nncf>=3,<4",),), _RUNTIMES),
    "modelopt": Environment(((_TORCH,), ("nvidia-modelopt[onnx]", _TORCH))),
    # --no-deps: timm and torchvision name a torch of their own, which must not replace the CPU build.
    "timm": Environment(
        (
            (_TORCH, "onnx", "onnxscript", "pyyaml", "safetensors", "huggingface_hub", "pillow"),
            ("--no-deps", "timm", "torchvision"),
        ),
        ("numpy",),
    ),
}


def default_folder() -> Path:
    """Where the environments are unless told otherwise: the user's cache."""
    return cache_dir() / "peers"


def python(name: str, folder: Optional[Path] = None, progress: Progress = quiet) -> Path:
    """The interpreter of an environment, made first where it is missing or was made for other versions.

    Args:
        name: One of `TABLE`.
        folder: Of all environments; `default_folder()` by default.
        progress: Told what is installed.

    Raises:
        IncompatibleError: pip does not install it here; the message is pip's.
    """
    place = Path(folder or default_folder()).resolve() / name
    wanted = _wanted(TABLE[name])
    inside = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = place / _STAMP
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted and inside.exists():
        return inside
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    progress(f"environment of {name}", 0, len(wanted["steps"]))
    try:
        venv.create(place, with_pip=True)
    except subprocess.CalledProcessError as error:
        raise IncompatibleError(f"no virtual environment: {error}", "sudo apt install python3-venv") from None
    for done, step in enumerate(wanted["steps"], 1):
        _pip(inside, name, step)
        progress(f"environment of {name}", done, len(wanted["steps"]))
    # Last, so that an interrupted installation starts anew.
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return inside


def _wanted(environment: Environment) -> Dict[str, List[List[str]]]:
    pins = [f"{name}=={version_of(name)}" for name in environment.same if version_of(name)]
    steps = [[*step, *pins] if index == 0 else list(step) for index, step in enumerate(environment.steps)]
    return {"python": [[sys.version]], "steps": steps}


def _pip(interpreter: Path, name: str, words: List[str]) -> None:
    command = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if re.match(r"\s*(ERROR|error)", line)] or [done.stdout]
        last = " ".join(lines[-1].split())[-_TAIL:]
        raise IncompatibleError(f"pip does not install {' '.join(words)} for {name}: {last}")


def versions(interpreter: Path, names: Mapping[str, str]) -> Dict[str, str]:
    """Versions of distributions in an environment, by the keys of `names`; those missing are left out."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([str(interpreter), "-I", "-c", code], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise OptimizeError(f"{interpreter} does not run")
    found = json.loads(done.stdout)
    return {key: found[name] for key, name in names.items() if name in found}
