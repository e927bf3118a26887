"""What our code relies on of TensorRT's runtime, as cases: plans, shapes, addresses, profiles, inspector, profiler."""

from __future__ import annotations

import json
import threading
from typing import Any, Dict, List

import numpy as np

from tests.device import models
from tests.device.steps import Execution, close, engine, plan
from tests.device.world import Case, World, attempt, bytes_free, need, raised, word


def io(w: World) -> Dict[str, Any]:
    """Inputs and outputs of an engine: names, modes, types, shapes, profiles."""
    made = engine(w, plan(w))
    names = [made.get_tensor_name(index) for index in range(made.num_io_tensors)]
    tensors = [
        {
            "name": str(name),
            "mode": word(made.get_tensor_mode(name)),
            "type": word(made.get_tensor_dtype(name)),
            "shape": [int(size) for size in made.get_tensor_shape(name)],
            "location": word(made.get_tensor_location(name)),
        }
        for name in names
    ]
    profiles = [
        [[int(size) for size in shape] for shape in made.get_tensor_profile_shape("x", index)]
        for index in range(made.num_optimization_profiles)
    ]
    for name in ("device_memory_size", "device_memory_size_v2"):
        w.seen[name] = int(getattr(made, name)) if hasattr(made, name) else None
    w.check("layers are counted", made.num_layers > 0)
    return {"tensors": tensors, "profiles": profiles, "unknown tensor": attempt(lambda: made.get_tensor_name(99))}


def fixed_shape(w: World) -> Dict[str, Any]:
    """A graph without a free size: no profile is asked for."""
    made = engine(w, plan(w, models.fixed(), batches=()))
    w.check("the plan is read", made is not None)
    return {"shape": [int(size) for size in made.get_tensor_shape("x")], "profiles": made.num_optimization_profiles}


def bad_plans(w: World) -> Dict[str, Any]:
    """Plans cut short, emptied, and with another first byte: our code refuses them by hash before it comes to this."""
    content = bytes(plan(w))
    spoiled = {
        "half": content[: len(content) // 2],
        "a few bytes": content[:16],
        "empty": b"",
        "garbage": b"this is no plan " * 64,
        "first byte flipped": bytes([content[0] ^ 0xFF]) + content[1:],
    }
    told = {}
    for name, one in spoiled.items():
        with raised() as found:
            found.append("engine" if engine(w, one) is not None else "None")
        told[name] = found
    return told


def flipped_byte(w: World) -> Dict[str, Any]:
    """One byte of the plan's middle flipped: whether TensorRT notices. It may also end the process."""
    content = bytearray(plan(w))
    content[len(content) // 2] ^= 0xFF
    with raised() as found:
        found.append("engine" if engine(w, bytes(content)) is not None else "None")
    return {"outcome": found}


def shapes(w: World) -> Dict[str, Any]:
    """Shapes outside the profile, of another rank, of no such tensor, of an output: False, and an error in the log."""
    made = engine(w, plan(w))
    context = made.create_execution_context()
    execution = Execution(w, context, 1).prepare(0)
    told = {
        "outside": attempt(lambda: context.set_input_shape("x", (2, *models.SHAPE))),
        "another rank": attempt(lambda: context.set_input_shape("x", (1, 3, 8))),
        "another size": attempt(lambda: context.set_input_shape("x", (1, 3, 9, 8))),
        "no such tensor": attempt(lambda: context.set_input_shape("z", (1, *models.SHAPE))),
        "an output": attempt(lambda: context.set_input_shape("y", (1, 10))),
        "a list": attempt(lambda: context.set_input_shape("x", [1, *models.SHAPE])),
    }
    w.check("a shape outside the profile is refused", told["outside"] is False)
    w.check("and logged", any(severity == "ERROR" for severity, _ in w.log.lines))
    told["output"] = [int(size) for size in context.get_tensor_shape("y")]
    pictures = models.images(1)
    close(w, "after refusals it", execution.run(pictures), models.expected(models.cnn(), pictures), "fp32")
    execution.free()
    return told


def unset(w: World) -> Dict[str, Any]:
    """Execution without a shape, and without addresses."""
    made = engine(w, plan(w))
    context = made.create_execution_context()
    stream = w.gpu.stream()
    w.check("profile 1 is chosen", context.set_optimization_profile_async(1, stream.handle))
    stream.synchronize()
    told = {"missing shapes": [str(name) for name in context.infer_shapes()]}
    memory = w.gpu.allocate(1 << 14)
    for name in ("x", "y"):
        context.set_tensor_address(name, memory.address)
    told["without a shape"] = attempt(lambda: context.execute_async_v3(stream.handle))
    other = made.create_execution_context()
    w.check("profile 0 is chosen", other.set_optimization_profile_async(0, stream.handle))
    stream.synchronize()
    other.set_input_shape("x", (1, *models.SHAPE))
    told["without addresses"] = attempt(lambda: other.execute_async_v3(stream.handle))
    told["address of no such tensor"] = attempt(lambda: other.set_tensor_address("z", memory.address))
    told["an address as text"] = attempt(lambda: other.set_tensor_address("x", str(memory.address)))
    stream.synchronize()
    w.check("execution without a shape is refused", told["without a shape"] is False)
    w.check("execution without addresses is refused", told["without addresses"] is False)
    return told


def profiles(w: World) -> Dict[str, Any]:
    """One context switches between profiles; a profile that there is not; two contexts on one profile."""
    made, model = engine(w, plan(w)), models.cnn()
    context = made.create_execution_context()
    for profile in (0, 1, 0):
        batch = models.BATCHES[profile]
        execution, pictures = Execution(w, context, batch).prepare(profile), models.images(batch)
        close(w, f"profile {profile}", execution.run(pictures), models.expected(model, pictures), "fp32")
        execution.free()
    stream = w.gpu.stream()
    told = {
        "no such profile": attempt(lambda: context.set_optimization_profile_async(9, stream.handle)),
        "negative": attempt(lambda: context.set_optimization_profile_async(-1, stream.handle)),
    }
    second = made.create_execution_context()
    told["two contexts on one profile"] = attempt(lambda: second.set_optimization_profile_async(0, stream.handle))
    stream.synchronize()
    return told


def graph(w: World) -> Dict[str, Any]:
    """A captured execution, replayed with other data."""
    made, model = engine(w, plan(w)), models.cnn()
    execution = Execution(w, made.create_execution_context(), 4).prepare(1)
    execution.run(models.images(4))
    captured = w.gpu.capture(execution.stream, lambda: w.check("it is captured", execution.enqueue()))
    for step in range(1, 4):
        pictures = models.images(4) * step / 4
        execution.source.array[...] = pictures
        captured.launch(execution.stream)
        execution.stream.synchronize()
        close(w, f"replay {step}", execution.target.array, models.expected(model, pictures), "fp32")
    captured.free()
    execution.free()
    return {}


def zero_copy(w: World) -> Dict[str, Any]:
    """Inputs and outputs in page-locked memory that the GPU reads and writes in place."""
    made, pictures = engine(w, plan(w)), models.images(4)
    execution = Execution(w, made.create_execution_context(), 4, zero_copy=True).prepare(1)
    close(w, "zero-copy", execution.run(pictures), models.expected(models.cnn(), pictures), "fp32")
    execution.free()
    return {}


def threads(w: World) -> Dict[str, Any]:
    """A thread for each profile, each with a context of its own, at the same time."""
    made, model = engine(w, plan(w)), models.cnn()
    found: List[Any] = []

    def serve(profile: int) -> None:
        with w.gpu.current(), raised() as failed:
            batch = models.BATCHES[profile]
            execution = Execution(w, made.create_execution_context(), batch).prepare(profile)
            pictures = models.images(batch)
            for _ in range(20):
                found.append((batch, execution.run(pictures)))
            execution.free()
        wrong.extend(failed)

    wrong: List[str] = []
    running = [threading.Thread(target=serve, args=(profile,)) for profile in (0, 1)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    w.check("all answers came", len(found) == 40 and not wrong)
    for batch, output in found:
        close(w, f"batch {batch}", output, models.expected(model, models.images(batch)), "fp32")
    return {}


def _layers(w: World, verbosity: str) -> Any:
    def give(builder: Any, settings: Any) -> None:
        settings.profiling_verbosity = getattr(w.trt.ProfilingVerbosity, verbosity)

    made = engine(w, plan(w, prepare=give))
    text = made.create_engine_inspector().get_engine_information(w.trt.LayerInformationFormat.JSON)
    return json.loads(text)


def inspector(w: World) -> Dict[str, Any]:
    """The inspector's JSON, which our precision counts are read from: its keys, with and without detail."""
    from engines.tensorrt import layers

    detailed, names = _layers(w, "DETAILED"), _layers(w, "LAYER_NAMES_ONLY")
    rows = [one for one in detailed["Layers"] if isinstance(one, dict)]
    w.check("detail gives objects", rows and len(rows) == len(detailed["Layers"]))
    w.check("every layer has a name and inputs or outputs", all("Name" in one and "Outputs" in one for one in rows))
    tensors = [tensor for one in rows for tensor in [*one.get("Inputs", []), *one.get("Outputs", [])]]
    read = layers.read(json.dumps(detailed))
    w.check("our code finds a precision in each computing layer", all(one["precision"] for one in read["layers"]))
    w.check("and there is one", read["layers"])
    w.seen.update(layers=rows[:4], layer_keys=sorted({key for one in rows for key in one}), read=read)
    return {
        "top": sorted(detailed),
        "tensor": sorted({key for tensor in tensors for key in tensor}),
        "without detail": sorted({type(one).__name__ for one in names["Layers"]}),
    }


def profiler(w: World) -> Dict[str, Any]:
    """IProfiler: each layer is reported for each execution; reported later where that is asked for."""
    calls: List[str] = []

    class Times(w.trt.IProfiler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            calls.append(layer_name)
            w.check("a time is no less than 0", ms >= 0)

    times = Times()
    made = engine(w, plan(w))
    context = made.create_execution_context()
    execution = Execution(w, context, 1).prepare(0)
    context.profiler = times
    for _ in range(2):
        execution.run(models.images(1))
    once = len(calls) // 2
    w.check("each layer is told", once > 0)
    w.check("twice the same", calls[:once] == calls[once:])
    w.seen.update(told=once, layers=int(made.num_layers), names=calls[:once])
    need(hasattr(context, "enqueue_emits_profile"), "profiles are always reported at once")
    context.enqueue_emits_profile = False
    calls.clear()
    execution.run(models.images(1))
    waiting = len(calls)
    reported = attempt(context.report_to_profiler)
    w.check("then they come when asked for", waiting == 0 and reported is True and len(calls) == once)
    execution.free()
    return {"reported": reported}


def memory(w: World) -> Dict[str, Any]:
    """Building, running and closing five times leaves no more memory taken than doing it once."""

    def once() -> None:
        made = engine(w, content)
        execution = Execution(w, made.create_execution_context(), 4).prepare(1)
        execution.run(np.zeros((4, *models.SHAPE), np.float32))
        execution.free()

    content = plan(w)
    once()
    before = bytes_free(w.gpu) or 0
    for _ in range(5):
        once()
    after = bytes_free(w.gpu) or 0
    w.seen.update(before=before, after=after)
    w.check("memory comes back", before - after < 32 << 20)
    return {}


CASES = [
    Case("run.io", io, "tensorrt"),
    Case("run.fixed_shape", fixed_shape, "tensorrt"),
    Case("run.shapes", shapes, "tensorrt"),
    Case("run.unset", unset, "tensorrt"),
    Case("run.profiles", profiles, "tensorrt"),
    Case("run.graph", graph, "tensorrt"),
    Case("run.zero_copy", zero_copy, "tensorrt"),
    Case("run.threads", threads, "tensorrt"),
    Case("run.inspector", inspector, "tensorrt"),
    Case("run.profiler", profiler, "tensorrt"),
    Case("run.memory", memory, "tensorrt"),
    Case("run.bad_plans", bad_plans, "tensorrt"),
    Case("run.flipped_byte", flipped_byte, "tensorrt"),
]
"""In the order in which they run; what may end the process comes last."""
