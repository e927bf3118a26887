"""From series to estimates, and to refusals that say why."""

from __future__ import annotations

import json
import math
from typing import Any, Dict

import numpy as np
import pytest

from bench.tail import estimate, pareto, words
from engines.errors import DataError, UsageError

N = 20_000


def tail(shape: float, seed: int = 0, n: int = N) -> np.ndarray:
    share = np.random.default_rng(seed).random(n)
    return 1 + pareto.excess(share, np.full(n, shape), np.full(n, 0.05))


def true(shape: float, p: float) -> float:
    return 1 + float(pareto.excess(np.array([p]), np.array([shape]), np.array([0.05]))[0])


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_a_sound_series_is_extrapolated(shape: float) -> None:
    found = estimate.estimate(tail(shape), (1e-3, 1e-5))
    assert found["refused"] is None and not found["declustered"]
    assert [one["p"] for one in found["estimates"]] == [1e-3, 1e-5]
    for one in found["estimates"]:
        assert one["low_ms"] <= true(shape, one["p"]) <= one["high_ms"]
        assert one["low_ms"] <= one["ms"] <= one["high_ms"]
    assert [one["extrapolated"] for one in found["estimates"]] == [False, True]
    assert found["threshold"]["shape_low"] < shape < found["threshold"]["shape_high"]


@pytest.mark.parametrize("p", [0.03, 1e-2, 1e-3])
def test_what_is_not_as_rare_as_the_threshold_is_read_from_the_samples(p: float) -> None:
    series = tail(0.0, n=400_000)
    found = estimate.estimate(series, (p, 1e-6))
    (one, _), share = found["estimates"], found["threshold"]["exceedances"] / len(series)
    assert one["low_ms"] <= true(0.0, p) <= one["high_ms"] and one["low_ms"] < one["ms"] < one["high_ms"]
    if p > share:
        assert one["ms"] == pytest.approx(float(np.quantile(series, 1 - p)), abs=1e-6)
        assert one["ms"] < found["threshold"]["ms"]
    counted = estimate.out_of_sample(series)
    assert counted is not None
    assert all(abs(one["seen"] - one["expected"]) < 5 * math.sqrt(one["expected"]) + 5 for one in counted)


def test_what_was_seen_is_told_whatever_comes_of_the_tail() -> None:
    series = np.array([1.0, 2.0, 4.0])
    found = estimate.estimate(series)
    assert (found["n"], found["best_ms"], found["median_ms"], found["hwm_ms"], found["hwm_ratio"]) == (3, 1, 2, 4, 4)
    assert found["mu_3_sigma_ms"] == pytest.approx(series.mean() + 3 * series.std())
    assert found["refused"]["needed"] == 1000 and "too few" in found["refused"]["reason"]


def test_the_result_is_strict_json_and_the_same_again() -> None:
    once, again = (json.dumps(estimate.estimate(tail(0.0)), allow_nan=False) for _ in range(2))
    assert once == again


def test_the_curve_goes_from_the_threshold_down_and_widens() -> None:
    curve = estimate.estimate(tail(0.0))["curve"]
    assert curve[0]["p"] == pytest.approx(0.05) and curve[-1]["p"] == pytest.approx(1e-9)
    for field in ("ms", "high_ms"):
        assert all(a[field] < b[field] for a, b in zip(curve, curve[1:]))
    widths = [one["high_ms"] - one["low_ms"] for one in curve]
    assert widths[-1] > 5 * widths[0]


def test_short_dependence_is_declustered_and_the_rate_is_per_inference() -> None:
    """The moving maximum of two: every slow query is followed by another, but one in n is still one in n."""
    alone = tail(0.0, n=N + 1)
    found = estimate.estimate(np.maximum(alone[1:], alone[:-1]), (1e-3, 1e-5))
    assert found["declustered"] and found["refused"] is None
    assert found["extremal_index"] == pytest.approx(0.5, abs=0.07)
    for one in found["estimates"]:
        assert one["low_ms"] <= true(0.0, one["p"] / 2) <= one["high_ms"]  # either of two may be it


def series(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {
        "drift": lambda: 1 + 0.02 * (rng.normal(0, 1, N) + np.linspace(0, 1, N)),
        "modes": lambda: 1 + 0.02 * rng.normal(0, 1, N) + 0.1 * (np.arange(N) // 5000 % 2),
        "periodic pauses": lambda: 1 + 0.02 * rng.gamma(4, 0.5, N) + 0.2 * (np.arange(N) % 100 == 0),
        "alike": lambda: np.ones(N),
        "coarse clock": lambda: np.round(1 + 0.02 * rng.gamma(4, 0.5, N), 2),
        "few": lambda: tail(0.0, n=999),
        "no mean": lambda: 1 + pareto.excess(rng.random(N), np.full(N, 1.2), np.full(N, 0.05)),
    }[name]()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("drift", "rate of the tail"),
        ("modes", "clusters, and 50 are needed"),
        ("periodic pauses", ""),
        ("alike", "no spread"),
        ("coarse clock", "too coarse"),
        ("few", "999 samples are too few"),
        ("no mean", "no mean"),
    ],
)
def test_a_series_that_is_not_sound_is_refused_with_the_reason(name: str, words: str) -> None:
    found = estimate.estimate(series(name))
    refused = found["refused"]
    assert refused is not None and words in refused["reason"] and refused["hint"]
    assert found["estimates"] == [] and found["curve"] == [] and refused["needed"] > 0
    assert found["n"] == len(series(name))
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.ones(5000), "more samples alone would not help"),
        (tail(0.0)[:100], "1,000 samples would be needed"),
    ],
)
def test_a_refusal_tells_the_samples_needed_only_where_more_would_help(values: np.ndarray, told: str) -> None:
    found = {**estimate.estimate(values), "deadline": None, "first_ms": None, "out_of_sample": None}
    assert words.tested(found)[-1].endswith(told)


def test_a_fine_clock_changes_nothing_and_a_step_of_it_is_told() -> None:
    fine, cut = (estimate.estimate(values, (1e-5,)) for values in (tail(0.0), np.round(tail(0.0), 3)))
    assert cut["resolution_ms"] == pytest.approx(1e-3)
    assert cut["estimates"][0]["ms"] == pytest.approx(fine["estimates"][0]["ms"], rel=0.02)


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan], [1.0, -1.0], [0.0, 1.0], [1.0, math.inf]])
def test_what_is_no_time_is_an_error(wrong: Any) -> None:
    with pytest.raises(DataError, match="above zero and finite"):
        estimate.estimate(wrong)


@pytest.mark.parametrize("p", [0.0, 0.05, 1.0, -1e-6, 1e-16, 1e-320, math.nan])
def test_probabilities_are_those_of_a_tail(p: float) -> None:
    with pytest.raises(UsageError, match="probability"):
        estimate.estimate(tail(0.0), (p,))


def test_samples_to_have_seen_it() -> None:
    """299 values show one in a hundred with 95% certainty, and so on."""
    assert [estimate.seen_after(p) for p in (1e-2, 1e-3, 1e-4)] == [299, 2995, 29956]


def test_the_second_half_is_counted_against_the_first() -> None:
    found = estimate.out_of_sample(tail(0.0, n=40_000))
    assert found is not None
    by_p: Dict[float, Dict[str, Any]] = {one["p"]: one for one in found}
    assert by_p[1e-2]["expected"] == 200 and 140 < by_p[1e-2]["seen"] < 260
    assert 5 < by_p[1e-3]["seen"] < 45
    assert estimate.out_of_sample(series("drift")) is None
    assert by_p[1e-3]["ms"] == pytest.approx(true(0.0, 1e-3), rel=0.05)


def test_a_tail_that_does_not_fit_says_what_the_many_samples_would_be_for() -> None:
    drifting = np.linspace(1, 2, 3000)
    found = {**estimate.estimate(drifting), "first_ms": None, "deadline": None, "out_of_sample": None}
    (last,) = (text for text in words.tested(found) if text.startswith("no estimate"))
    assert "without a tail that fits, 2,995,732," in last
