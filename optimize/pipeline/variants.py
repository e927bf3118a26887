"""The graphs and settings with which a backend may build one precision; several where only measuring tells the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from engines import jsonfile
from optimize.pipeline.imported import imported
from optimize.pipeline.inputs import CALIBRATION_PACKAGES

if TYPE_CHECKING:
    from optimize.pipeline.build import Job


_BATCH = 32
"""Images that TensorRT's calibrator is fed at a time at most, where the graph leaves it free."""


class Variant(NamedTuple):
    """One way to build.

    Attributes:
        name: Empty where there is only one way, else `explicit`, `implicit`, or `floatN` where layers stay float.
        onnx: The graph for the backend.
        calibration: Result of the calibration, for the manifest; None where nothing was calibrated.
        settings: Options of the backend that decide the engine.
        unkeyed: Options that do not, such as where a cache lies.
    """

    name: str
    onnx: str
    calibration: Optional[Dict[str, Any]]
    settings: Dict[str, Any]
    unkeyed: Dict[str, Any]


def variants(job: Job, precision: str) -> List[Variant]:
    """The ways to build `precision` with the job's backend."""
    settings: Dict[str, Any] = {"threads": job.options.threads} if job.options.threads else {}
    if job.backend == "tensorrt":
        return _tensorrt(job, precision, settings)
    calibration = job.calibrate() if precision == "int8" else None
    return [Variant("", calibration["onnx"] if calibration else job.onnx, calibration, settings, {})]


def kept_variant(job: Job, kept: Sequence[str], name: str) -> Variant:
    """The way to build INT8 with some layers in float."""
    done = job.calibrate(kept)
    settings: Dict[str, Any] = {"threads": job.options.threads} if job.options.threads else {}
    if job.backend != "tensorrt":
        return Variant(name, done["onnx"], done, settings, {})
    able, settings, unkeyed = _capable(job, settings)
    return Variant(name, _typed(job, done, able), done, {**settings, "int8_mode": "explicit"}, unkeyed)


def _capable(job: Job, settings: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any], Dict[str, Any]]:
    """What this TensorRT can do, and the settings of any engine that it builds."""
    asked = job.options.tensorrt
    able = job.space.run(
        "tensorrt", "optimize.pipeline.tensorrt:capabilities", {}, {"device": job.key.to_json()}, job.progress
    )
    settings = {**settings, **asked.settings(), "keep_fp32": list(job.options.keep_fp32)}
    if not able["weakly_typed"]:
        settings["strongly_typed"] = True
    cache = asked.timing_cache or job.space.root / "timing" / "timing.cache"
    return able, settings, {"timing_cache": str(cache)}


def _tensorrt(job: Job, precision: str, settings: Dict[str, Any]) -> List[Variant]:
    asked = job.options.tensorrt
    able, settings, unkeyed = _capable(job, settings)
    if precision != "int8":
        onnx = job.onnx if precision == "fp32" or able["weakly_typed"] else _in_fp16(job, job.onnx)
        return [Variant("", onnx, None, settings, unkeyed)]
    found = []
    modes = asked.int8_modes(able)
    if "explicit" in modes:
        calibration = job.calibrate()
        graph = _typed(job, calibration, able)
        found.append(Variant("explicit", graph, calibration, {**settings, "int8_mode": "explicit"}, unkeyed))
    if "implicit" in modes:
        found.append(_implicit(job, settings, unkeyed))
    return found


def whole_batch(samples: int) -> int:
    """The batch up to `_BATCH` that leaves the fewest images over; of several the largest."""
    sizes = range(min(_BATCH, samples), min(_BATCH, samples) // 2, -1)
    return min(sizes, key=lambda size: samples % size)


def _images(job: Job) -> Dict[str, Any]:
    """Which images calibrate, for `optimize.pipeline.tensorrt.calibration_images`."""
    o = job.options
    return {
        "data": o.data,
        "preprocess": job.spec.preprocess,
        "layout": job.boundary.layout,
        "samples": o.samples,
        "seed": o.seed,
    }


def _typed(job: Job, calibration: Dict[str, Any], able: Dict[str, Any]) -> str:
    """The Q/DQ graph, what stays float in it in FP16 where flags of the builder cannot say so."""
    if able["weakly_typed"]:
        return str(calibration["onnx"])
    return _in_fp16(job, calibration["onnx"], calibration.get("float_onnx"))  # an imported cache has no such graph


def _in_fp16(job: Job, onnx: str, fp32: Optional[str] = None) -> str:
    """The graph in FP16. What images of the calibration tell of overflow counts where there are such images.

    Args:
        job: Its images.
        onnx: What is cast.
        fp32: The FP32 graph that it was made from, where that is not the job's.
    """
    keep = list(job.options.keep_fp32)
    images = _images(job) if job.data and job.spec.task == "classify" else None
    done = job.space.run(
        "fp16",
        "optimize.pipeline.tensorrt:cast_fp16",
        {"onnx": onnx, "keep": keep, "measured": fp32 or job.onnx, "images": images},
        {"onnx": jsonfile.sha256(onnx), "keep": keep, "measured": job.graph, "images": images, "data": job.data},
        job.progress,
        CALIBRATION_PACKAGES,
        out="out=fp16.onnx",
        force=job.options.force,
        unchanged=job.watch.data_unchanged,
    )
    return str(done["onnx"])


def _implicit(job: Job, settings: Dict[str, Any], unkeyed: Dict[str, Any]) -> Variant:
    settings = {**settings, "int8_mode": "implicit"}
    fixed = job.boundary.inputs[0].shape[0]
    if job.options.calibration_cache is not None:
        fit = imported(job, write=False)
        taken = {"batch": fixed or 1, "sha256": fit["imported"]["sha256"]}
        unkeyed = {**unkeyed, "calibration": {**taken, "imported": fit["cache"]}}
        return Variant("implicit", job.onnx, fit, {**settings, "calibration": taken}, unkeyed)
    images = _images(job)
    identity = {**images, "data": job.data, "onnx": job.graph}
    feeds = job.space.run(
        "feeds",
        "optimize.pipeline.tensorrt:calibration_feeds",
        {"onnx": job.onnx, "images": images},
        identity,
        job.progress,
        CALIBRATION_PACKAGES,
        out="out=feeds.npz",
        force=job.options.force,
        unchanged=job.watch.data_unchanged,
    )
    batch = fixed or whole_batch(feeds["samples"])
    about = {
        "method": {"name": "TensorRT entropy calibrator"},
        **{k: feeds[k] for k in ("dataset", "seed")},
        "samples": feeds["samples"] // batch * batch,  # the calibrator is fed whole batches
        "target": "tensorrt",
        "onnx": job.onnx,
    }
    calibration = {
        "batch": batch,
        "algorithm": "entropy",
        "of": {
            "model": job.graph,
            "data": feeds["dataset"]["sha256"],
            "method": "entropy",
            **{name: images[name] for name in ("preprocess", "layout", "samples", "seed")},
        },
    }
    return Variant(
        "implicit",
        job.onnx,
        about,
        {**settings, "calibration": calibration},
        {**unkeyed, "calibration": {**calibration, "feeds": feeds["feeds"]}},
    )
