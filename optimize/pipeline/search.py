"""What happens when INT8 fails its gate: layers go back to float, as few as meet it, and the fastest engine is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from engines import jsonfile
from optimize.pipeline.inputs import CALIBRATION_PACKAGES
from optimize.pipeline.results import Candidate
from optimize.pipeline.stages import value_of
from optimize.pipeline.variants import kept_variant

if TYPE_CHECKING:
    from optimize.pipeline.build import Job

_STRICTER = (0.75, 0.5, 0.25)
"""Parts of what the gate allows that a search aims at: its images are others than the gate's, and fewer."""

_ROUNDS = 3
"""Searches at most, each with ranges chosen anew without the layers that make most of the error."""


def search(job: Job) -> Tuple[List[Candidate], Dict[str, Any]]:
    """Build INT8 engines with layers in float until one passes the gate; they, and the journals of the searches.

    Where few layers make most of the error, the ranges are chosen anew without them and the search goes on from there,
    because a method that was chosen to save a lost layer serves the others badly. Every search is a stage of its own
    over a journal on the disk, so that a stricter one, or a second run, measures only what is new.
    """
    built: Dict[Tuple[str, ...], Candidate] = {}
    journals: List[Dict[str, Any]] = []
    left = job.options.search_budget
    for part in _STRICTER:
        kept: Tuple[str, ...] = ()
        for last in [False] * (_ROUNDS - 1) + [True]:
            found = _aim(job, kept, part, settle=last, budget=left)
            left = max(0.0, round(left - found["took_s"], 1))
            done = bool(found["sets"] or not found["outliers"])
            journals.append({"aim": part, **found, "complete": found["complete"] and (done or left > 0)})
            if done or left == 0:
                break
            kept = (*kept, *found["outliers"])
        for one in journals[-1]["sets"]:
            names = tuple(one["kept"])
            if names not in built:
                job.progress(f"building INT8 with {len(names)} layers in float", 0, 0)
                built[names] = job.engine("int8", kept_variant(job, names, f"float{len(built) + 1}"))
        if any(one.passed for one in built.values()) or not journals[-1]["complete"] or left == 0:
            break
    return list(built.values()), {"searches": journals}


def _aim(job: Job, kept: Tuple[str, ...], part: float, settle: bool, budget: float) -> Dict[str, Any]:
    o = job.options
    calibration = job.calibrate(kept)
    agreement = None if o.min_agreement is None else 100 - (100 - o.min_agreement) * part
    sha = jsonfile.sha256(calibration["onnx"])
    equalized = calibration.get("float_onnx")  # an imported cache has none
    arguments = {
        "data": o.data,
        "preprocess": job.spec.preprocess,
        "layout": job.boundary.layout,
        "target": job.backend,
        "keep": calibration["keep_float"],
        "max_drop": o.drop_gate * part,
        "min_agreement": agreement,
        "budget_s": budget,
        "seed": o.seed,
        "settle": settle,
    }
    journal = job.space.root / "search" / f"{sha[:16]}.json"
    done = job.space.run(
        "search",
        "calib.sensitivity:search",
        {**arguments, "onnx": equalized or job.onnx, "quantised": calibration["onnx"], "journal": str(journal)},
        {**arguments, "data": job.data, "onnx": job.graph, "quantised": sha},
        job.progress,
        CALIBRATION_PACKAGES,
        unchanged=job.watch.data_unchanged,
    )
    return value_of(done)
