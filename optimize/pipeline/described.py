"""What the manifest of a bundle says of the engine before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

from engines.device import DOUBLE
from engines.spec import TensorSpec
from optimize.pipeline import engine
from optimize.pipeline.imported import doubts
from optimize.pipeline.stages import digest, now, value_of
from optimize.version import VERSION

if TYPE_CHECKING:
    from optimize.pipeline.build import Job


def described(
    job: Job,
    precision: str,
    built: Dict[str, Any],
    calibration: Optional[Dict[str, Any]],
    identity: Dict[str, Any],
    stage: Path,
) -> Dict[str, Any]:
    """The manifest of an engine, but for what is measured of it (see `engines.manifest`)."""
    spec = job.spec
    return {
        "schema": "optimize.manifest/1",
        "name": f"{Path(spec.path).name.rsplit('.', 1)[0]}-{precision}",
        "created": now(),
        "version": VERSION,
        "model": {"name": Path(spec.path).name, "kind": spec.kind, "sha256": job.source["model"]},
        "backend": job.backend,
        "precision": precision,
        "achieved": built["achieved"],
        "layers": built["layers"],
        **({"comparison": built["comparison"]} if "comparison" in built else {}),
        "files": engine.file_entries(stage, built["files"]),
        "device": job.key.to_json(),
        "inputs": [_tensor(t) for t in job.boundary.inputs],
        "outputs": [_tensor(t) for t in job.boundary.outputs],
        "layout": job.boundary.layout,
        "task": spec.task,
        "classes": job.classes,
        "preprocess": spec.preprocess,
        "batches": list(job.options.batches),
        "options": built["options"],
        "onnx": built["onnx"],
        "calibration": {k: v for k, v in value_of(calibration).items() if k not in ("onnx", "float_onnx", "cache")}
        if calibration
        else None,
        "build_key": digest(identity),
        "flags": [
            *built["flags"],
            *(["random weights"] if spec.options.get("weights") == "random" else []),
            *doubts(job, calibration),
            *(["double"] if DOUBLE in job.key.version else []),
        ],
        "seconds": built["seconds"],
    }


def _tensor(spec: TensorSpec) -> Dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
