"""Histograms: exact under any split and order, percentiles against numpy on all data; averages free of the batches."""

from __future__ import annotations

from typing import Any, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.histogram import BINS, Histogram, TensorRange
from engines.errors import DataError

LARGE = float(np.float32(1e30))
floats = st.floats(-LARGE, LARGE, width=32, allow_nan=False)
arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=floats)


def histogram(*parts: Any) -> Histogram:
    hist = Histogram()
    for part in parts:
        hist.add(np.asarray(part, np.float32))
    return hist


def same(a: Histogram, b: Histogram) -> bool:
    return bool((a.counts == b.counts).all()) and a.exponent == b.exponent and a.total == b.total and a.amax == b.amax


@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
def test_order_and_split_do_not_matter(parts: List[Any], random: Any) -> None:
    whole = histogram(np.concatenate(parts))
    random.shuffle(parts)
    assert same(whole, histogram(*parts))


@given(arrays, arrays, arrays)
def test_merging_equals_adding(a: Any, b: Any, c: Any) -> None:
    whole = histogram(a, b, c)
    left, right = histogram(a), histogram(b, c)
    left.merge(right)
    assert same(whole, left)
    right.merge(histogram(a))
    assert same(whole, right)


@given(arrays)
def test_counts_are_exact(values: Any) -> None:
    hist = histogram(values)
    assert hist.counts.sum() == hist.total == values.size
    assert hist.minimum == values.min() and hist.maximum == values.max()
    if hist.width:
        index = np.floor(np.abs(values.astype(np.float64)) / hist.width).astype(int)
        assert (np.bincount(index, minlength=BINS) == hist.counts).all()
        assert hist.amax < BINS * hist.width


@given(arrays, st.floats(0, 100))
def test_percentile_is_within_a_bin_of_numpy(values: Any, percentile: float) -> None:
    hist = histogram(values)
    exact = np.percentile(np.abs(values).astype(np.float64), percentile)
    assert abs(hist.percentile(percentile) - exact) <= hist.width + 1e-6 * exact


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_percentiles_of_a_heavy_tail(seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(2, 200_000).astype(np.float32)
    hist = histogram(*np.array_split(values, 7))
    for percentile in (50, 99, 99.5, 99.9, 99.99, 100):
        exact = np.percentile(np.abs(values).astype(np.float64), percentile)
        assert abs(hist.percentile(percentile) - exact) <= hist.width


def test_growth_keeps_counts_when_the_range_doubles_many_times() -> None:
    hist = histogram([0.0, 0.1, 0.2], [3.0], [1e6])
    assert hist.counts.sum() == 5
    assert hist.counts[int(1e6 / hist.width)] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DataError):
        histogram([1.0, bad])


@given(hnp.arrays(np.float32, (12, 3), elements=st.floats(-100, 100, width=16)), st.integers(1, 12))
def test_the_moving_average_does_not_depend_on_the_batches(values: Any, batch: int) -> None:
    whole, parts = TensorRange(averages={0.9: (0.0, 0.0)}), TensorRange(averages={0.9: (0.0, 0.0)})
    whole.add(values, 12)
    for start in range(0, 12, batch):
        part = values[start : start + batch]
        parts.add(part, len(part))
    assert parts.average(0.9) == whole.average(0.9)
    peaks = np.abs(values).max(axis=1).astype(np.float64)
    weights = 0.9 ** np.arange(11, -1, -1)
    assert whole.average(0.9) == pytest.approx((weights * peaks).sum() / weights.sum(), rel=1e-12)
    with pytest.raises(KeyError):
        whole.average(0.5)
