from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench import stats
from engines.errors import UsageError

times = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=200)


def test_percentiles_are_trtexecs():
    # max(n - 1 - int((1 - p/100) * n), 0) on the sorted samples
    assert stats.percentile([5, 1, 4, 2, 3], 99) == 5
    assert stats.percentile(range(10), 50) == 4
    assert stats.percentile(range(10), 90) == 8
    assert stats.percentile(range(100), 99) == 99  # 1 - 0.99f is 0.00999999: nothing is cut off
    assert stats.percentile(range(1000), 95) == 949
    assert stats.percentile([7], 0) == 7


def test_float32_arithmetic_decides_the_index():
    # (1 - 0.9f) * 10 is 1.0000002 in float32 and 0.9999999999999998 in float64
    assert int((1 - 90 / 100) * 10) == 0
    assert stats.percentile(range(10), 90) == 8


def test_summary_of_known_samples():
    assert stats.summary([4.0, 1.0, 2.0, 3.0]) == {
        "p50_ms": 2.5,
        "p90_ms": 4.0,
        "p95_ms": 4.0,
        "p99_ms": 4.0,
        "min_ms": 1.0,
        "max_ms": 4.0,
        "mean_ms": 2.5,
    }


@given(times)
def test_percentiles_are_measured_values_in_order(samples):
    found = stats.summary(samples)
    ordered = [found[name] for name in ("min_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")]
    assert ordered == sorted(ordered)
    assert all(value in samples for value in ordered)
    assert found["min_ms"] <= found["p50_ms"] <= found["max_ms"]


@given(times, st.randoms())
def test_order_does_not_matter(samples, random):
    shuffled = list(samples)
    random.shuffle(shuffled)
    first, second = stats.summary(samples), stats.summary(shuffled)
    assert first.pop("mean_ms") == pytest.approx(second.pop("mean_ms"))
    assert first == second


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")], [[1.0]]])
def test_no_statistics_of_nothing(bad):
    with pytest.raises(UsageError):
        stats.summary(bad)


def test_percentile_out_of_range():
    with pytest.raises(UsageError):
        stats.percentile([1.0], 101)


def test_variation_is_that_of_round_medians():
    assert stats.variation([[1, 1, 99], [1, 1, 1]]) == 0
    assert stats.variation([[1.0], [3.0]]) == pytest.approx(0.5)
    assert stats.variation([[0.0], [0.0]]) == 0


def test_the_last_three_windows_must_be_alike():
    assert stats.settled([[5.0], [1.0], [1.05], [1.1]]) and not stats.settled([[1.0], [1.0], [1.0], [1.11]])
    assert not stats.settled([[1.0] * 3, [1.0] * 3, [1.0, 1.0, 9.0]])  # the same median, another throughput
    assert stats.settled([[9.0] * 6, [1.0] * 6]) and not stats.settled([[1.0, 1.0, 1.0, 1.0, 1.2, 1.2]])
    assert stats.settled([[1.0]])


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), min_size=3, max_size=5), st.floats(0.1, 10))
def test_settled_does_not_depend_on_the_unit_or_the_order_of_the_last_windows(rounds, unit):
    margin = [max(v) / min(v) for v in [[float(f(r)) for r in rounds[-3:]] for f in (np.median, np.mean)]]
    assume(all(abs(value - stats.SETTLED) > 1e-6 for value in margin))
    found = stats.settled(rounds)
    assert found == stats.settled([[unit * v for v in values] for values in rounds])
    assert found == stats.settled([*rounds[:-3], *rounds[-3:][::-1]])


def test_variation_of_one_round_looks_at_its_course():
    assert stats.variation([[1.0] * 100]) == 0
    assert stats.variation([[1.0] * 50 + [2.0] * 50]) == pytest.approx(1 / 3)
    assert stats.variation([[1.0, 1.0]]) == 0


def test_students_quantiles_match_the_printed_table():
    table = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 10: 1.812, 30: 1.697, 120: 1.658}
    for df, value in table.items():
        assert stats.student_quantile(0.95, df) == pytest.approx(value, abs=6e-4)


def test_the_expanded_tail_tends_to_the_plain_one():
    assert stats.expanded_tail(0.05, 5) == pytest.approx(0.0086, abs=1e-4)
    assert stats.expanded_tail(0.05, 10_000) == pytest.approx(0.05, rel=1e-2)


def simulated(rng, rounds, center, sigma):
    return [center * np.exp(rng.normal(0, sigma)) * rng.lognormal(0, 0.02, 60) for _ in range(rounds)]


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_cover_the_truth_as_often_as_they_say(paired, monkeypatch):
    monkeypatch.setattr(stats, "_RESAMPLES", 400)
    monkeypatch.setattr(stats, "_KEPT", 60)
    rng = np.random.default_rng(7)
    runs, hits, narrow = 150, 0, 0
    for seed in range(runs):
        a, b = simulated(rng, 5, 3.0, 0.03), simulated(rng, 5, 2.0, 0.03)
        found = stats.ratio_interval(a, b, seed=seed, paired=paired)
        hits += found.low <= 1.5 <= found.high
        # one level alone, as if every sample were a replicate, misses most of the time
        pooled = [np.median(rng.choice(np.concatenate(s), (100, 300)), axis=1) for s in (a, b)]
        low, high = np.quantile(pooled[0] / pooled[1], [0.05, 0.95])
        narrow += low <= 1.5 <= high
    # 90%, with three standard errors of 150 runs; five rounds err on the wide side
    assert 0.82 <= hits / runs <= 0.99
    assert narrow / runs < 0.6


def test_pairing_cancels_drift():
    rng = np.random.default_rng(1)
    drift = np.linspace(1.0, 2.0, 8)
    a = [d * rng.lognormal(0, 0.01, 50) * 2 for d in drift]
    b = [d * rng.lognormal(0, 0.01, 50) for d in drift]
    apart, together = (stats.ratio_interval(a, b, paired=p) for p in (False, True))
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_verdicts():
    slow, fast = [[3.0, 3.1, 2.9]] * 5, [[1.0, 1.1, 0.9]] * 5
    assert stats.ratio_interval(slow, fast).verdict == "faster"
    assert stats.ratio_interval(fast, slow).verdict == "slower"
    same = stats.ratio_interval(slow, slow)
    assert same.verdict == "no difference" and same.ratio == 1


@pytest.mark.parametrize("rounds", [1, 4])
def test_no_verdict_with_few_rounds(rounds):
    found = stats.ratio_interval([[2.0]] * rounds, [[1.0]] * 9)
    assert found == (2.0, None, None, 0.9, rounds)
    assert found.verdict == "no verdict: fewer than 5 rounds"


@given(st.lists(times, min_size=5, max_size=6), st.lists(times, min_size=5, max_size=6), st.integers(0, 9))
def test_intervals_hold_the_ratio_and_repeat(a, b, seed):
    stats_resamples = stats._RESAMPLES
    stats._RESAMPLES = 50
    try:
        first, second = (stats.ratio_interval(a, b, seed=seed) for _ in range(2))
    finally:
        stats._RESAMPLES = stats_resamples
    assert first == second
    assert first.low <= first.ratio <= first.high


@pytest.mark.parametrize("bad", [([], [[1.0]], False), ([[1.0]] * 5, [[1.0]] * 6, True), ([[]], [[1.0]], False)])
def test_ratios_of_nothing_are_refused(bad):
    with pytest.raises(UsageError):
        stats.ratio_interval(bad[0], bad[1], paired=bad[2])
