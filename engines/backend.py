"""Backends by name: which exist, which work here, and which one to take. Each is one module with these functions."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Dict, Protocol, Sequence, Tuple, cast

from engines import driver
from engines.device import backend_version, import_error, in_container, l4t, tensorrt_version
from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, Runner, RunnerSpec

ORDER = ("tensorrt", "openvino", "onnxruntime")
"""Fastest first: `auto` takes the first that is available."""

RUN_ONNX = ("openvino", "onnxruntime")
"""Those that run an ONNX file without building an engine first."""

_MODULES: Dict[str, str] = {
    "tensorrt": "engines.tensorrt",
    "openvino": "engines.openvino",
    "onnxruntime": "engines.onnxruntime",
}

_HINTS: Dict[str, str] = {"openvino": "pip install openvino", "onnxruntime": "pip install onnxruntime"}


def unavailable(name: str) -> str:
    """Why a backend cannot be used here, in one line; empty where it can. Imports nothing heavy.

    Raises:
        UsageError: No backend has this name.
    """
    if name not in ORDER:
        raise UsageError(f"no backend {name!r}; known: auto, {', '.join(ORDER)}", "optimize doctor")
    if name == "tensorrt":
        return _no_tensorrt()[0]
    if not backend_version(name) or importlib.util.find_spec(name) is None:
        return f"the Python package {name} is not installed"
    return ""


def hint(name: str) -> str:
    """The command or option that helps where `unavailable` gives a reason."""
    return _no_tensorrt()[1] if name == "tensorrt" else _HINTS[name]


def _broken(name: str) -> str:
    """Why a TensorRT that is installed does not load: its bindings are thin, and the library behind them may lack."""
    why = import_error("tensorrt") if name == "tensorrt" else ""
    return f"the Python package tensorrt does not load: {why}" if why else ""


def _no_tensorrt() -> Tuple[str, str]:
    """Why TensorRT cannot be used on this machine, and the command for it; empty where it can.

    The driver comes first: without a GPU no package helps. On a Jetson TensorRT belongs to JetPack, and what pip has
    under that name must not be put over it.
    """
    gpu, why = driver.ask()
    if gpu is None:
        return why, _driver_hint(why)
    jetson = bool(l4t())
    version, why = tensorrt_version()
    if l4t().startswith("32."):
        return "JetPack 4's TensorRT is for Python 3.6, which this does not run on", "optimize doctor"
    if not version and jetson and importlib.util.find_spec("tensorrt") is None:
        return (
            "JetPack's Python package tensorrt is not seen by this Python",
            "sudo apt install python3-libnvinfer, and /usr/bin/python3 -m venv --system-site-packages .venv",
        )
    if not version:
        return why, "optimize doctor" if jetson else "pip install 'optimize-trt[tensorrt]'"
    if importlib.util.find_spec("pycuda") is None:
        mend = "./install-jetson.sh, or the line of: optimize doctor" if jetson else "pip install pycuda"
        return "the Python package pycuda is not installed", mend
    return "", ""


def _driver_hint(why: str) -> str:
    """What brings a GPU that is there to the driver; where none is, what builds without one."""
    if l4t() and in_container():
        return "docker run --runtime nvidia ..."
    if l4t() and "cuInit" in why:  # the library is there, the device files are not for this user
        return "sudo usermod -aG video,render $USER, then log in again"
    if l4t():
        return "sudo apt install --reinstall nvidia-l4t-cuda nvidia-l4t-core, then reboot"
    if in_container():
        return "docker run --gpus all ... (on a Jetson: --runtime nvidia), or leave --backend out"
    if driver.on_the_bus():
        windows = sys.platform == "win32"
        return "install NVIDIA's driver from nvidia.com" if windows else "sudo ubuntu-drivers install, then reboot"
    return "leave --backend out: it takes the best one that works here"


def get(name: str) -> Backend:
    """The module of a backend.

    Raises:
        UsageError: No backend has this name.
        IncompatibleError: It is not available here; says why and what to do.
    """
    why = unavailable(name)
    if why:
        raise IncompatibleError(f"{name}: {why}", hint(name))
    return cast(Backend, importlib.import_module(_MODULES[name]))


def choose(name: str = "auto", among: Sequence[str] = ORDER) -> str:
    """The backend to build with: the one named, or the first of `among` that is available.

    Args:
        name: A backend's name, or auto.
        among: Those that can do what is asked, the fastest first.

    Raises:
        UsageError: No backend has this name.
        IncompatibleError: The one named is not available here, or none is.
    """
    if name != "auto":
        why = unavailable(name)
        if why:
            raise IncompatibleError(f"{name}: {why}", hint(name))
        broken = _broken(name)
        if broken:
            raise IncompatibleError(f"{name}: {broken}", "optimize doctor")
        if name not in among:
            raise UsageError(f"{name} does not run an ONNX file as it is", "optimize build MODEL.onnx makes an engine")
        return name
    for one in among:
        if not unavailable(one) and not _broken(one):
            return one
    raise IncompatibleError("no backend is installed", f"{hint('openvino')}, or: {hint('onnxruntime')}")


class Backend(Protocol):
    """What each backend's module offers."""

    NAME: str
    HINT: str

    def unavailable(self) -> str:
        """See `engines.backend.unavailable`."""
        ...

    def build(
        self,
        onnx: Path,
        out: Path,
        precision: str,
        batches: Sequence[int],
        options: Dict[str, Any],
        progress: Progress,
    ) -> Dict[str, Any]:
        """Turn an ONNX graph into engine files in the existing, empty folder `out`.

        Args:
            onnx: The graph; for int8 it already holds Q/DQ pairs.
            out: Folder for the files.
            precision: fp32, fp16 or int8.
            batches: Batch sizes that the engine must serve.
            options: `threads` (int) and what the backend itself records, such as `inference_precision`.
            progress: Told what happens.

        Returns:
            `files` (names, the one to load first), `options` (to load it with), `achieved` (layers by precision),
            `layers` (`name`, `type`, `precision`) and `flags`.

        Raises:
            ModelError: The graph is damaged.
            BuildError: It holds an operator that the backend lacks, or another fixed batch.
        """
        ...

    def load(self, spec: RunnerSpec) -> Runner:
        """Load an engine, or an ONNX file as it is.

        Raises:
            ModelError: The file is damaged, or holds an operator that the backend lacks.
        """
        ...
