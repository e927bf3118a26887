"""One engine in several threads, several engines in one, and closing while others work."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np
import pytest

from engines.cuda import CudaError, Event
from engines.tensorrt.binding import Binding
from tests.engines.tensorrt.plans import close, expected, images, opened, plan

pytestmark = pytest.mark.tensorrt


@pytest.fixture
def onnx_file(graph_file: Callable[..., Path]) -> Path:
    return graph_file()


@pytest.fixture
def folder(trt: Any, surface: str, onnx_file: Path, tmp_path: Path) -> Path:
    """Holds `model.plan`, which serves batch 1 and 4."""
    plan(surface, onnx_file, tmp_path)
    return tmp_path


@pytest.fixture
def wanted(onnx_file: Path) -> List[Dict[str, np.ndarray]]:
    """The answers to `images(4, seed)`, by seed."""
    return [expected(onnx_file, images(4, seed)) for seed in range(4)]


@pytest.fixture
def restless() -> Iterator[None]:
    """Python changes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(jobs: List[Callable[[], None]], beside: Callable[[], None] = lambda: None) -> None:
    """Run each in a thread of its own, and one here; the first thing that one of them raises is raised here."""
    failed: List[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        beside()
    finally:
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def test_infer_in_threads_gives_each_its_own_answer(folder: Path, wanted: List[Any], restless: None):
    with opened(folder) as runner:

        def job(seed: int) -> Callable[[], None]:
            def infer() -> None:
                for _ in range(60):
                    close(runner.infer(images(4, seed)), wanted[seed])

            return infer

        together([job(seed) for seed in range(4)])


@pytest.mark.parametrize("options", [{}, {"cuda_graph": True}, {"io": "zero-copy"}], ids=str)
def test_one_thread_binds_while_another_queries(folder: Path, wanted: List[Any], restless: None, options: Any):
    with opened(folder, **options) as runner:

        def querying() -> None:
            query = runner.bind(images(4, 0))
            for _ in range(60):
                close(query(), wanted[0])

        def binding() -> None:
            for _ in range(20):
                close(runner.bind(images(4, 1))(), wanted[1])

        def measuring() -> None:
            for _ in range(20):
                with runner.gpu.current():
                    (slot,) = runner.slots(images(4, 2), count=1)
                    slot.start()
                    slot.enqueue()
                    slot.synchronize()
                    host = slot._binding.outputs[0].array
                    np.testing.assert_allclose(host, wanted[2]["scores"], rtol=1e-5, atol=1e-5)

        together([querying, querying, binding, measuring])
        assert runner.flags == []


CALLS: Dict[str, Callable[[Any], Any]] = {
    "bind": lambda runner: runner.bind(images(1)),
    "infer": lambda runner: runner.infer(images(1)),
    "slots": lambda runner: runner.slots(images(1)),
    "profile": lambda runner: runner.profile(images(1), 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_touches_an_execution_context_that_another_thread_uses(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    """A query stands still half-way: the other thread's call executes nothing before it is over."""
    begun, go, order = threading.Event(), threading.Event(), []
    with opened(folder) as runner:
        query = runner.bind(images(1))
        wait, execute = Event.synchronize, Binding.execute

        def stands_still(self: Event) -> None:
            wait(self)
            if not begun.is_set():
                begun.set()
                go.wait(30)
                order.append("query")

        def told(self: Binding, stream: Any) -> None:
            if begun.is_set():
                order.append(name)
            execute(self, stream)

        monkeypatch.setattr(Event, "synchronize", stands_still)
        monkeypatch.setattr(Binding, "execute", told)

        def other() -> None:
            assert begun.wait(30)
            threading.Timer(0.05, go.set).start()
            CALLS[name](runner)

        together([query, other])
    assert order[0] == "query" and name in order


def test_a_query_waits_for_what_slots_have_in_flight_on_its_execution_context(folder: Path, wanted: List[Any]):
    """Two streams may not run one execution context at once: its scratch memory serves one."""
    with opened(folder) as runner:
        (one,), (two,) = runner.slots(images(4, 0), count=1), runner.slots(images(4, 1), count=1)
        query = runner.bind(images(4, 2))
        one.start()
        two.start()
        for call in (query, two.enqueue, lambda: runner.bind(images(4, 2))):
            one.enqueue()
            call()
            assert one._events["compute_end"].raw().query()
        one.enqueue()  # on its own stream it need not wait
        one.enqueue()
        assert not one._events["compute_end"].raw().query()
        close(query(), wanted[2])


@pytest.mark.parametrize("first", [0, 1])
def test_engines_open_in_one_thread_close_in_any_order(folder: Path, wanted: List[Any], first: int):
    runners = [opened(folder), opened(folder)]
    queries = [runner.bind(images(4, seed)) for seed, runner in enumerate(runners)]
    for seed, query in enumerate(queries):
        close(query(), wanted[seed])
    runners[first].close()
    with pytest.raises(CudaError, match="closed"):
        queries[first]()
    last = 1 - first
    close(queries[last](), wanted[last])
    close(runners[last].infer(images(4, 3)), wanted[3])
    together([lambda: close(runners[last].infer(images(4, 3)), wanted[3])])
    runners[last].close()


def test_an_engine_works_below_a_context_of_the_users(folder: Path, wanted: List[Any]):
    """What the user makes current afterwards is neither used nor lost."""
    runner = opened(folder)
    query, driver = runner.bind(images(4, 0)), runner.gpu.driver
    own = driver.Device(0).make_context()
    close(query(), wanted[0])
    close(runner.infer(images(4, 1)), wanted[1])
    close(runner.bind(images(4, 2))(), wanted[2])
    assert driver.Context.get_current() == own
    runner.close()
    assert driver.Context.get_current() == own
    driver.Context.pop()
    own.detach()


def test_a_close_that_is_refused_leaves_everything_as_it_was(folder: Path, wanted: List[Any]):
    runner = opened(folder)
    query = runner.bind(images(4, 0))
    slots = runner.slots(images(4, 0))
    with pytest.raises(CudaError, match="thread that opened it"):
        together([runner.close])
    close(query(), wanted[0])
    close(runner.infer(images(4, 1)), wanted[1])
    slots[0].enqueue()
    with pytest.raises(KeyError, match="mine"), runner:
        together([lambda: runner.__exit__(KeyError, KeyError("theirs"), None)])  # theirs goes out, and it stays open
        close(query(), wanted[0])
        raise KeyError("mine")
    together([runner.close])  # it is closed, and who says so again is in any thread


def test_closing_waits_for_a_query_in_another_thread(folder: Path, wanted: List[Any], monkeypatch: pytest.MonkeyPatch):
    begun, go = threading.Event(), threading.Event()
    runner = opened(folder)
    runner.infer(images(4, 1))
    wait = Event.synchronize

    def slow(self: Event) -> None:
        begun.set()
        go.wait(30)
        wait(self)

    def inferring() -> None:
        close(runner.infer(images(4, 0)), wanted[0])

    def closing() -> None:
        assert begun.wait(30)
        threading.Timer(0.05, go.set).start()
        runner.close()

    monkeypatch.setattr(Event, "synchronize", slow)
    together([inferring], closing)


def test_nothing_is_freed_in_the_midst_of_a_capture(
    folder: Path, wanted: List[Any], monkeypatch: pytest.MonkeyPatch, cuda_ledger: Any
):
    """The garbage collector may find an old query at any time, and what frees it would break the capture."""
    with opened(folder, cuda_graph=True) as runner:
        kept = runner.bind(images(4, 0))
        before = cuda_ledger.fakecuda_live_allocations()
        old = [runner.bind(images(4, 1))]
        execute, calls = Binding.execute, []

        def collects(self: Binding, stream: Any) -> None:
            calls.append(1)
            if len(calls) == 2:  # the first run is not captured, the second is
                old.clear()
            execute(self, stream)

        with monkeypatch.context() as patch:
            patch.setattr(Binding, "execute", collects)
            query = runner.bind(images(4, 2))
        assert not old and runner.flags == []
        close(query(), wanted[2])
        del query
        assert cuda_ledger.fakecuda_live_allocations() == before
        close(kept(), wanted[0])
