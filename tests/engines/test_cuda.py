"""Real pycuda on the tests' own driver: what runs only when waited for, what is freed, what is refused."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

from engines import cuda
from engines.cudaerrors import library
from engines.errors import IncompatibleError, OptimizeError

ROOT = Path(__file__).resolve().parents[2]
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
LEDGER = (
    "live_allocations",
    "live_host",
    "live_streams",
    "live_events",
    "live_graphs",
    "live_graph_executables",
    "live_contexts",
    "pushed_contexts",
    "faults",
)


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_build", ROOT / "tests" / "doubles" / "cuda" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def double() -> Any:
    """The tests' driver, loaded before pycuda: whoever asks for libcuda.so.1 from here on gets it."""
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed here: make setup TRT=1")
    build = _build()
    if not build.path().is_file():
        pytest.skip("the driver for tests is not compiled: make setup TRT=1")
    lib = ctypes.CDLL(str(build.library()), mode=ctypes.RTLD_GLOBAL)
    if not hasattr(library(), "fakecuda_reset"):
        pytest.skip("a real driver is loaded in this process")
    lib.fakecuda_enqueue_host.argtypes = [ctypes.c_void_p, CALLBACK, ctypes.c_void_p]
    for name in ("live_bytes", "peak_bytes", "allocation_attempts", "pending", "faults", "live_host"):
        getattr(lib, f"fakecuda_{name}").restype = ctypes.c_longlong
    lib.fakecuda_set_oom.argtypes = [ctypes.c_longlong, ctypes.c_longlong]
    return lib


def ledger(lib: Any) -> List[str]:
    """What is still there, by name; empty where everything was given back."""
    return [name for name in LEDGER if getattr(lib, f"fakecuda_{name}")() != 0]


@pytest.fixture
def fake(double: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A driver that knows nothing yet; at the end nothing may be left in it."""
    for name in [name for name in os.environ if name.startswith("FAKECUDA_")]:
        monkeypatch.delenv(name)
    double.fakecuda_reset()
    yield double
    left = ledger(double)
    double.fakecuda_reset()
    assert left == []


@pytest.fixture
def gpu(fake: Any) -> Iterator[cuda.Context]:
    with cuda.Context(0) as context:
        yield context


def enqueue(lib: Any, stream: cuda.Stream, work: Callable[[], None], keep: List[Any]) -> int:
    """Queue a Python function as a kernel would be; `keep` holds what must outlive it."""
    callback = CALLBACK(lambda _: work())
    keep.append(callback)
    return int(lib.fakecuda_enqueue_host(stream.handle, callback, None))


def on_device(buffer: cuda.Allocation, count: int) -> np.ndarray:
    """The memory of the double's device, as a kernel sees it."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(buffer.address))


pytestmark = pytest.mark.tensorrt


def test_it_says_what_the_gpu_is(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECUDA_NAME", "Thor")
    monkeypatch.setenv("FAKECUDA_CC", "11.0")
    monkeypatch.setenv("FAKECUDA_INTEGRATED", "0")
    monkeypatch.setenv("FAKECUDA_TOTAL_BYTES", "1000000")
    fake.fakecuda_configure()
    with cuda.Context(0) as gpu:
        assert (gpu.name, gpu.compute_capability, gpu.integrated, gpu.total_bytes) == ("Thor", "11.0", False, 1000000)
        assert gpu.memory() == (1000000, 1000000)
        with_buffer = gpu.allocate(400000)
        assert gpu.memory() == (600000, 1000000)
        with_buffer.free()
        assert gpu.memory() == (1000000, 1000000)
    assert cuda.unavailable() == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.bool_, np.int64, np.dtype([("a", "f4")])])
def test_a_round_trip_keeps_the_bytes(gpu: cuda.Context, dtype: Any) -> None:
    source, target = gpu.host((3, 5), dtype), gpu.host([3, 5], dtype)
    source.array.view(np.uint8)[:] = np.arange(source.array.nbytes).reshape(3, -1) % 2
    buffer, stream = gpu.allocate(source.array.nbytes), gpu.stream()
    gpu.to_device(buffer.address, source.array, stream)
    gpu.to_host(target.array, buffer.address, stream)
    stream.synchronize()
    assert target.array.dtype == np.dtype(dtype)
    assert target.array.tobytes() == source.array.tobytes()


@pytest.mark.parametrize("shape", [(), 0, (0, 3), 7, np.int64(2)])
def test_any_shape_can_be_page_locked(gpu: cuda.Context, shape: Any) -> None:
    assert gpu.host(shape, np.float32).array.shape == np.empty(shape).shape


def test_nothing_happens_before_somebody_waits(gpu: cuda.Context, fake: Any) -> None:
    source, target = gpu.host(4, np.float32), gpu.host(4, np.float32)
    source.array[:] = [1, 2, 3, 4]
    buffer, stream = gpu.allocate(16), gpu.stream()
    assert np.isnan(on_device(buffer, 4)).all()
    gpu.to_device(buffer.address, source.array, stream)
    gpu.to_host(target.array, buffer.address, stream)
    assert fake.fakecuda_pending() == 2
    assert np.isnan(target.array).all()  # what a missing synchronize would have given
    stream.synchronize()
    assert target.array.tolist() == [1, 2, 3, 4]


def test_a_page_locked_source_is_read_when_the_copy_runs_and_a_pageable_one_at_once(gpu: cuda.Context) -> None:
    for source, seen in ((gpu.host(2, np.float32).array, 9), (np.empty(2, np.float32), 1)):
        buffer, stream, target = gpu.allocate(8), gpu.stream(), gpu.host(2, np.float32)
        source[:] = 1
        gpu.to_device(buffer.address, source, stream)
        source[:] = 9
        gpu.to_host(target.array, buffer.address, stream)
        stream.synchronize()
        assert target.array.tolist() == [seen, seen]


@pytest.mark.parametrize("waits", [True, False])
def test_a_stream_sees_another_ones_work_only_if_it_waits_for_it(gpu: cuda.Context, waits: bool) -> None:
    source, target = gpu.host(2, np.float32), gpu.host(2, np.float32)
    source.array[:] = 5
    buffer, first, second, done = gpu.allocate(8), gpu.stream(), gpu.stream(), gpu.event()
    gpu.to_device(buffer.address, source.array, first)
    done.record(first)
    if waits:
        second.wait(done)
    gpu.to_host(target.array, buffer.address, second)
    second.synchronize()
    assert (target.array.tolist() == [5, 5]) is waits


def test_events_take_the_time_at_which_the_work_runs(gpu: cuda.Context, fake: Any) -> None:
    keep: List[Any] = []
    stream, begin, end = gpu.stream(), gpu.event(), gpu.event(blocking=True)
    begin.record(stream)
    assert enqueue(fake, stream, lambda: threading.Event().wait(0.005), keep) == 0
    end.record(stream)
    with pytest.raises(cuda.CudaError, match="synchronize first"):
        end.milliseconds_since(begin)
    end.synchronize()
    assert end.milliseconds_since(begin) >= 5
    with pytest.raises(cuda.CudaError):
        end.milliseconds_since(gpu.event())


def test_blocking_is_what_the_driver_is_told(gpu: cuda.Context, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: List[int] = []
    make = gpu.driver.Event
    monkeypatch.setattr(gpu.driver, "Event", lambda flags: (seen.append(int(flags)), make(flags))[1])
    gpu.event()
    gpu.event(blocking=True)
    assert seen == [0, 1]


def test_zero_copy_memory_has_an_address_for_the_device(gpu: cuda.Context, fake: Any) -> None:
    plain, mapped = gpu.host(4, np.float32), gpu.host(4, np.float32, zero_copy=True)
    assert plain.address == 0
    fake.fakecuda_device_range.argtypes = [ctypes.c_ulonglong, ctypes.c_size_t]
    assert fake.fakecuda_device_range(mapped.address, 16) == 1
    assert fake.fakecuda_device_range(plain.array.ctypes.data, 16) == 0


def test_a_worker_makes_the_context_current_for_itself(gpu: cuda.Context, fake: Any) -> None:
    results: List[Any] = []

    def work() -> None:
        try:
            gpu.allocate(4)
        except cuda.CudaError as error:
            results.append(error)
        with gpu.current(), gpu.current():
            stream, host, back, buffer = (
                gpu.stream(),
                gpu.host(3, np.float32),
                gpu.host(3, np.float32),
                gpu.allocate(12),
            )
            host.array[:] = 2
            gpu.to_device(buffer.address, host.array, stream)
            gpu.to_host(back.array, buffer.address, stream)
            stream.synchronize()
            results.append(back.array.tolist())
        results.append(fake.fakecuda_context_depth())
        stream.free()  # outside: it makes it current by itself

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    errors = [one for one in results if isinstance(one, cuda.CudaError)]
    assert len(errors) == 3
    assert all("gpu.current()" in str(error) for error in errors)
    assert [one for one in results if isinstance(one, list)] == [[2, 2, 2]] * 3
    assert [one for one in results if isinstance(one, int)] == [0] * 3


def test_waiting_lets_other_threads_run(gpu: cuda.Context, fake: Any) -> None:
    """The work itself needs the interpreter: it would hang if waiting held it."""
    keep: List[Any] = []
    go, stream = threading.Event(), gpu.stream()
    assert enqueue(fake, stream, lambda: go.wait(30), keep) == 0
    threading.Timer(0.01, go.set).start()
    stream.synchronize()
    assert go.is_set()


def test_only_the_opening_thread_can_close(fake: Any) -> None:
    refused: List[BaseException] = []

    def close(gpu: cuda.Context) -> None:
        try:
            gpu.close()
        except cuda.CudaError as error:
            refused.append(error)

    with cuda.Context(0) as gpu:
        worker = threading.Thread(target=close, args=(gpu,))
        worker.start()
        worker.join()
        gpu.synchronize()
    assert "thread that opened it" in str(refused[0])


def test_everything_is_freed_after_an_exception(fake: Any) -> None:
    with pytest.raises(ZeroDivisionError), cuda.Context(0) as gpu:
        gpu.allocate(100)
        gpu.host(10, np.int8)
        gpu.stream()
        gpu.event()
        raise ZeroDivisionError
    assert ledger(fake) == []


@pytest.mark.parametrize("nth", range(1, 7))
def test_running_out_of_memory_at_any_allocation_leaks_nothing(fake: Any, nth: int) -> None:
    with pytest.raises(cuda.CudaMemoryError, match="out of memory") as raised, cuda.Context(0) as gpu:
        fake.fakecuda_set_oom(nth, -1)
        for _ in range(3):
            gpu.allocate(64)
            gpu.host(8, np.float32, zero_copy=True)
    assert "--batch" in raised.value.hint
    assert raised.value.exit_code == 1
    assert ledger(fake) == []


def test_running_out_of_the_memory_there_is(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECUDA_TOTAL_BYTES", "1000")
    fake.fakecuda_configure()
    with cuda.Context(0) as gpu:
        gpu.allocate(900)
        with pytest.raises(cuda.CudaMemoryError):
            gpu.allocate(101)
        gpu.allocate(100)


def test_freeing_twice_is_harmless_and_use_afterwards_is_told(gpu: cuda.Context) -> None:
    buffer, host, stream, event = gpu.allocate(4), gpu.host(1, np.float32), gpu.stream(), gpu.event()
    graph = gpu.capture(stream, lambda: None)
    other, array = gpu.stream(), np.zeros(1, np.float32)
    for thing in (buffer, host, stream, event, graph):
        thing.free()
        thing.free()
    uses: List[Callable[[], Any]] = [
        lambda: buffer.address,
        lambda: host.array,
        lambda: host.address,
        lambda: stream.handle,
        stream.synchronize,
        event.synchronize,
        lambda: event.record(other),
        lambda: other.wait(event),
        lambda: graph.launch(other),
        lambda: gpu.to_host(array, 4096, stream),
    ]
    for use in uses:
        with pytest.raises(cuda.CudaError, match="was freed"):
            use()


def test_use_after_the_end_is_told(fake: Any) -> None:
    gpu = cuda.Context(0)
    with gpu:
        buffer = gpu.allocate(4)
        with pytest.raises(cuda.CudaError, match="open already"):
            gpu.__enter__()
    gpu.close()
    buffer.free()
    uses: List[Callable[[], Any]] = [gpu.synchronize, gpu.memory, gpu.stream, gpu.event, lambda: gpu.allocate(1)]
    for use in [*uses, lambda: gpu.current().__enter__(), lambda: gpu.host(1, np.int8)]:
        with pytest.raises(cuda.CudaError, match="closed"):
            use()
    with gpu:  # and it can be opened again
        gpu.allocate(4)


def test_a_copy_that_does_not_fit_is_refused(gpu: cuda.Context) -> None:
    buffer, stream = gpu.allocate(8), gpu.stream()
    with pytest.raises(cuda.CudaError, match="12 bytes does not fit a device buffer of 8"):
        gpu.to_device(buffer.address, np.zeros(3, np.float32), stream)
    with pytest.raises(cuda.CudaError, match="C-contiguous"):
        gpu.to_host(np.zeros((2, 2), np.int8).T, buffer.address, stream)
    with pytest.raises(cuda.CudaError, match="invalid argument"):
        gpu.to_device(buffer.address + 4, np.zeros(2, np.float32), stream)


def test_freeing_before_waiting_is_an_error_that_shows(fake: Any) -> None:
    with pytest.raises(cuda.CudaError, match="illegal memory access"), cuda.Context(0) as gpu:
        buffer, host, stream = gpu.allocate(8), gpu.host(2, np.float32), gpu.stream()
        gpu.to_device(buffer.address, host.array, stream)
        buffer.free()
        stream.synchronize()


def test_work_that_fails_is_told_at_the_end_too(fake: Any) -> None:
    keep: List[Any] = []
    with pytest.raises(cuda.CudaError, match="launch failure"), cuda.Context(0) as gpu:
        enqueue(fake, gpu.stream(), lambda: fake.fakecuda_raise(719), keep)
    assert ledger(fake) == []


def test_a_graph_runs_the_recorded_work_again(gpu: cuda.Context, fake: Any) -> None:
    keep: List[Any] = []
    source, target, buffer, stream = gpu.host(2, np.float32), gpu.host(2, np.float32), gpu.allocate(8), gpu.stream()

    def work() -> None:
        gpu.to_device(buffer.address, source.array, stream)
        enqueue(fake, stream, lambda: on_device(buffer, 2).__imul__(2), keep)
        gpu.to_host(target.array, buffer.address, stream)

    graph = gpu.capture(stream, work)
    assert fake.fakecuda_pending() == 0  # recorded, not queued
    for value in (1.0, 7.0):
        source.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert target.array.tolist() == [2 * value] * 2


def test_a_graph_takes_in_work_forked_to_another_stream(gpu: cuda.Context, fake: Any) -> None:
    keep: List[Any] = []
    main, side, fork, join = gpu.stream(), gpu.stream(), gpu.event(), gpu.event()
    order: List[str] = []

    def work(joins: bool = True) -> None:
        fork.record(main)
        side.wait(fork)
        enqueue(fake, side, lambda: order.append("side"), keep)
        if joins:
            join.record(side)
            main.wait(join)
        enqueue(fake, main, lambda: order.append("main"), keep)

    graph = gpu.capture(main, work)
    graph.launch(main)
    main.synchronize()
    assert order == ["side", "main"]
    with pytest.raises(cuda.CudaError, match="unjoined"):
        gpu.capture(main, lambda: work(joins=False))
    side.synchronize()  # neither stream is left in capture
    main.synchronize()


@pytest.mark.parametrize("forbidden", ["allocate", "synchronize", "wait", "pageable", "raise"])
def test_work_that_cannot_be_captured_leaves_the_stream_usable(gpu: cuda.Context, fake: Any, forbidden: str) -> None:
    stream, host, buffer = gpu.stream(), gpu.host(1, np.float32), gpu.allocate(4)

    def work() -> None:
        gpu.to_device(buffer.address, host.array, stream)
        if forbidden == "allocate":
            gpu.allocate(4)
        elif forbidden == "synchronize":
            stream.synchronize()
        elif forbidden == "wait":
            gpu.synchronize()
        elif forbidden == "pageable":
            gpu.to_device(buffer.address, np.zeros(1, np.float32), stream)
        else:
            raise OptimizeError("no such layer")

    with pytest.raises(OptimizeError, match="no such layer" if forbidden == "raise" else "captur"):
        gpu.capture(stream, work)
    host.array[:] = 3
    gpu.to_device(buffer.address, host.array, stream)
    stream.synchronize()
    assert on_device(buffer, 1)[0] == 3


@pytest.mark.parametrize("where", ["begin", "end", "instantiate"])
def test_a_driver_that_cannot_capture(gpu: cuda.Context, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", where)
    stream = gpu.stream()
    with pytest.raises(cuda.CudaError):
        gpu.capture(stream, lambda: None)
    stream.synchronize()


def test_a_graph_that_does_not_launch(gpu: cuda.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = gpu.stream()
    graph = gpu.capture(stream, lambda: None)
    monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", "launch")
    with pytest.raises(cuda.CudaError, match="not supported"):
        graph.launch(stream)


def test_the_thread_is_left_as_it_was_found(fake: Any) -> None:
    """Another library may have made the context current before; after ours it is so still, exactly once."""
    driver = importlib.import_module("pycuda.driver")
    driver.init()
    outer = driver.Device(0).retain_primary_context()
    handle = ctypes.c_void_p(outer.handle)
    assert fake.cuCtxPushCurrent_v2(handle) == 0
    with cuda.Context(0):
        pass
    assert fake.fakecuda_context_depth() == 1
    assert fake.cuCtxPopCurrent_v2(ctypes.byref(handle)) == 0
    assert fake.cuDevicePrimaryCtxRelease_v2(0) == 0


def test_a_gpu_that_is_not_there(fake: Any) -> None:
    with pytest.raises(IncompatibleError, match="no GPU 3: the driver has 1"), cuda.Context(3):
        pass


CHILDREN = {
    "closed": "with cuda.Context(0) as gpu: gpu.allocate(4)",
    "exception": "with cuda.Context(0) as gpu:\n    gpu.stream(); raise SystemExit(7)",
    "left open": "gpu = cuda.Context(0).__enter__(); keep = gpu.host(4, 'f4'), gpu.event()",
    "threads": textwrap.dedent(
        """
        import threading
        def work(gpu):
            with gpu.current(): gpu.allocate(4)
        with cuda.Context(0) as gpu:
            all = [threading.Thread(target=work, args=(gpu,)) for _ in range(4)]
            [one.start() for one in all]; [one.join() for one in all]
        """
    ),
}


def _child(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "from engines import cuda\n" + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", list(CHILDREN))
def test_a_process_ends_without_an_abort(double: Any, name: str) -> None:
    run = _child(CHILDREN[name], LD_LIBRARY_PATH=str(_build().path().parent))
    assert (run.returncode, run.stderr) == (7 if name == "exception" else 0, "")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"FAKECUDA_DEVICES": "0"}, "no CUDA-capable device"),
        ({"FAKECUDA_INIT_ERROR": "803"}, "unsupported display driver"),
    ],
)
def test_a_driver_without_a_gpu_is_told(double: Any, setting: Any, reason: str) -> None:
    code = (
        "print(cuda.unavailable())\ntry: cuda.Context(0).__enter__()\nexcept cuda.IncompatibleError: print('refused')"
    )
    run = _child(code, LD_LIBRARY_PATH=str(_build().path().parent), **setting)
    assert run.returncode == 0, run.stderr
    assert reason in run.stdout
    assert "refused" in run.stdout
