"""The project's own TensorRT backend from an ONNX file to numbers, as cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np

from bench import spans
from engines.errors import OptimizeError
from engines.spec import RunnerSpec
from engines.tensorrt import build, compat, load
from tests.device import models
from tests.device.steps import close
from tests.device.world import Case, World, need


def _spec(folder: Path, **options: Any) -> RunnerSpec:
    return RunnerSpec(str(folder / "model.plan"), "onnx", backend="tensorrt", options=options)


def _build(w: World, precision: str, model: bytes, **options: Any) -> Dict[str, Any]:
    onnx = w.folder / "model.onnx"
    onnx.write_bytes(model)
    asked = {"workspace": 256 << 20, "timing_cache": str(w.folder / "timing.cache"), **options}
    return build(onnx, w.folder, precision, models.BATCHES, asked)


def _path(w: World, precision: str, model: bytes, kind: str, wanted: bytes, **options: Any) -> Dict[str, Any]:
    """Build, load, run every batch in each of the ways there are, and see what was recorded."""
    made = _build(w, precision, model, **options)
    recorded = made["options"]
    for way in ({}, {"cuda_graph": True, "spin": True}, {"io": "zero-copy"}):
        with load(_spec(w.folder, **way)) as runner:
            for batch in models.BATCHES:
                name = f"{'-'.join(way) or 'plain'}, batch {batch}"
                for scale in (1, -0.5):  # the second answer is another: one that was not waited for shows
                    pictures = (models.images(batch) * scale).astype(np.float32)
                    found = runner.infer({"x": pictures})["y"]
                    close(w, name, found, models.expected(wanted, pictures), kind)
            batches, flags = list(runner.batches), list(getattr(runner, "flags", []))
    names = ("tensorrt", "compute_capability", "workspace_bytes", "profiles", "reformats", "qdq", "trtexec", "builds")
    w.seen.update({name: recorded.get(name) for name in names})
    w.seen.update(achieved=made["achieved"], flags=[*made["flags"], *flags])
    w.check("a precision is counted", made["achieved"])
    w.check("the timing cache is written", any(w.folder.glob("timing-*.cache")))
    return {"files": made["files"], "batches": batches, "recorded": sorted(recorded)}


def fp32(w: World) -> Dict[str, Any]:
    """FP32 without TF32."""
    return _path(w, "fp32", models.cnn(), "fp32", models.cnn())


def fp16(w: World) -> Dict[str, Any]:
    """FP16, by flags or by types in the graph."""
    model = models.cnn()
    if not compat.weakly_typed(w.trt):
        from calib import fp16 as casting

        source, cast = w.folder / "source.onnx", w.folder / "cast.onnx"
        source.write_bytes(model)
        casting.cast(source, cast)
        model = cast.read_bytes()
    return _path(w, "fp16", model, "fp16", models.cnn())


def int8_explicit(w: World) -> Dict[str, Any]:
    """INT8 by Q/DQ pairs."""
    model = models.cnn(quantized=True)
    return _path(w, "int8", model, "int8", model, int8_mode="explicit")


def int8_implicit(w: World) -> Dict[str, Any]:
    """INT8 by the calibrator, fed batch by batch through pycuda."""
    need(compat.has_calibrator(w.trt), "this version has no calibrator")
    feeds = w.folder / "feeds.npz"
    np.savez(feeds, x=np.concatenate([models.images(4)] * 4))
    cache = w.folder / "calibration.cache"
    about = {"feeds": str(feeds), "batch": 4, "algorithm": "entropy", "cache": str(cache), "of": {"model": "0" * 64}}
    told = _path(w, "int8", models.cnn(), "measured", models.cnn(), int8_mode="implicit", calibration=about)
    w.check("the calibration cache is written", cache.is_file())
    return told


def loop(w: World) -> Dict[str, Any]:
    """trtexec's loop around an engine: the spans follow each other; the layers' times by the profiler."""
    _build(w, "fp32", models.cnn())
    with load(_spec(w.folder)) as runner:
        feeds = {"x": models.images(4)}
        for name, way in (("default", {}), ("graph", {"transfers": False, "graph": True, "spin": True})):
            slots = runner.slots(feeds, **way)  # type: ignore[attr-defined]
            trace = spans.measure(slots, 4, warmup_ms=50, duration_s=0.3, how={"slots": 2, **way})
            found = spans.summary(trace)
            steps = np.diff(trace.spans, axis=1)
            w.check("no span is negative", (steps >= -1e-3).all())
            w.seen[name] = {key: found[key] for key in ("mode", "queries", "compute_ms", "enqueue_ms", "latency_ms")}
        rows = runner.profile(feeds, queries=5)  # type: ignore[attr-defined]
        w.check("layers have times", rows and any(row["ms"] > 0 and row["type"] for row in rows))
        w.seen["layers"] = rows[:8]
        achieved = runner.achieved()
    return {"precisions": sorted(achieved)}


def _refused(w: World, name: str, call: Any, word: str = "") -> str:
    """The class of the project's error; checked to say `word`."""
    try:
        call()
    except OptimizeError as error:
        w.seen[name] = error.message
        w.check(f"{name}: the reason is told", word in error.message)
        return type(error).__name__
    w.check(f"{name} is refused", False)
    return ""


def refusals(w: World) -> Dict[str, Any]:
    """What our backend makes of bad input."""
    _build(w, "fp32", models.cnn())
    plan = w.folder / "model.plan"
    whole = plan.read_bytes()

    def other_batch() -> None:
        with load(_spec(w.folder)) as runner:
            runner.infer({"x": models.images(2)})

    told = {"another batch": _refused(w, "another batch", other_batch, "serves batch 1, 4")}
    plan.write_bytes(whole[: len(whole) // 2])
    told["half a plan"] = _refused(w, "half a plan", lambda: load(_spec(w.folder)), "refuses this plan")
    odd = w.folder / "odd"
    odd.mkdir()
    (odd / "odd.onnx").write_bytes(models.unknown_operator())
    told["unknown operator"] = _refused(
        w, "unknown operator", lambda: build(odd / "odd.onnx", odd, "fp32", [1], {}), "NoSuchOperator"
    )
    return told


CASES = [
    Case("engine.fp32", fp32, "tensorrt", own=True),
    Case("engine.fp16", fp16, "tensorrt", own=True),
    Case("engine.int8_explicit", int8_explicit, "tensorrt", own=True),
    Case("engine.int8_implicit", int8_implicit, "tensorrt", own=True),
    Case("engine.loop", loop, "tensorrt", own=True),
    Case("engine.refusals", refusals, "tensorrt", own=True),
]
"""In the order in which they run."""
