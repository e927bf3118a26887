"""TensorRT, 8.5 to 11: builds plans from ONNX and runs them, driven by pycuda."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from engines.backend import unavailable as _unavailable
from engines.spec import Progress, Runner, RunnerSpec, quiet

NAME = "tensorrt"
HINT = "optimize doctor"


def unavailable() -> str:
    """See `engines.backend.unavailable`."""
    return _unavailable(NAME)


def build(
    onnx: Path,
    out: Path,
    precision: str,
    batches: Sequence[int],
    options: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """See `engines.tensorrt.builder.build`."""
    from engines.tensorrt.builder import build as make

    return make(onnx, out, precision, batches, options, progress)


def load(spec: RunnerSpec) -> Runner:
    """See `engines.tensorrt.run.load`."""
    from engines.tensorrt.run import load as open_plan

    return open_plan(spec)
