from __future__ import annotations

import gc
import time

import numpy as np
import pytest

from bench import loop
from bench.loop import _FIRST, measure, measure_many
from bench.overhead import overhead
from engines.errors import UsageError


class Counter:
    def __init__(self, sleep: float = 0.0) -> None:
        self.calls, self.sleep, self.collecting = 0, sleep, []

    def __call__(self):
        self.calls += 1
        self.collecting.append(gc.isenabled())
        if self.sleep:
            time.sleep(self.sleep)
        return {}


def test_samples_are_nanoseconds_of_each_query():
    samples = measure(Counter(0.002), 0.0, 0.02, 3)
    assert samples.dtype == np.int64 and samples.ndim == 1
    assert (samples >= 2_000_000).all()
    assert len(samples) >= 3


def test_it_goes_on_until_both_the_duration_and_the_iterations_are_reached():
    query = Counter(0.002)
    assert len(measure(query, 0.0, 0.0, 7)) == 7
    assert query.calls == 8  # the first call is not kept
    before = time.perf_counter()
    measure(Counter(), 0.0, 0.05, 1)
    assert time.perf_counter() - before >= 0.05


def test_warm_up_is_not_kept():
    query = Counter(0.001)
    kept = measure(query, 0.02, 0.0, 2)
    assert len(kept) == 2
    assert query.calls >= 4


def test_the_buffer_grows_without_losing_a_sample():
    query = Counter()
    samples = measure(query, 0.0, 0.0, 2 * _FIRST + 5)
    assert len(samples) == 2 * _FIRST + 5
    assert (samples > 0).all()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_off_meanwhile_and_as_before_afterwards(enabled):
    query = Counter()
    gc.enable() if enabled else gc.disable()
    try:
        measure(query, 0.0, 0.0, 3)
        assert query.collecting == [False] * 4
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_the_garbage_collector_comes_back_after_a_failing_query():
    def broken():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        measure(broken, 0.0, 0.0, 3)
    assert gc.isenabled()


@pytest.mark.parametrize("bad", [(0.0, 0.0, 0), (-1.0, 0.0, 1), (0.0, -1.0, 1)])
def test_bad_settings_are_refused(bad):
    with pytest.raises(UsageError):
        measure(Counter(), *bad)


def test_the_cost_of_the_loop_is_told_in_full():
    found = overhead(0.01)
    assert found["iterations"] >= 10
    assert 0 < found["sample_us"] < found["iteration_us"]
    assert found["passed"] is (found["iteration_us"] < found["limit_us"])


def test_many_samples_come_with_the_first_query_apart_and_when_each_began():
    query = Counter(0.001)
    found = measure_many(query, 5, 0.0)
    assert found.first >= 1_000_000
    assert found.samples.dtype == found.starts.dtype == np.int64
    assert len(found.samples) == len(found.starts) == 5
    assert (found.samples >= 1_000_000).all()
    assert found.starts[0] == 0
    assert (np.diff(found.starts) >= found.samples[:-1]).all()
    assert query.calls == 6
    assert query.collecting == [False] * 6


def test_pauses_lie_between_queries_and_what_follows_them_is_not_kept(monkeypatch):
    monkeypatch.setattr(loop, "SETTLE_S", 0.005)
    query, seen = Counter(0.001), []
    marks = []
    found = measure_many(query, 6, 0.002, lambda: marks.append(query.calls), seen.append, beat_s=0.0)
    assert seen == [1, 2, 3, 4, 5, 6]  # one after every query that is kept
    assert (np.diff(found.starts) - found.samples[:-1] >= 5_000_000).all()
    assert marks[0] >= 2  # the first query, and those of the warm-up
    assert query.calls >= marks[0] + 6 + 6


def test_garbage_of_a_long_run_is_collected_in_its_pauses():
    class Loop:
        alive = 0

        def __init__(self):
            self.me = self
            Loop.alive += 1

        def __del__(self):
            Loop.alive -= 1

    most = []

    def query():
        Loop()
        return {}

    gc.collect()  # Python 3.12 sets the objects aside that live for ever
    frozen = gc.get_freeze_count()
    measure_many(query, 50, 0.0, beat=lambda done: most.append(Loop.alive), beat_s=0.0)
    assert len(most) == 50
    before = most[0]
    measure_many(query, 1, 0.0)
    gc.collect()
    assert Loop.alive == 0
    assert before >= 1
    assert gc.get_freeze_count() <= frozen


@pytest.mark.parametrize("bad", [(0, 0.0), (5, -1.0)])
def test_a_long_run_of_nothing_is_refused(bad):
    with pytest.raises(UsageError):
        measure_many(Counter(), *bad)
