"""Entropy and MSE thresholds against plain implementations in float64, and what they do to tails."""

from __future__ import annotations

import math
from typing import Any, List

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calib import clipping
from calib.histogram import Histogram


def histogram(values: Any) -> Histogram:
    hist = Histogram()
    hist.add(np.asarray(values, np.float32))
    return hist


def divergence(bins: List[float], kept: int) -> float:
    """KL of the first `kept` bins and their form in 128 levels, as the slides tell it, one step at a time."""
    reference = bins[:kept]
    reference[-1] += sum(bins[kept:])
    levels: List[List[int]] = [[] for _ in range(128)]
    for index in range(kept):
        levels[index * 128 // kept].append(index)
    candidate = [0.0] * kept
    for members in levels:
        filled = [index for index in members if bins[index] > 0]
        for index in filled:
            candidate[index] = sum(bins[k] for k in members) / len(filled)
    all_p, all_q = sum(reference), sum(candidate)
    found = 0.0
    for p, q in zip(reference, candidate):
        if p > 0:
            found += math.inf if q == 0 else p / all_p * math.log((p / all_p) / (q / all_q))
    return found


counts = st.lists(st.sampled_from([0, 0, 1, 2, 7, 300, 40_000]), min_size=128, max_size=300)


@settings(max_examples=25, deadline=None)
@given(counts)
def test_divergences_equal_the_plain_ones(bins: List[int]) -> None:
    values = [*map(float, bins), 1.0]
    found = clipping.divergences(np.array(values))
    expected = [divergence(values, kept) for kept in range(128, len(values) + 1)]
    assert found == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.5, 3.0, 30.0]))
@example(220, 30.0)  # all bins are kept, and the largest value lies low in the last
def test_the_entropy_threshold_is_of_the_least_divergence(seed: int, freedom: float) -> None:
    hist = histogram(np.random.default_rng(seed).standard_t(freedom, 20_000))
    bins = hist.counts.reshape(2048, 4).sum(axis=1).astype(float)
    bins[0] = bins[1]
    values = bins[: int(np.flatnonzero(bins)[-1]) + 1].tolist()
    kept = math.ceil(clipping.entropy(hist) / (4 * hist.width) - 1e-6)
    tried = range(128, len(values) + 1, 41)
    assert divergence(values, min(kept, len(values))) <= min(divergence(values, k) for k in tried) + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.5, 3.0, 30.0]), st.sampled_from([127, 255]))
def test_the_mse_threshold_is_of_the_least_error_on_all_values(seed: int, freedom: float, levels: int) -> None:
    values = np.abs(np.random.default_rng(seed).standard_t(freedom, 20_000).astype(np.float32)).astype(np.float64)
    found = clipping.mse(histogram(values), levels)

    def error(threshold: float) -> float:
        step = threshold / levels
        return float(((np.minimum(np.rint(values / step), levels) * step - values) ** 2).mean())

    best = min(error(threshold) for threshold in np.geomspace(values.max() / 64, values.max(), 200))
    assert error(found) <= best * 1.02
    assert 0 < found <= values.max()


def test_squared_errors_are_those_of_rounding_and_clipping() -> None:
    values, weights = np.array([0.0, 0.4, 1.0, 3.0]), np.array([5.0, 2.0, 1.0, 3.0])
    found = clipping.squared_errors(values, weights, np.array([2.0, 4.0]), 2)
    assert found == pytest.approx([2 * 0.4**2 + 3 * 1.0**2, 2 * 0.4**2 + 1.0 + 3 * 1.0**2])


def test_a_lone_outlier_is_clipped_by_entropy_and_more_levels_clip_less_by_mse() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    values[0] = 40.0
    hist = histogram(values)
    assert 2.5 < clipping.entropy(hist) < 8
    assert 2.5 < clipping.mse(hist) <= clipping.mse(hist, 255) < 40


def test_nothing_seen_and_zeros_alone() -> None:
    for hist in (Histogram(), histogram(np.zeros(9))):
        assert clipping.entropy(hist) == clipping.mse(hist) == 0


def test_few_bins_are_kept_whole() -> None:
    hist = histogram([2.0**-105] * 3)
    assert clipping.entropy(hist) == hist.amax
