"""INT8 by a calibration cache that somebody else has measured: `--calibration-cache`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from engines import jsonfile
from engines.tensorrt import cachefile
from optimize.pipeline.inputs import CALIBRATION_PACKAGES

if TYPE_CHECKING:
    from optimize.pipeline.build import Job


def imported(job: Job, kept: Sequence[str] = (), write: bool = True) -> Dict[str, Any]:
    """What the cache that was given makes of the graph, as a stage.

    Args:
        job: With `options.calibration_cache`.
        kept: Layers that stay float, besides those that the user named.
        write: Make the Q/DQ graph (`calib.cache.quantised`), else a cache of the graph's names (`fitted` there).
    """
    o, cache = job.options, job.options.calibration_cache
    assert cache is not None
    arguments = {
        "target": job.backend,
        "keep_float": [*o.keep_fp32, *(name for name in kept if name not in o.keep_fp32)],
        "names": job.names,
    }
    about = cachefile.sidecar(cache)
    content = {"cache": jsonfile.sha256(cache), "sidecar": jsonfile.sha256(about) if about.exists() else None}
    return job.space.run(
        "imported" if write else "fitting",
        "calib.cache:quantised" if write else "calib.cache:fitted",
        {**arguments, "onnx": job.onnx, "cache": str(cache)},
        {**arguments, **content, "name": cache.name, "onnx": job.graph},
        job.progress,
        CALIBRATION_PACKAGES,
        out="out=int8.onnx" if write else "out=fitted.cache",
        force=o.force,
    )


def doubts(job: Job, calibration: Optional[Dict[str, Any]]) -> List[str]:
    """Flags of a bundle: what the sidecar of an imported cache says that is not so here."""
    of = ((calibration or {}).get("imported") or {}).get("of") or {}
    found = []
    if of.get("model") not in (None, job.graph, job.source["model"]):
        found.append("calibration-cache-of-another-graph")
    theirs, ours = (_meaning(one) for one in (of.get("preprocess"), job.spec.preprocess))
    if theirs and ours and theirs != ours:
        found.append("calibration-cache-of-another-preprocessing")
    return found


def _meaning(preprocess: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """Preprocessing without how it was written and how it came to be known."""
    return {key: value for key, value in (preprocess or {}).items() if key not in ("text", "inferred")}
