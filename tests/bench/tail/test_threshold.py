"""Thresholds: above the body of a distribution, and none where nothing fits."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tail.threshold import FEWEST, Candidate, candidates, chosen


def made(share: float, n: int = 20_000, seed: int = 0) -> np.ndarray:
    """Even body, and above 1 an exponential tail that so many values are in."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < share, 1 + rng.exponential(0.1, n), rng.random(n))


def test_candidates_rise_and_keep_enough_above_them() -> None:
    found = candidates(made(0.1), decluster=False)
    counts = [len(one.peaks.values) for one in found]
    assert counts[0] == 1000 and min(counts) >= FEWEST and counts == sorted(counts, reverse=True)
    assert all(one.excesses.min() > 0 for one in found)
    assert len(candidates(made(0.1, 200_000), decluster=False)[0].peaks.values) == 2000


@pytest.mark.parametrize("seed", range(3))
def test_the_lowest_threshold_is_taken_where_all_fit(seed: int) -> None:
    found = candidates(made(0.1, seed=seed), decluster=False)
    assert chosen(found) is found[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_body_is_left_out(seed: int) -> None:
    found = chosen(candidates(made(0.01, seed=seed), decluster=False))
    assert found is not None and found.threshold > 0.99 and abs(found.fit.shape) < 0.3


def test_few_ties_and_short_series_have_none() -> None:
    assert candidates(np.random.default_rng(0).random(900), decluster=False) == []
    assert candidates(np.repeat([1.0, 2.0], 5000), decluster=False) == []
    assert chosen([]) is None


def test_forward_stop() -> None:
    """The last place up to which the mean of -log(1 - p) is at most 5% ends what is rejected."""
    bare = candidates(made(0.1), decluster=False)[0]

    def of(*ps: float) -> list:
        return [Candidate(float(i), bare.peaks, bare.fit, p) for i, p in enumerate(ps)]

    first, second, third = of(0.001, 0.02, 0.5)
    assert chosen([first, second, third]) == third
    assert chosen(of(0.001, 0.2, 0.5)).threshold == 1.0
    assert chosen(of(0.001, 0.002, 0.01)) is None
    assert chosen(of(0.2, 0.001, 0.6)).threshold == 0.0
