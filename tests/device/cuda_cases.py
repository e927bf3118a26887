"""What our code relies on of CUDA, as cases: context, buffers, streams, events, graphs, a kernel, threads, the loop."""

from __future__ import annotations

import threading
import time
from typing import Any, Dict, List

import numpy as np

from bench import spans
from engines.cuda import Context, CudaError
from engines.tensorrt.slots import Slot
from tests.device import overhead
from tests.device.kernel import VectorAdd, Work
from tests.device.world import Absent, Case, World, bytes_free, raised

COUNT = 4096


def context(w: World) -> Dict[str, Any]:
    """What a context tells, that it nests, and that its pop leaves nothing current."""
    with Context(0) as gpu:
        major, _, minor = gpu.compute_capability.partition(".")
        w.check("compute capability is two numbers", major.isdigit() and minor.isdigit())
        w.check("memory is told", 0 < gpu.memory()[0] <= gpu.memory()[1])
        w.seen.update(name=gpu.name, compute_capability=gpu.compute_capability, integrated=gpu.integrated)
        w.seen.update(total_bytes=gpu.total_bytes, free_bytes=gpu.memory()[0])
        with Context(0) as second:
            inner = second.allocate(16)
            inner.free()
        w.check("the outer context works on", gpu.allocate(16).address)
    with raised() as closed:
        gpu.memory()
    with Context(0) as again:
        w.check("it opens again after the last one was given up", again.allocate(16).address)
    return {"closed": closed}


def buffers(w: World) -> Dict[str, Any]:
    """Bytes there and back, of several types and sizes; what does not fit and what was freed is refused."""
    stream, same = w.gpu.stream(), []
    for dtype, shape in (("float32", (3, 5)), ("float16", (7,)), ("int8", (2, 2, 2)), ("int64", (1,)), ("bool", (9,))):
        values = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
        source, target = w.gpu.host(shape, dtype), w.gpu.host(shape, dtype)
        source.array[...] = values
        memory = w.gpu.allocate(values.nbytes)
        w.gpu.to_device(memory.address, source.array, stream)
        w.gpu.to_host(target.array, memory.address, stream)
        stream.synchronize()
        same.append(bool(np.array_equal(target.array, values)))
        memory.free()
        memory.free()
    w.check("copies there and back are equal", all(same))
    small = w.gpu.allocate(4)
    with raised() as large:
        w.gpu.to_device(small.address, source.array.repeat(64), stream)
    small.free()
    with raised() as freed:
        small.address  # noqa: B018  (the property itself is what raises)
    with raised() as much:
        w.gpu.allocate(1 << 60)
    w.check("an ordinary allocation works after one that failed", w.gpu.allocate(1 << 20).address)
    return {"copies": same, "too large": large, "freed": freed, "out of memory": much}


def memory_comes_back(w: World) -> Dict[str, Any]:
    """What a context allocated is free again after it is closed."""
    with Context(0) as gpu:
        before = bytes_free(gpu) or 0
        with Context(0) as inner:
            for _ in range(4):
                inner.allocate(32 << 20)
            during = bytes_free(inner) or 0
        after = bytes_free(gpu) or 0
    w.seen.update(before=before, during=during, after=after)
    w.check("128 MiB are taken", before - during >= 96 << 20)
    w.check("and given back", before - after < 64 << 20)
    return {}


def streams_and_events(w: World) -> Dict[str, Any]:
    """A stream waits for another's event; times run forward; an event that never happened has no time."""
    first, second = w.gpu.stream(), w.gpu.stream()
    begun, middle, ended = w.gpu.event(), w.gpu.event(blocking=True), w.gpu.event()
    source, target = w.gpu.host(COUNT, np.float32), w.gpu.host(COUNT, np.float32)
    source.array[:] = np.arange(COUNT)
    memory = w.gpu.allocate(source.array.nbytes)
    begun.record(first)
    w.gpu.to_device(memory.address, source.array, first)
    middle.record(first)
    second.wait(middle)
    w.gpu.to_host(target.array, memory.address, second)
    ended.record(second)
    ended.synchronize()
    w.check("the second stream saw what the first one copied", np.array_equal(target.array, source.array))
    parts = middle.milliseconds_since(begun), ended.milliseconds_since(middle), ended.milliseconds_since(begun)
    w.check("times run forward", parts[0] >= 0 and parts[1] >= 0)
    w.check("times add up", abs(parts[0] + parts[1] - parts[2]) < 0.01)
    w.seen["ms"] = [round(part, 4) for part in parts]
    with raised() as never:
        w.gpu.event().milliseconds_since(begun)
    return {"never recorded": never}


def graph(w: World) -> Dict[str, Any]:
    """A captured round of copies does nothing until it is launched, and sees new data at each launch."""
    stream, work = w.gpu.stream(), Work(w.gpu, COUNT)

    def enqueue() -> None:
        work.copy_in(stream)
        work.execute(stream)
        work.copy_out(stream)

    enqueue()
    stream.synchronize()
    work.total.array[:] = -1
    captured = w.gpu.capture(stream, enqueue)
    stream.synchronize()
    w.check("capturing runs nothing", (work.total.array == -1).all())
    for value in (3.0, 5.0):
        work.left.array[:] = value
        captured.launch(stream)
        stream.synchronize()
        w.check("each launch sees the data of now", work.right_result())
    captured.free()
    with raised() as freed:
        captured.launch(stream)
    return {"freed": freed}


def graph_refused(w: World) -> Dict[str, Any]:
    """What cannot be captured is refused, and the stream works on."""
    stream, work = w.gpu.stream(), Work(w.gpu, COUNT)
    with raised() as waits:
        w.gpu.capture(stream, stream.synchronize)
    work.copy_in(stream)
    work.execute(stream)
    work.copy_out(stream)
    stream.synchronize()
    w.check("the stream works on", work.right_result())

    def fails() -> None:
        raise ZeroDivisionError("in the work that is captured")

    with raised() as own:
        w.gpu.capture(stream, fails)
    return {"a wait": waits, "an exception of ours": own}


def zero_copy(w: World) -> Dict[str, Any]:
    """Page-locked memory that the device reads and writes in place."""
    stream = w.gpu.stream()
    source, target = (w.gpu.host(COUNT, np.float32, zero_copy=True) for _ in range(2))
    source.array[:] = np.arange(COUNT)
    target.array[:] = 0
    memory = w.gpu.allocate(source.array.nbytes)
    one = Work(w.gpu, COUNT)
    one._addresses = [source.address, memory.address, target.address]
    one.execute(stream)
    stream.synchronize()
    w.check("the device wrote what it read", np.array_equal(target.array, source.array))
    w.check("plain page-locked memory has no device address", w.gpu.host(1, np.float32).address == 0)
    return {}


def kernel(w: World) -> Dict[str, Any]:
    """A kernel of our own: its result, in memory of the device and of the host."""
    stream = w.gpu.stream()
    with VectorAdd() as add:
        for count in (1, 127, COUNT + 1):
            work = Work(w.gpu, count, add)
            work.copy_in(stream)
            work.execute(stream)
            work.copy_out(stream)
            stream.synchronize()
            w.check(f"{count} values are added", work.right_result())
        ends = [w.gpu.host(COUNT, np.float32, zero_copy=True) for _ in range(3)]
        for number, end in enumerate(ends):
            end.array[:] = np.arange(COUNT) * (number + 1)
        add.launch(*[end.address for end in ends], COUNT, stream)
        stream.synchronize()
        w.check("zero-copy memory is added in place", np.array_equal(ends[2].array, 3.0 * np.arange(COUNT)))
    return {}


def kernel_graph(w: World) -> Dict[str, Any]:
    """A graph around the kernel: 100 launches of it give the sum each time."""
    stream = w.gpu.stream()
    with VectorAdd() as add:
        work = Work(w.gpu, COUNT, add)

        def enqueue() -> None:
            work.copy_in(stream)
            work.execute(stream)
            work.copy_out(stream)

        enqueue()
        stream.synchronize()
        captured = w.gpu.capture(stream, enqueue)
        for value in range(100):
            work.left.array[:] = value
            captured.launch(stream)
            stream.synchronize()
            w.check("each launch adds the data of now", work.right_result())
        captured.free()
    return {}


def threads(w: World) -> Dict[str, Any]:
    """Two threads with a stream each; one that does not enter the context is told so."""
    results: List[bool] = []
    failed: List[str] = []

    def work_there(value: float) -> None:
        try:
            with w.gpu.current():
                stream, work = w.gpu.stream(), Work(w.gpu, COUNT)
                for step in range(50):
                    work.left.array[:] = value + step
                    work.copy_in(stream)
                    work.execute(stream)
                    work.copy_out(stream)
                    stream.synchronize()
                    results.append(work.right_result())
        except CudaError as error:
            failed.append(type(error).__name__)

    def outside() -> None:
        with raised() as found:
            w.gpu.allocate(16)
        told.extend(found)

    told: List[str] = []
    running = [threading.Thread(target=work_there, args=(value,)) for value in (1.0, 1000.0)]
    running.append(threading.Thread(target=outside))
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    w.check("both threads got their own numbers", len(results) == 100 and all(results) and not failed)
    return {"without entering the context": told}


def loop(w: World) -> Dict[str, Any]:
    """trtexec's loop around the kernel (or a copy): its spans follow each other, with and without transfers."""
    try:
        add: Any = VectorAdd()
    except Absent:
        add = None
    work = Work(w.gpu, COUNT, add)
    streams = (w.gpu.stream(), w.gpu.stream(), w.gpu.stream())
    for transfers in (True, False):
        slots = [Slot(w.gpu, work, streams, transfers, None, False) for _ in range(2)]  # type: ignore[arg-type]
        how = {"transfers": transfers, "slots": 2}
        begun = time.perf_counter()
        trace = spans.measure(slots, 1, warmup_ms=20, duration_s=0.2, how=how)
        seconds = time.perf_counter() - begun
        found = spans.summary(trace)
        steps = np.diff(trace.spans, axis=1)
        w.check("no span is negative", (trace.spans >= 0).all() and (steps >= -1e-3).all())
        w.check("spans lie within the time that passed", trace.spans.max() / 1e3 <= seconds + 0.01)
        w.check("the result is right", work.right_result())
        parts = ("queries", "compute_ms", "enqueue_ms", "variation_percent", "warnings")
        w.seen["with copies" if transfers else "alone"] = {name: found[name] for name in parts}
    w.gpu.synchronize()
    if add is not None:
        add.__exit__()
    w.seen["kernel"] = add is not None
    return {}


def loop_overhead(w: World) -> Dict[str, Any]:
    """Our loop's time for each query against the same loop in C++, in turns: only told, never judged."""
    program, why = overhead.program(w.folder)
    if program is None:
        raise Absent(why)
    with Context(0) as gpu:
        w.seen.update(overhead.compare(gpu, program, w.folder, pairs=3, seconds=0.3))
    w.check("both loops compute the same", w.seen["right"])
    return {}


CASES = [
    Case("cuda.context", context, "cuda", own=True),
    Case("cuda.buffers", buffers, "cuda"),
    Case("cuda.memory", memory_comes_back, "cuda", own=True),
    Case("cuda.streams", streams_and_events, "cuda"),
    Case("cuda.graph", graph, "cuda"),
    Case("cuda.graph_refused", graph_refused, "cuda"),
    Case("cuda.zero_copy", zero_copy, "cuda"),
    Case("cuda.kernel", kernel, "cuda"),
    Case("cuda.kernel_graph", kernel_graph, "cuda"),
    Case("cuda.threads", threads, "cuda"),
    Case("cuda.loop", loop, "cuda"),
    Case("cuda.loop_overhead", loop_overhead, "cuda", own=True),
]
"""In the order in which they run."""
