"""Tests of assumptions: right about as often as they promise on sound series, and awake on the others."""

from __future__ import annotations

import math
from typing import Callable, Dict, List

import numpy as np
import pytest

from bench.tail import assumptions
from bench.tail.assumptions import Check, holm
from bench.tail.clusters import peaks

N = 4000


def failed(series: np.ndarray) -> set:
    found = assumptions.of_series(series, peaks(series, float(np.quantile(series, 0.95)), decluster=False))
    return {test.name for test in found if test.failed}


def normal(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(10, 1, n)


def test_holms_procedure() -> None:
    """The example of every text book: 0.01, 0.04, 0.03 and 0.005 at 0.05 reject the smallest two."""
    tests = [Check(str(p), "", p) for p in (0.01, 0.04, 0.03, 0.005)]
    assert [test.failed for test in holm(tests)] == [True, False, False, True]
    assert not any(test.failed for test in holm([Check("", "", 0.06), Check("", "", 0.9)]))


@pytest.mark.journey
def test_each_p_value_is_even_on_sound_series() -> None:
    found: Dict[str, List[float]] = {}
    for seed in range(60):
        series = normal(seed, 2000)
        tests = assumptions.of_series(series, peaks(series, float(np.quantile(series, 0.95)), decluster=False))
        for test in tests:
            found.setdefault(test.name, []).append(test.p)
    assert len(found) == 11
    for name, ps in found.items():
        assert np.mean(np.array(ps) < 0.05) <= 0.15 and np.mean(np.array(ps) < 0.5) <= 0.72, name


@pytest.mark.journey
def test_sound_series_seldom_fail() -> None:
    assert sum(bool(failed(normal(seed))) for seed in range(60)) <= 8  # 3 are expected; more than 8 in 1 of 200


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: np.convolve(s, np.ones(3) / 3, "same"), {"Ljung-Box", "runs"}),
        (lambda s: s + np.linspace(0, 1, N), {"Mann-Kendall", "KPSS"}),
        (lambda s: s + (np.arange(N) > 0.7 * N), {"Pettitt", "Kolmogorov-Smirnov over quarters"}),
        (lambda s: s + 0.5 * np.sin(np.arange(N) * 0.3), {"Fisher's g"}),
        (lambda s: s + 3 * (np.arange(N) % 100 == 0), {"period in the tail"}),
        (lambda s: np.sort(s.reshape(-1, 8), axis=0).ravel(), {"rate of the tail"}),
        (lambda s: 10 + (s - 10) * np.where(np.arange(N) < N // 2, 1, 1.5), {"Kolmogorov-Smirnov over quarters"}),
    ],
)
def test_what_is_wrong_with_a_series_is_found(change: Callable, expected: set) -> None:
    assert expected <= failed(change(normal(3)))


def test_bursts_in_the_tail_are_found_behind_a_quiet_body() -> None:
    """One of a hundred is slow, and so is the next: ranks of the body hardly see it."""
    rng = np.random.default_rng(0)
    series = normal(5)
    for start in rng.integers(0, N - 4, 40):
        series[start : start + 4] += 6
    assert "gaps in the tail" in failed(series)


@pytest.mark.journey
def test_declustered_peaks_of_a_short_dependence_pass() -> None:
    passed = 0
    for seed in range(10):
        series = np.convolve(normal(seed, 20_000), np.ones(3) / 3, "valid")
        found = peaks(series, float(np.quantile(series, 0.97)), decluster=True)
        passed += not any(test.failed for test in assumptions.of_peaks(found, len(series)))
    assert passed >= 8


def test_declustered_peaks_of_a_drift_do_not() -> None:
    series = normal(0, 20_000) + np.linspace(0, 1, 20_000)
    found = peaks(series, float(np.quantile(series, 0.97)), decluster=True)
    assert "rate of the tail" in {t.name for t in assumptions.of_peaks(found, len(series)) if t.failed}


@pytest.mark.journey
@pytest.mark.parametrize("statistic", [0.02, 0.1, 0.347, 0.461, 0.743, 2.0])
def test_the_distribution_of_kpss_is_its_table(statistic: float) -> None:
    """Against the statistic of many bridges; KPSS' own table has 10%, 5% and 1% at 0.347, 0.463 and 0.739."""
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.normal(0, 1, (4000, 400)), axis=1) / 20
    bridges = walks - walks[:, -1:] * np.arange(1, 401) / 400
    seen = float(np.mean((bridges**2).mean(axis=1) > statistic))
    assert assumptions.cramer_von_mises(statistic) == pytest.approx(seen, abs=0.025)


def test_ljung_box_is_its_formula() -> None:
    values = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 6.0, 8.0, 7.0, 9.0, 11.0])
    from scipy.stats import chi2

    centred, n = values - values.mean(), 10
    r = [float((centred[k:] * centred[:-k]).sum() / (centred**2).sum()) for k in (1, 2)]
    statistic = n * (n + 2) * sum(one**2 / (n - k) for k, one in enumerate(r, 1))
    assert assumptions.ljung_box(values) == pytest.approx(chi2.sf(statistic, 2))


@pytest.mark.parametrize("values", [np.ones(50), np.array([1.0, 2.0]), np.arange(3.0)])
def test_series_that_say_nothing_fail_nothing(values: np.ndarray) -> None:
    for of in (assumptions.ljung_box, assumptions.runs, assumptions.stationary, assumptions.periodic):
        assert math.isfinite(of(values)) and of(values) >= 0
