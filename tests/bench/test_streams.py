from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

import engines
from bench import rounds, streams
from engines.errors import UsageError
from tests.bench.conftest import SIZE, scores_of, spec_of


class Sleeper:
    """A query that takes a known time and uses no processor."""

    def __init__(self, seconds: float, fails_at: int = -1) -> None:
        self.seconds, self.fails_at, self.calls, self.threads = seconds, fails_at, 0, set()

    def __call__(self) -> Dict[str, Any]:
        self.calls += 1
        self.threads.add(threading.get_ident())
        if self.calls == self.fails_at:
            raise ValueError("the device went away")
        time.sleep(self.seconds)
        return {}


def test_streams_add_up() -> None:
    queries = [Sleeper(0.01), Sleeper(0.02)]
    found = streams.measure(queries, 0.02, 0.3, 2)
    assert found.per_s <= 100 + 50 and found.per_s > 75  # a busy machine may only slow it
    assert found.samples.dtype == np.int64 and (found.samples >= 10_000_000).all()
    assert all(len(query.threads) == 1 for query in queries) and queries[0].threads != queries[1].threads
    assert gc.isenabled()


def test_all_go_on_until_the_slowest_has_its_queries() -> None:
    quick, slow = Sleeper(0.001), Sleeper(0.05)
    found = streams.measure([quick, slow], 0.0, 0.0, 3)
    assert len(found.samples) == 6 and slow.calls >= 4
    assert quick.calls > 10  # the slow one never ran alone


@pytest.mark.parametrize("fails_at", [1, 3])
def test_what_a_query_raises_ends_all_streams_and_is_raised(fails_at: int) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="went away"):
        streams.measure([Sleeper(0.001), Sleeper(0.001, fails_at)], 0.0, 5.0, 2)
    assert gc.isenabled() and threading.active_count() == before


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(UsageError):
        streams.measure([], 0.0, 0.1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_queries_side_by_side_answer_what_they_answer_alone(model: Path, backend: str) -> None:
    pytest.importorskip(backend)
    spec = spec_of(model, backend).with_(options={"streams": 3})
    images = [np.full((2, SIZE, SIZE, 3), value, np.float32) for value in (0.1, 0.5, 0.9)]
    with engines.open(spec) as runner:
        queries = [runner.bind({"image": array}) for array in images]
        streams.measure(queries, 0.0, 0.05)
        for query, array in zip(queries, images):
            assert np.allclose(query()["scores"], scores_of(model, array), atol=1e-3)


def test_a_runner_that_is_not_parallel_is_opened_for_each_stream(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = engines.open
    monkeypatch.setattr(engines, "open", lambda spec: opened.append(real(spec)) or opened[-1])
    with real(spec_of(model)) as runner:
        given = {"image": np.zeros((1, SIZE, SIZE, 3), np.float32)}
        streams.side_by_side(runner, 3, given, 0.0, 0.01, 1)
        assert opened == []
        runner.parallel = False
        streams.side_by_side(runner, 3, given, 0.0, 0.01, 1)
    assert len(opened) == 2


def test_a_row_of_several_streams_tells_their_rate(model: Path) -> None:
    spec = spec_of(model)
    one = rounds.Target("net", "engine", "", "fp32", "onnxruntime", {"f32": 1}, 1, spec)
    two = one._replace(spec=spec.with_(options={"streams": 2}))
    assert two.label == "net (fp32, 1 thread, 2 streams)"
    done = rounds.run([one, two], [4], 1, 0.0, 0.05, 5)
    alone, both = done.rows
    assert done.failures == [] and (alone["streams"], both["streams"]) == (None, 2)
    assert both["images_per_s"] == pytest.approx(4 * both["rounds"][0]["queries_per_s"])
    assert alone["images_per_s"] == pytest.approx(4e3 / alone["mean_ms"])
    assert both["images_per_s"] <= 2.01 * 4e3 / both["min_ms"]  # no more than two at a time
