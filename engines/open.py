"""Load and run anything: the one door from a RunnerSpec to a Runner."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Dict

from engines.errors import IncompatibleError
from engines.spec import Runner, RunnerSpec

_MODULES: Dict[str, str] = {
    "keras-zip": "engines.keras",
    "keras-hdf5": "engines.keras",
    "savedmodel": "engines.tensorflow",
    "torch-pt2": "engines.torch",
    "torchscript": "engines.torch",
    "torch-state-dict": "engines.torch",
    "tensorrt": "engines.tensorrt",
    "openvino": "engines.openvino",
    "onnxruntime": "engines.onnxruntime",
    "served": "engines.served",
}
"""Each module has `load(spec) -> Runner`."""


def open(spec: RunnerSpec) -> Runner:  # noqa: A001  (the public name is `engines.open`)
    """Load a model or an engine.

    A bundle is verified (files, hashes, device) before anything of it is loaded.

    Raises:
        ModelError: The file cannot be loaded.
        DamagedError: A bundle is not what its manifest says.
        IncompatibleError: The framework is missing, or the bundle was made for another device.
    """
    if spec.kind == "bundle":
        import engines.manifest as manifest

        spec = manifest.runner_spec(Path(spec.path), spec)
    key = spec.backend if spec.kind == "onnx" else spec.kind
    if key not in _MODULES:
        raise IncompatibleError(f"no backend {key!r}", "optimize doctor")
    return importlib.import_module(_MODULES[key]).load(spec)  # type: ignore[no-any-return]
