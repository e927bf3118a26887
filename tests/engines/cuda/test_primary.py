"""One GPU opened several times, in any order, in any thread, beside contexts of the user's own."""

from __future__ import annotations

import ctypes
import itertools
import textwrap
import threading
from typing import Any, Callable, List

import numpy as np
import pytest

from engines import cuda, cudaprimary

pytestmark = pytest.mark.tensorrt


def works(gpu: cuda.Context) -> None:
    """Make one of each, copy there and back, free them."""
    source, target, buffer, stream = gpu.host(3, np.float32), gpu.host(3, np.float32), gpu.allocate(12), gpu.stream()
    event = gpu.event()
    source.array[:] = 7
    gpu.to_device(buffer.address, source.array, stream)
    gpu.to_host(target.array, buffer.address, stream)
    event.record(stream)
    event.synchronize()
    assert target.array.tolist() == [7, 7, 7]
    for thing in (source, target, buffer, stream, event):
        thing.free()


def in_a_thread(job: Callable[[], Any]) -> Any:
    """What a job returns in a thread of its own, where what it raises is raised here."""
    results: List[Any] = []

    def work() -> None:
        try:
            results.append((job(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    result, error = results[0]
    if error is not None:
        raise error
    return result


@pytest.fixture(params=["pycuda", "driver"])
def own(request: pytest.FixtureRequest, fake: Any) -> Any:
    """A context of the user's, current: made with pycuda, or by a library that pycuda does not know of. Gives its
    handle."""
    if request.param == "pycuda":
        from engines.cudaerrors import pycuda

        driver = pycuda()
        context = driver.Device(0).make_context()
        yield int(context.handle)
        driver.Context.pop()
        context.detach()
        return
    handle = ctypes.c_void_p()
    assert fake.lib.cuInit(0) == 0
    assert fake.lib.cuCtxCreate_v2(ctypes.byref(handle), 0, 0) == 0
    yield handle.value
    assert fake.lib.cuCtxDestroy_v2(handle) == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_they_close_in_any_order(fake: Any, order: Any) -> None:
    opened = [cuda.Context(0).__enter__() for _ in range(3)]
    kept = [gpu.allocate(4) for gpu in opened]
    for done, number in enumerate(order):
        opened[number].close()
        for left in order[done + 1 :]:
            works(opened[left])
            assert kept[left].address
    assert fake.left() == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))), ids=str)
def test_the_users_context_beneath_is_current_again_and_nobody_made_anything_there(
    own: int, fake: Any, order: Any
) -> None:
    opened = [cuda.Context(0).__enter__() for _ in range(2)]
    for number in order:
        assert cudaprimary.current() not in (own, None)
        works(opened[number])
        opened[number].close()
    assert cudaprimary.current() == own
    assert fake.left() == ["live_contexts", "pushed_contexts"]  # the user's


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))), ids=str)
def test_a_context_pushed_above_stays_and_is_not_used(fake: Any, order: Any) -> None:
    opened = [cuda.Context(0).__enter__()]
    driver = opened[0].driver
    mine = driver.Device(0).make_context()
    handle = int(mine.handle)
    with pytest.raises(cuda.CudaError, match=r"gpu\.current\(\)"):
        opened[0].allocate(4)
    with opened[0].current():
        works(opened[0])
    assert cudaprimary.current() == handle
    opened.append(cuda.Context(0).__enter__())
    works(opened[1])
    for number in order:
        with opened[number].current():
            works(opened[number])
        opened[number].close()
    assert cudaprimary.current() == handle
    driver.Context.pop()
    mine.detach()
    assert cudaprimary.current() is None


@pytest.mark.parametrize("call", ["cuCtxPushCurrent_v2", "cuCtxSetCurrent"])
def test_what_another_library_made_current_meanwhile_stays_so(fake: Any, call: str) -> None:
    handle, popped = ctypes.c_void_p(), ctypes.c_void_p()
    first = cuda.Context(0).__enter__()
    assert fake.lib.cuCtxCreate_v2(ctypes.byref(handle), 0, 0) == 0
    assert fake.lib.cuCtxPopCurrent_v2(ctypes.byref(popped)) == 0
    assert getattr(fake.lib, call)(handle) == 0
    with first.current():
        works(first)
    assert cudaprimary.current() == handle.value
    with cuda.Context(0) as second:
        works(second)
    assert cudaprimary.current() == handle.value
    first.close()
    assert cudaprimary.current() == handle.value
    assert fake.lib.fakecuda_context_depth() == 1
    assert fake.lib.cuCtxDestroy_v2(handle) == 0


def test_a_check_tells_whether_work_goes_there(fake: Any) -> None:
    gpu = cuda.Context(0).__enter__()
    check = gpu.checker()
    assert check() and not in_a_thread(check)
    own = gpu.driver.Device(0).make_context()
    assert not check()
    with gpu.current():
        assert check()
    gpu.driver.Context.pop()
    own.detach()
    with cuda.Context(0):
        gpu.close()
        assert not check()  # the other keeps it current, and yet it is closed


def test_threads_with_a_context_each_use_one_anothers(fake: Any) -> None:
    with cuda.Context(0) as mine:

        def work() -> Any:
            with cuda.Context(0) as theirs:
                works(theirs)
                with mine.current():
                    buffer = mine.allocate(8)
                    with theirs.current():
                        works(theirs)
                    works(mine)
                works(theirs)
            return buffer

        in_a_thread(work).free()
        works(mine)


def test_a_thread_leaves_cleanly_what_was_closed_meanwhile(fake: Any) -> None:
    gpu, inside, closed = cuda.Context(0), threading.Event(), threading.Event()
    told: List[Any] = []

    def work() -> None:
        with gpu.current():
            inside.set()
            assert closed.wait(30)
        told.append(cudaprimary.current())

    with gpu:
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(30)
    closed.set()
    thread.join()
    assert told == [None]


def test_a_failure_while_opening_gives_everything_back(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cudaprimary.Primary, "enter", fails)
        with pytest.raises(KeyboardInterrupt):
            cuda.Context(0).__enter__()
    assert fake.left() == []
    with cuda.Context(0) as gpu:
        works(gpu)


TWO = "a, b = cuda.Context(0).__enter__(), cuda.Context(0).__enter__(); a.event(); b.stream(); a.close()"
CHILDREN = {
    "first one first": TWO + "; b.close()",
    "left open": TWO,
    "above the user's": textwrap.dedent(
        """
        import pycuda.driver as driver
        driver.init()
        mine = driver.Device(0).make_context()
        a, b = cuda.Context(0).__enter__(), cuda.Context(0).__enter__()
        a.close(), b.close()
        assert driver.Context.get_current() == mine
        driver.Context.pop()
        """
    ),
}


@pytest.mark.parametrize("name", list(CHILDREN))
def test_a_process_ends_without_a_word(fake: Any, name: str) -> None:
    run = fake.child(CHILDREN[name])
    assert (run.returncode, run.stderr) == (0, "")
