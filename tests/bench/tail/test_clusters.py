"""Declustering: one value of each cluster, and an extremal index that is what series were made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.tail.clusters import extremal_index, peaks


def test_independent_exceedances_are_their_own_clusters() -> None:
    series = np.random.default_rng(0).random(20_000)
    found = peaks(series, 0.95, decluster=True)
    assert 0.9 < found.extremal_index <= 1 and found.exceedances == np.count_nonzero(series > 0.95)


@pytest.mark.parametrize("length", [2, 5])
def test_the_index_is_one_over_the_length_of_a_cluster(length: int) -> None:
    """Each value counts for the next few queries too: the moving maximum of independent values has index 1 / length."""
    rng = np.random.default_rng(1)
    alone = rng.random(100_000)
    series = np.max([np.roll(alone, shift) for shift in range(length)], axis=0)
    threshold = float(np.quantile(series, 0.98))
    assert extremal_index(np.flatnonzero(series > threshold)) == pytest.approx(1 / length, rel=0.1)
    found = peaks(series, threshold, decluster=True)
    assert found.extremal_index == pytest.approx(1 / length, rel=0.15)
    assert np.diff(found.positions).min() >= length


def test_a_cluster_gives_its_greatest_value() -> None:
    series = np.zeros(1000)
    for start in (100, 400, 420, 800):
        series[start : start + 3] = (1.0, 3.0, 2.0)
    found = peaks(series, 0.5, decluster=True)
    assert found.values.tolist() == [3.0] * 4 and found.positions.tolist() == [101, 401, 421, 801]
    assert found.extremal_index == pytest.approx(4 / 12) and found.exceedances == 12


def test_without_declustering_every_exceedance_stays() -> None:
    series = np.array([0.0, 2.0, 3.0, 0.0, 4.0])
    found = peaks(series, 1.0, decluster=False)
    assert found.values.tolist() == [2.0, 3.0, 4.0] and found.extremal_index == 1.0


@pytest.mark.journey
@given(arrays.arrays(np.float64, st.integers(3, 200), elements=st.integers(0, 5).map(float)))
def test_peaks_are_exceedances_in_order_and_never_all_gone(series: np.ndarray) -> None:
    found = peaks(series, 3.0, decluster=True)
    above = np.flatnonzero(series > 3.0)
    assert set(found.positions.tolist()) <= set(above.tolist())
    assert (np.diff(found.positions) > 0).all() and (len(found.positions) > 0) == (len(above) > 0)
    assert (series[found.positions] == found.values).all() and 0 < found.extremal_index <= 1
