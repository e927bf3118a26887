"""Backends by name: which exist, which work here, and which one to take. Each is one module with these functions."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Dict, Protocol, Sequence, cast

from engines.device import backend_version
from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, Runner, RunnerSpec

ORDER = ("tensorrt", "openvino", "onnxruntime")
"""Fastest first: `auto` takes the first that is available."""

_MODULES: Dict[str, str] = {"openvino": "engines.openvino", "onnxruntime": "engines.onnxruntime"}

_NOT_YET: Dict[str, str] = {"tensorrt": "building TensorRT engines is not in this version"}

_HINTS: Dict[str, str] = {
    "tensorrt": "leave --backend out: it takes the best one that works here",
    "openvino": "pip install openvino",
    "onnxruntime": "pip install onnxruntime",
}


def unavailable(name: str) -> str:
    """Why a backend cannot be used here, in one line; empty where it can. Imports nothing heavy.

    Raises:
        UsageError: No backend has this name.
    """
    if name not in ORDER:
        raise UsageError(f"no backend {name!r}; known: auto, {', '.join(ORDER)}", "optimize doctor")
    if name in _NOT_YET:
        return _NOT_YET[name]
    if not backend_version(name) or importlib.util.find_spec(name) is None:
        return f"the Python package {name} is not installed"
    return ""


def hint(name: str) -> str:
    """The command or option that helps where `unavailable` gives a reason."""
    return _HINTS[name]


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


def choose(name: str = "auto") -> str:
    """The backend to build with: the one named, or the first of `ORDER` that is available.

    Raises:
        UsageError: No backend has this name.
        IncompatibleError: The one named is not available here, or none is.
    """
    if name != "auto":
        why = unavailable(name)
        if why:
            raise IncompatibleError(f"{name}: {why}", hint(name))
        return name
    for one in ORDER:
        if not unavailable(one):
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
