"""A build in a thread of its own: what it tells, how it is stopped, and that nothing of it runs on."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from engines.spec import quiet
from engines.tensorrt import watch

TRT = SimpleNamespace(IProgressMonitor=object)

Line = Tuple[str, int, int]


class Gpu:
    """Counts in which threads it is current."""

    def __init__(self) -> None:
        self.entered: List[int] = []
        self.left: List[int] = []

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.entered.append(threading.get_ident())
        try:
            yield
        finally:
            self.left.append(threading.get_ident())


def with_monitor() -> Any:
    return SimpleNamespace(progress_monitor=None)


def run(config: Any, call: Callable[[], Any], progress: Any = quiet, gpu: Any = None, every: float = 0.01) -> Any:
    return watch.run(TRT, gpu or Gpu(), config, call, progress, "building", every)


def alive() -> List[str]:
    return [one.name for one in threading.enumerate() if one.name == "tensorrt-build"]


def test_the_call_runs_with_the_context_and_its_result_comes_back() -> None:
    gpu, threads = Gpu(), []

    def call() -> bytes:
        threads.append(threading.get_ident())
        return b"plan"

    assert run(SimpleNamespace(), call, gpu=gpu) == b"plan"
    assert threads == gpu.entered == gpu.left
    assert threads != [threading.get_ident()]
    assert run(SimpleNamespace(), lambda: None) is None
    assert not alive()


@pytest.mark.parametrize("config", [SimpleNamespace(), with_monitor()], ids=["seconds", "steps"])
def test_what_the_call_raises_is_raised_here(config: Any) -> None:
    def call() -> None:
        raise ValueError("no such tactic")

    gpu = Gpu()
    with pytest.raises(ValueError, match="no such tactic"):
        run(config, call, gpu=gpu)
    assert len(gpu.left) == 1
    assert not alive()


def test_steps_are_told_in_order_in_the_callers_thread() -> None:
    config, told, threads = with_monitor(), [], set()

    def call() -> bytes:
        watcher = config.progress_monitor
        watcher.phase_start("Building Engine", None, 2)
        watcher.phase_start("Tactics", "Building Engine", 3)
        assert watcher.step_complete("Tactics", 0) is True
        watcher.phase_finish("Tactics")
        watcher.step_complete("Building Engine", 1)
        watcher.phase_finish("Building Engine")
        return b"plan"

    def progress(*line: Any) -> None:
        threads.add(threading.get_ident())
        told.append(line)

    assert run(config, call, progress) == b"plan"
    assert told == [
        ("building", 0, 0),
        ("building: Building Engine", 0, 2),
        ("building: Tactics", 0, 3),
        ("building: Tactics", 1, 3),
        ("building: Tactics", 3, 3),
        ("building: Building Engine", 2, 2),
        ("building: Building Engine", 2, 2),
    ]
    assert threads == {threading.get_ident()}


def test_seconds_are_told_where_there_is_no_monitor() -> None:
    enough, told = threading.Event(), []

    def progress(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        if len(told) == 3:
            enough.set()

    run(SimpleNamespace(), lambda: enough.wait(30), progress)
    assert told[:3] == [("building", 0, 0), ("building (0 s)", 0, 0), ("building (0 s)", 0, 0)]


def test_no_seconds_are_told_beside_steps() -> None:
    told: List[Line] = []
    run(with_monitor(), lambda: threading.Event().wait(0.1), lambda *line: told.append(line))
    assert told == [("building", 0, 0)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the pipe is gone")])
def test_a_failing_progress_stops_the_build_at_its_next_step(error: BaseException) -> None:
    config, steps = with_monitor(), []

    def call() -> None:
        watcher = config.progress_monitor
        watcher.phase_start("Building Engine", None, 100000)
        while watcher.step_complete("Building Engine", len(steps)):
            steps.append(len(steps))

    def progress(what: str, done: int, total: int) -> None:
        if done == 3:
            raise error

    gpu = Gpu()
    with pytest.raises(type(error)):
        run(config, call, progress, gpu)
    assert config.progress_monitor.stop is True
    assert len(steps) >= 2
    assert len(gpu.left) == 1, "the build is over"
    assert not alive()


def test_a_version_that_cannot_stop_is_waited_for() -> None:
    over = []

    def call() -> None:
        threading.Event().wait(0.1)
        over.append(True)

    def progress(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SimpleNamespace(), call, progress)
    assert over == [True]
    assert not alive()


@pytest.mark.tensorrt
def test_the_monitor_is_one_that_tensorrt_takes(trt: Any, cuda_ledger: Any) -> None:
    if not hasattr(trt, "IProgressMonitor"):
        pytest.skip("this version has no IProgressMonitor")
    from engines.cuda import Context
    from tests.doubles.samples import cnn, logger_of, network_of

    told: List[Line] = []
    with Context(0) as gpu:
        builder, network = network_of(trt, logger_of(trt), cnn())
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("x", *[(1, 3, 8, 8)] * 3)
        config.add_optimization_profile(profile)
        call = partial(builder.build_serialized_network, network, config)
        assert watch.run(trt, gpu, config, call, lambda *line: told.append(line), "building") is not None
        del call, config, network, builder, profile  # before the context goes
    assert told[0] == ("building", 0, 0)
    assert any(what == "building: Building Engine" and done == total > 0 for what, done, total in told)
