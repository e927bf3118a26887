"""What our code relies on of TensorRT's builder and calibration, as cases."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from engines.tensorrt import compat
from tests.device import models
from tests.device.steps import Execution, close, config, engine, network, plan
from tests.device.world import Case, World, attempt, need, raised

CALIBRATORS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
CALIBRATION_BATCHES = 3


def _numbers(w: World, content: Any, model: bytes, kind: str) -> Dict[str, Any]:
    """Run a plan with each of its batches against ONNX Runtime."""
    w.check("a plan is built", content is not None)
    made = engine(w, content)
    w.check("the plan is read", made is not None)
    for profile, batch in enumerate(models.BATCHES):
        execution = Execution(w, made.create_execution_context(), batch).prepare(profile)
        pictures = models.images(batch)
        close(w, f"batch {batch}", execution.run(pictures), models.expected(model, pictures), kind)
        execution.free()
    w.seen["bytes"] = int(content.nbytes)
    w.seen["layers"] = int(made.num_layers)
    return {"profiles": int(made.num_optimization_profiles)}


def fp32(w: World) -> Dict[str, Any]:
    """FP32 without TF32."""
    return _numbers(w, plan(w), models.cnn(), "fp32")


def fp16(w: World) -> Dict[str, Any]:
    """FP16 by the builder's flag."""
    need(compat.weakly_typed(w.trt), "this version takes precision from the graph alone")
    return _numbers(w, plan(w, flags=["FP16"]), models.cnn(), "fp16")


def int8_explicit(w: World) -> Dict[str, Any]:
    """INT8 by Q/DQ pairs in the graph, with the flags where there are any."""
    flags = ["INT8", "FP16"] if compat.weakly_typed(w.trt) else []
    model = models.cnn(quantized=True)
    return _numbers(w, plan(w, model, flags), model, "int8")


def typed_fp16(w: World) -> Dict[str, Any]:
    """A graph cast to FP16 by our own code, strongly typed."""
    from calib import fp16 as casting

    need(hasattr(w.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"), "this version has no strong typing")
    source, cast = w.folder / "source.onnx", w.folder / "cast.onnx"
    source.write_bytes(models.cnn())
    casting.cast(source, cast)
    return _numbers(w, plan(w, cast.read_bytes(), typed=True), models.cnn(), "fp16")


def typed_with_a_flag(w: World) -> Dict[str, Any]:
    """Strong typing and the FP16 flag at once, which exclude each other."""
    need(hasattr(w.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"), "this version has no strong typing")
    need(compat.weakly_typed(w.trt), "this version has no FP16 flag")
    with raised() as found:
        found.append(str(plan(w, flags=["FP16"], typed=True) is not None))
    return {"plan": found}


def no_profile(w: World) -> Dict[str, Any]:
    """A free batch without a profile; and profiles that contradict themselves."""
    builder, made, parser, _ = network(w, models.cnn())
    built = builder.build_serialized_network(made, config(w, builder, batches=()))
    w.check("no plan without a profile", built is None)
    profile = builder.create_optimization_profile()
    settings = builder.create_builder_config()
    told = {
        "plan": built is not None,
        "empty profile": attempt(lambda: settings.add_optimization_profile(profile)),
        "least above most": attempt(
            lambda: profile.set_shape("x", (4, *models.SHAPE), (4, *models.SHAPE), (1, *models.SHAPE))
        ),
    }
    del parser
    return told


def _calibrator(w: World, kind: str, batch: Callable[[int], Any], cached: Optional[bytes] = None) -> Any:
    """A calibrator that notes its calls; `batch` fills the device's buffer with a batch, or gives None at the end."""
    memory = w.gpu.allocate(models.images(4).nbytes)
    stream = w.gpu.stream()

    class Calibrator(getattr(w.trt, CALIBRATORS[kind])):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: List[str] = []
            self.names: List[str] = []
            self.fed, self.cache = 0, b""

        def get_batch_size(self) -> int:
            self.calls.append("get_batch_size")
            return 4

        def get_batch(self, names: Any, *rest: Any) -> Any:
            self.calls.append("get_batch")
            self.names = [str(name) for name in names]
            pictures = batch(self.fed)
            if pictures is None:
                return None
            w.gpu.to_device(memory.address, pictures, stream)
            stream.synchronize()
            self.fed += 1
            return [memory.address]

        def read_calibration_cache(self, *rest: Any) -> Any:
            self.calls.append("read_calibration_cache")
            return cached

        def write_calibration_cache(self, cache: Any, *rest: Any) -> None:
            self.calls.append("write_calibration_cache")
            self.cache = bytes(cache)

    return Calibrator()


def _measured(w: World, kind: str, batch: Callable[[int], Any], cached: Optional[bytes] = None) -> Any:
    """A plan of INT8 by a calibrator (None where there is none), and the calibrator."""
    need(compat.has_calibrator(w.trt), "this version has no calibrator")
    calibrator = _calibrator(w, kind, batch, cached)

    def give(builder: Any, settings: Any) -> Any:
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(4, *models.SHAPE)] * 3)
        w.check("the calibration profile is taken", settings.set_calibration_profile(profile))
        settings.int8_calibrator = calibrator
        return profile

    return plan(w, flags=["INT8"], prepare=give), calibrator


def _order(calls: List[str]) -> List[str]:
    """Calls without repetitions that follow each other."""
    return [name for place, name in enumerate(calls) if not place or calls[place - 1] != name]


def _implicit(w: World, kind: str) -> Dict[str, Any]:
    def batch(number: int) -> Optional[np.ndarray]:
        return models.images(4) if number < CALIBRATION_BATCHES else None

    content, calibrator = _measured(w, kind, batch)
    w.check("every batch is fed", calibrator.fed == CALIBRATION_BATCHES)
    told = _numbers(w, content, models.cnn(), "measured")
    head, *rows = calibrator.cache.decode("ascii", "replace").splitlines() or [""]
    w.check("the cache has lines of 8 hex digits", rows and all(re.fullmatch(r".+: [0-9a-f]{8}", r) for r in rows))
    w.seen.update(calls=calibrator.calls, header=head, tensors=[row.rsplit(":", 1)[0] for row in rows])
    w.check("the input is in the cache", any(row.startswith("x: ") for row in rows))
    told.update(
        calls=_order(calibrator.calls),
        names=calibrator.names,
        batches=calibrator.calls.count("get_batch"),
        header=re.sub(r"^TRT-\d+-", "TRT-N-", head),
    )
    again, other = _measured(w, kind, batch, cached=calibrator.cache)
    w.check("a cache spares the feeding", again is not None and other.fed == 0)
    told["calls with a cache"] = _order(other.calls)
    return told


def int8_entropy(w: World) -> Dict[str, Any]:
    """INT8 by the entropy calibrator: callbacks, their order, the cache, and a second build from it."""
    return _implicit(w, "entropy")


def int8_minmax(w: World) -> Dict[str, Any]:
    """The same by the min-max calibrator."""
    return _implicit(w, "minmax")


def callback_raises(w: World) -> Dict[str, Any]:
    """An exception in the second `get_batch`: TensorRT swallows it, which is why our code keeps it."""

    def batch(number: int) -> Any:
        if number == 1:
            raise ValueError("in a callback")
        return models.images(4)

    with raised() as found:
        content, calibrator = _measured(w, "entropy", batch)
        w.seen["fed"] = calibrator.fed
        found.append("plan" if content is not None else "no plan")
    return {"outcome": found}


def no_batches(w: World) -> Dict[str, Any]:
    """A calibrator that has nothing at all."""
    with raised() as found:
        content, calibrator = _measured(w, "entropy", lambda number: None)
        w.check("it was asked once", calibrator.calls.count("get_batch") == 1)
        found.append("plan" if content is not None else "no plan")
    return {"outcome": found}


def no_calibrator(w: World) -> Dict[str, Any]:
    """INT8 with neither a calibrator nor Q/DQ pairs."""
    need(compat.weakly_typed(w.trt), "this version has no INT8 flag")
    content = plan(w, flags=["INT8"])
    return {"plan": content is not None, "warned": any(severity == "WARNING" for severity, _ in w.log.lines)}


def calibrator_without_init(w: World) -> Dict[str, Any]:
    """A calibrator whose `__init__` forgets its base."""
    need(compat.has_calibrator(w.trt), "this version has no calibrator")

    class Forgets(w.trt.IInt8EntropyCalibrator2):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            pass

    return {"outcome": attempt(Forgets)}


def timing_cache(w: World) -> Dict[str, Any]:
    """A timing cache there and back; a damaged one."""
    kept: List[bytes] = []

    def build(content: bytes) -> Any:
        def give(builder: Any, settings: Any) -> Any:
            cache = settings.create_timing_cache(content)
            w.check("a cache is made", cache is not None)
            w.check("it is taken", settings.set_timing_cache(cache, False))
            held.append(settings)
            return cache

        held: List[Any] = []
        built = plan(w, prepare=give)
        filled = held[0].get_timing_cache()
        memory = filled.serialize()
        kept.append(bytes(memory))
        fresh = held[0].create_timing_cache(b"")
        return built is not None, bool(fresh.combine(filled, False))

    first, second = build(b""), None
    second = build(kept[0])
    w.check("both builds give a plan", first[0] and second[0])
    w.check("caches combine", first[1] and second[1])
    w.check("it has something in it", len(kept[0]) > 0)
    w.seen["bytes"] = [len(one) for one in kept]
    settings = w.trt.Builder(w.log).create_builder_config()
    damaged = b"no cache" + kept[0][8:]
    return {"damaged": attempt(lambda: settings.create_timing_cache(damaged))}


def progress(w: World) -> Dict[str, Any]:
    """The progress monitor: every phase that begins ends; a step that answers False stops the build."""
    need(hasattr(w.trt, "IProgressMonitor"), "this version has no progress monitor")
    events: List[Any] = []
    go_on = [True]

    class Monitor(w.trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            events.append(("start", phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            events.append(("step", phase_name, step))
            return go_on[0]

        def phase_finish(self, phase_name: str) -> None:
            events.append(("finish", phase_name))

    def give(builder: Any, settings: Any) -> Any:
        settings.progress_monitor = monitor
        return monitor

    monitor = Monitor()
    w.check("a plan is built", plan(w, prepare=give) is not None)
    starts, finishes = ([event[1] for event in events if event[0] == kind] for kind in ("start", "finish"))
    w.check("phases are told", len(starts) > 0)
    w.check("every phase that begins ends", sorted(starts) == sorted(finishes))
    w.check("steps are told", any(event[0] == "step" for event in events))
    known = {event[1]: event[3] for event in events if event[0] == "start"}
    w.check("no step is beyond its phase", all(e[2] < max(known[e[1]], 1) for e in events if e[0] == "step"))
    w.seen["phases"] = [[name, known[name]] for name in dict.fromkeys(starts)]
    go_on[0] = False
    stopped = plan(w, prepare=give)
    return {"roots": sum(e[0] == "start" and not e[2] for e in events) > 0, "stopped": stopped is None}


CASES = [
    Case("build.fp32", fp32, "tensorrt"),
    Case("build.fp16", fp16, "tensorrt"),
    Case("build.int8_explicit", int8_explicit, "tensorrt"),
    Case("build.int8_entropy", int8_entropy, "tensorrt"),
    Case("build.int8_minmax", int8_minmax, "tensorrt"),
    Case("build.callback_raises", callback_raises, "tensorrt"),
    Case("build.no_batches", no_batches, "tensorrt"),
    Case("build.no_calibrator", no_calibrator, "tensorrt"),
    Case("build.calibrator_without_init", calibrator_without_init, "tensorrt"),
    Case("build.typed_fp16", typed_fp16, "tensorrt"),
    Case("build.typed_with_a_flag", typed_with_a_flag, "tensorrt"),
    Case("build.no_profile", no_profile, "tensorrt"),
    Case("build.timing_cache", timing_cache, "tensorrt"),
    Case("build.progress", progress, "tensorrt"),
]
"""In the order in which they run."""
