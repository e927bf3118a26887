from __future__ import annotations

from typing import Any, Dict, List

import pytest

from bench.peers import turns
from bench.rounds import Target
from engines import child
from engines.errors import OptimizeError
from engines.spec import RunnerSpec

TARGET = Target("net", "engine", "", "fp32", "onnxruntime", {}, 0, RunnerSpec("net.onnx", "onnx"))


def measured(monkeypatch: Any, ours: List[float], theirs: List[float], order: List[str], images: int = 4) -> Any:
    """`turns.measure` where both sides answer from lists."""
    mine, others = iter(ours), iter(theirs)

    def run(*_: Any, **__: Any) -> Any:
        order.append("ours")
        ms = next(mine)
        return type("Done", (), {"failures": [], "rows": [{"p50_ms": ms, "images_per_s": 1e3 * images / (2 * ms)}]})

    def call(stage: str, arguments: Dict[str, Any], env: Any = None) -> Dict[str, float]:
        order.append(f"{stage} {arguments['x']}")
        ms = next(others)
        return {"median_ms": ms, "mean_ms": 2 * ms}

    monkeypatch.setattr(turns, "run", run)
    monkeypatch.setattr(child, "call", call)
    return turns.measure(TARGET, images, "a:b", {"x": 7}, len(ours), 1.0)


def test_sides_take_turns_and_drift_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    order: List[str] = []
    drift = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
    found = measured(monkeypatch, drift, [0.5 * ms for ms in drift], order)
    assert order == ["ours", "a:b 7", "a:b 7", "ours"] * 3
    assert found["ratio"] == pytest.approx(2) and found["interval"] == [pytest.approx(2)] * 2
    assert found["mean"]["ratio"] == pytest.approx(2) and found["rounds"] == 6


def test_few_rounds_give_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, [1.0] * 4, [1.0] * 4, [])
    assert found["interval"] is None and turns.verdict(found, 0.98, 1.02) == turns.SAME


@pytest.mark.parametrize(
    "interval, said",
    [
        *(([0.98, 1.02], turns.SAME), ([0.9, 0.97], turns.DIFFERENT), ([1.03, 1.1], turns.DIFFERENT)),
        *(([0.97, 1.0], turns.OPEN), ([1.0, 1.03], turns.OPEN), ([0.9, 1.1], turns.OPEN)),
    ],
)
def test_only_an_interval_within_the_limits_says_the_same(interval: List[float], said: str) -> None:
    assert turns.verdict({"ratio": 1.0, "interval": interval}, 0.98, 1.02) == said


def test_what_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done = type("Done", (), {"failures": [("net", "no such file")], "rows": []})
    monkeypatch.setattr(turns, "run", lambda *_, **__: done)
    with pytest.raises(OptimizeError, match="no such file"):
        turns.measure(TARGET, 1, "a:b", {}, 1, 1.0)
