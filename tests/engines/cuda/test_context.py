"""The context: opened, shared by threads, closed, whatever happens in between."""

from __future__ import annotations

import ctypes
import textwrap
import threading
from typing import Any, Callable, List

import numpy as np
import pytest

from engines import cuda
from engines.errors import IncompatibleError

pytestmark = pytest.mark.tensorrt


def test_it_says_what_the_gpu_is(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECUDA_NAME", "Thor")
    monkeypatch.setenv("FAKECUDA_CC", "11.0")
    monkeypatch.setenv("FAKECUDA_INTEGRATED", "0")
    monkeypatch.setenv("FAKECUDA_TOTAL_BYTES", "1000000")
    fake.lib.fakecuda_configure()
    with cuda.Context(0) as gpu:
        assert (gpu.name, gpu.compute_capability, gpu.integrated, gpu.total_bytes) == ("Thor", "11.0", False, 1000000)
        assert gpu.memory() == (1000000, 1000000)
        with_buffer = gpu.allocate(400000)
        assert gpu.memory() == (600000, 1000000)
        with_buffer.free()
        assert gpu.memory() == (1000000, 1000000)
    assert cuda.unavailable() == ""


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
        results.append(fake.lib.fakecuda_context_depth())
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
    go, stream = threading.Event(), gpu.stream()
    fake.enqueue(stream, lambda: go.wait(30))
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
    assert fake.left() == []


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


def test_work_that_fails_is_told_at_the_end_too(fake: Any) -> None:
    with pytest.raises(cuda.CudaError, match="launch failure"), cuda.Context(0) as gpu:
        fake.enqueue(gpu.stream(), lambda: fake.lib.fakecuda_raise(719))
    assert fake.left() == []


def test_the_thread_is_left_as_it_was_found(fake: Any) -> None:
    """Another library may have made the context current before; after ours it is so still, exactly once."""
    handle = ctypes.c_void_p()
    assert fake.lib.cuInit(0) == 0
    assert fake.lib.cuDevicePrimaryCtxRetain(ctypes.byref(handle), 0) == 0
    assert fake.lib.cuCtxPushCurrent_v2(handle) == 0
    with cuda.Context(0):
        pass
    assert fake.lib.fakecuda_context_depth() == 1
    assert fake.lib.cuCtxPopCurrent_v2(ctypes.byref(handle)) == 0
    assert fake.lib.cuDevicePrimaryCtxRelease_v2(0) == 0


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


@pytest.mark.parametrize("name", list(CHILDREN))
def test_a_process_ends_without_an_abort(fake: Any, name: str) -> None:
    run = fake.child(CHILDREN[name])
    assert (run.returncode, run.stderr) == (7 if name == "exception" else 0, "")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"FAKECUDA_DEVICES": "0"}, "no CUDA-capable device"),
        ({"FAKECUDA_INIT_ERROR": "803"}, "unsupported display driver"),
    ],
)
def test_a_driver_without_a_gpu_is_told(fake: Any, setting: Any, reason: str) -> None:
    code = (
        "print(cuda.unavailable())\ntry: cuda.Context(0).__enter__()\nexcept cuda.IncompatibleError: print('refused')"
    )
    run = fake.child(code, **setting)
    assert run.returncode == 0, run.stderr
    assert reason in run.stdout
    assert "refused" in run.stdout
