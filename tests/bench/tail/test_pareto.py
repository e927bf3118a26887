"""The generalised Pareto distribution: fits find what series were made of, intervals hold it, misfits are seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tail import pareto

SHAPES = (-0.5, -0.3, -1e-12, 0.0, 0.2, 0.5)


def drawn(shape: float, n: int, scale: float = 2.0, seed: int = 0) -> npt.NDArray[Any]:
    share = np.random.default_rng(seed).random(n)
    return pareto.excess(share, np.full(n, shape), np.full(n, scale))


@pytest.mark.parametrize("shape", SHAPES)
def test_our_formulas_are_scipys(shape: float) -> None:
    from scipy.stats import genpareto

    values = drawn(shape, 200)
    there = genpareto(shape if abs(shape) > 1e-9 else 0.0, scale=2.0)
    found = pareto.log_likelihood(values, np.array([shape]), np.array([2.0]))[0]
    assert found == pytest.approx(there.logpdf(values).sum(), rel=1e-6)
    assert pareto.exceeded(values, pareto.Fit(shape, 2.0)) == pytest.approx(there.sf(values), rel=1e-6, abs=1e-12)
    share = np.array([0.5, 1e-3, 1e-9])
    assert pareto.excess(share, np.full(3, shape), np.full(3, 2.0)) == pytest.approx(there.isf(share), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_fits_find_the_shape_and_scale(shape: float) -> None:
    values = drawn(shape, 20_000)
    best = pareto.fit(values)
    shapes, scales = pareto.quick_fit(np.sort(values))
    assert best == pytest.approx((shape, 2.0), abs=0.04)
    assert (shapes[0], scales[0]) == pytest.approx((shape, 2.0), abs=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_likelier_than_the_fit(seed: int) -> None:
    from scipy.stats import genpareto

    values = drawn(0.2, 300, seed=seed)
    shape, _, scale = genpareto.fit(values, floc=0)
    ours, theirs = (
        pareto.log_likelihood(values, np.array([a]), np.array([b]))[0] for a, b in (pareto.fit(values), (shape, scale))
    )
    assert ours >= theirs - 1e-6


@pytest.mark.journey
@given(st.floats(1e-6, 1e6), st.integers(0, 50))
def test_a_fit_follows_the_unit(scale: float, seed: int) -> None:
    values = drawn(0.1, 100, seed=seed)
    one, other = pareto.fit(values), pareto.fit(values * scale)
    assert other.shape == pytest.approx(one.shape, abs=1e-4)
    assert other.scale == pytest.approx(one.scale * scale, rel=1e-4)


def test_the_contour_is_where_the_likelihood_has_fallen_so_far() -> None:
    values = drawn(0.1, 500)
    best = pareto.fit(values)
    around = pareto.region(values, best)
    shapes, logs = around.at(1.92)
    greatest = pareto.log_likelihood(values, np.array([best.shape]), np.array([best.scale]))[0]
    assert greatest - pareto.log_likelihood(values, shapes, np.exp(logs)) == pytest.approx(1.92, abs=0.05)


def test_the_interval_is_that_of_the_profile_likelihood() -> None:
    """Against the definition: the greatest quantile whose best fit is likely enough, found by scanning both."""
    values = drawn(0.1, 400)
    best = pareto.fit(values)
    low, high = pareto.interval(pareto.region(values, best), (1.0, 400.0, 400.0), 1e-3, 1.92)
    shapes, scales = np.meshgrid(np.linspace(-0.15, 0.5, 300), np.linspace(1.2, 3, 300))
    likely = pareto.log_likelihood(values, shapes.ravel(), scales.ravel())
    top = pareto.log_likelihood(values, np.array([best.shape]), np.array([best.scale]))[0]
    inside = likely >= top - 1.92
    of = pareto.excess(np.full(inside.sum(), 1e-3), shapes.ravel()[inside], scales.ravel()[inside])
    assert (low, high) == pytest.approx((of.min(), of.max()), rel=0.02)


def test_an_uncertain_rate_widens_the_interval() -> None:
    values = drawn(0.1, 400)
    around = pareto.region(values, pareto.fit(values))
    narrow = pareto.interval(around, (0.05, 4e6, 8e7), 1e-2, 1.92)
    wide = pareto.interval(around, (0.05, 50.0, 1000.0), 1e-2, 1.92)
    assert wide[0] < narrow[0] and wide[1] > narrow[1]


@pytest.mark.journey
@given(st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=60).filter(lambda values: len(set(values)) > 3))
def test_anything_positive_is_fitted_with_finite_numbers(values: list) -> None:
    excesses = np.sort(np.array(values))
    best = pareto.fit(excesses)
    assert math.isfinite(best.shape) and best.scale > 0
    assert 0 <= pareto.misfit(excesses) <= 1 and 0 <= pareto.greatest(excesses, best) <= 1
    low, high = pareto.interval(pareto.region(excesses, best), (0.05, len(values), 20.0 * len(values)), 1e-6, 1.92)
    assert 0 <= low <= high and math.isfinite(low)


@pytest.mark.journey
def test_p_values_of_the_fit_are_even_where_it_is_right() -> None:
    found = np.array([pareto.misfit(drawn(0.1, 300, seed=seed)) for seed in range(200)])
    assert 0.01 <= np.mean(found < 0.05) <= 0.10 and 0.40 <= np.mean(found < 0.5) <= 0.60


def test_another_distribution_is_a_misfit() -> None:
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.exponential(1.0, 500), 8 + rng.exponential(0.2, 100)])
    assert pareto.misfit(two) < 0.01


def test_one_value_from_elsewhere_is_seen_where_the_whole_hides_it() -> None:
    found = []
    for seed in range(10):
        values = drawn(0.0, 1000, seed=seed)
        alone = np.append(values, 3 * values.max())
        assert pareto.greatest(values, pareto.fit(values)) > 0.001
        assert pareto.greatest(alone, pareto.fit(alone)) < 0.01
        found.append(pareto.misfit(alone) < 0.01)
    assert sum(found) <= 5
