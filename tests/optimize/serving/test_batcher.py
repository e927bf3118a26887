"""Requests put together: nothing lost, nothing mixed up, wrong ones refused alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import Runner, RunnerSpec, TensorSpec
from optimize.serving.batcher import Batcher, _plans


class Doubling(Runner):
    """An engine that doubles, in fixed batches; it can be held, and made to fail."""

    def __init__(self, batches=(1, 4), shape=(None, 2)):
        self.spec = RunnerSpec(path="/nowhere", kind="onnx")
        self.inputs, self.outputs = (TensorSpec("x", shape),), (TensorSpec("y", shape),)
        self.batches, self.ran, self.closed = batches, [], False
        self.free = threading.Event()
        self.free.set()
        self.fails = False

    def bind(self, feeds):
        array = feeds["x"]

        def query():
            assert self.free.wait(60)
            if self.fails:
                raise RuntimeError("the engine is broken")
            self.ran.append(len(array))
            return {"y": 2 * array}

        return query

    def close(self):
        self.closed = True


def rows(count, start=0):
    return {"x": np.arange(start, start + 2 * count, dtype=np.float32).reshape(count, 2)}


def test_every_number_of_samples_is_answered_and_larger_ones_are_refused():
    batcher = Batcher(Doubling(), (1, 4))
    try:
        for count in (1, 2, 3, 4):
            np.testing.assert_array_equal(batcher.submit(rows(count)).result(60)["y"], 2 * rows(count)["x"])
        with pytest.raises(UsageError, match="5 samples; at most 4"):
            batcher.submit(rows(5))
    finally:
        batcher.close()
    assert batcher.runner.closed


def test_what_comes_while_the_engine_computes_goes_into_one_batch():
    runner = Doubling((1, 8))
    batcher = Batcher(runner, (1, 8))
    runner.free.clear()
    first = batcher.submit(rows(1))
    while batcher._waiting:
        time.sleep(0.001)
    others = [batcher.submit(rows(2, start)) for start in (10, 20, 30)]
    runner.free.set()
    assert first.result(60)["y"].shape == (1, 2)
    for start, answer in zip((10, 20, 30), others):
        np.testing.assert_array_equal(answer.result(60)["y"], 2 * rows(2, start)["x"])
    told = batcher.statistics.to_json("m", "1")["model_stats"][0]
    batcher.close()
    assert (told["execution_count"], told["inference_count"]) == (2, 7)
    assert told["inference_stats"]["success"]["count"] == 4


def test_many_clients_at_a_time_get_their_own_answers():
    batcher = Batcher(Doubling(), (1, 4), delay_s=0.001)

    def ask(number):
        count = 1 + number % 4
        found = batcher.submit(rows(count, number)).result(60)["y"]
        return np.array_equal(found, 2 * rows(count, number)["x"])

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(500)))
    told = batcher.statistics.to_json("m", "1")["model_stats"][0]
    batcher.close()
    assert told["inference_stats"]["success"]["count"] == 500
    assert told["inference_count"] == sum(1 + number % 4 for number in range(500))


@pytest.mark.parametrize(
    "feeds, words",
    [
        ({"z": np.zeros((1, 2), np.float32)}, "the model takes x"),
        ({"x": np.zeros((1, 3), np.float32)}, "the shape"),
        ({"x": np.zeros((1, 2), np.float64)}, "float32"),
        ({"x": np.zeros((0, 2), np.float32)}, "at least 1"),
        ({"x": np.zeros(2, np.float32)}, "the shape"),
    ],
)
def test_a_wrong_request_is_refused_before_it_meets_others(feeds, words):
    batcher = Batcher(Doubling(), (1, 4))
    with pytest.raises(UsageError, match=words):
        batcher.submit(feeds)
    good = batcher.submit(rows(1)).result(60)
    told = batcher.statistics.to_json("m", "1")["model_stats"][0]["inference_stats"]
    batcher.close()
    assert good["y"].shape == (1, 2) and told["fail"]["count"] == 1


def test_an_engine_that_fails_is_told_to_those_that_asked_and_the_next_are_answered():
    runner = Doubling()
    batcher = Batcher(runner, (1, 4))
    runner.fails = True
    with pytest.raises(RuntimeError, match="broken"):
        batcher.submit(rows(1)).result(60)
    runner.fails = False
    assert batcher.submit(rows(1)).result(60)["y"].shape == (1, 2)
    batcher.close()


def test_a_client_that_left_is_not_computed_for():
    runner = Doubling()
    batcher = Batcher(runner, (1, 4))
    runner.free.clear()
    batcher.submit(rows(1))
    while batcher._waiting:
        time.sleep(0.001)
    left = batcher.submit(rows(4))
    stays = batcher.submit(rows(1))
    assert left.cancel()
    runner.free.set()
    assert stays.result(60)["y"].shape == (1, 2)
    told = batcher.statistics.to_json("m", "1")["model_stats"][0]
    batcher.close()
    assert told["inference_count"] == 2


def test_what_waits_is_answered_when_the_batcher_closes_and_nothing_after():
    runner = Doubling()
    batcher = Batcher(runner, (1, 4))
    runner.free.clear()
    waiting = [batcher.submit(rows(4)) for _ in range(3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        time.sleep(0.001)
    with pytest.raises(IncompatibleError, match="stopping"):
        batcher.submit(rows(1))
    runner.free.set()
    closing.join(60)
    assert all(answer.result(0)["y"].shape == (4, 2) for answer in waiting) and runner.closed


def test_a_flood_is_refused_and_not_kept(monkeypatch):
    from optimize.serving import batcher as module

    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    runner = Doubling()
    batcher = Batcher(runner, (1,))
    runner.free.clear()
    first = batcher.submit(rows(1))
    while batcher._waiting:
        time.sleep(0.001)
    kept = [batcher.submit(rows(1)) for _ in range(2)]
    with pytest.raises(OptimizeError, match="2 requests wait already"):
        batcher.submit(rows(1))
    runner.free.set()
    batcher.close()
    assert all(answer.done() for answer in [first, *kept])


@pytest.mark.parametrize("shape", [(), (None, None)])
def test_an_input_whose_size_is_free_is_refused(shape):
    with pytest.raises(UsageError, match="may be free"):
        Batcher(Doubling(shape=shape), (1,))


@given(st.dictionaries(st.integers(1, 32), st.floats(0.1, 100), min_size=1, max_size=5))
def test_the_plan_of_every_number_holds_it_and_none_is_cheaper_by_one_size_alone(costs):
    plans = _plans(costs)
    assert len(plans) == max(costs) + 1
    for total, sizes in enumerate(plans[1:], 1):
        assert sum(sizes) >= total and sum(sizes[:-1]) < total
        spent = sum(costs[size] for size in sizes)
        assert all(spent <= cost * -(-total // size) + 1e-9 for size, cost in costs.items())
