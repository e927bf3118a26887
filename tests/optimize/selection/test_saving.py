from __future__ import annotations

from typing import Dict, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats
from optimize.selection.saving import ROUNDS, Saving, of_means, rounds_needed, saving, together


def sides(values: Sequence[float]) -> Dict[int, float]:
    return dict(enumerate(map(float, values)))


def test_both_formulas() -> None:
    """(10-5)/10 and (20-15)/20: a mean of 37.5%, and of the sums 10 of 30."""
    found = saving(sides([10, 20]), sides([5, 15]), True)
    assert found.mean_of_ratios == pytest.approx(0.375) and found.ratio_of_means == pytest.approx(1 / 3)
    assert (found.low, found.high, found.rounds, found.paired) == (None, None, 2, True)
    assert of_means(30.79, 16.80).mean_of_ratios == pytest.approx(0.4544, abs=5e-5)


def test_rounds_of_different_runs_are_not_paired() -> None:
    b, a = [10, 20], [5, 15]
    found = saving(sides(b), sides(a), False)
    assert not found.paired
    assert found.mean_of_ratios == pytest.approx(np.mean([(x - y) / x for x in b for y in a]))


def test_a_round_that_one_side_lacks_is_left_out_of_the_pairs() -> None:
    found = saving({0: 10.0, 1: 99.0, 2: 20.0}, {0: 5.0, 2: 15.0}, True)
    assert found.paired and found.rounds == 2 and found.mean_of_ratios == pytest.approx(0.375)


def test_drift_cancels_within_pairs() -> None:
    drift = np.linspace(1, 2, 10)
    rng = np.random.default_rng(1)
    b, a = 10 * drift * rng.normal(1, 0.002, 10), 7 * drift * rng.normal(1, 0.002, 10)
    paired, apart = (saving(sides(b), sides(a), same) for same in (True, False))
    assert paired.high - paired.low < 0.01 < apart.high - apart.low
    assert paired.low < 0.3 < paired.high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """90% of 400; the bounds are 4 standard deviations of such a count away."""
    rng = np.random.default_rng(7)
    hits = 0
    for seed in range(400):
        b, a = 10 * rng.normal(1, 0.05, 10), 7.5 * rng.normal(1, 0.05, 10)
        truth = 1 - 0.75 * 1.0025  # E[a/b] of two such: 1/b is 0.25% more in the mean
        found = saving(sides(b), sides(a), True, seed=seed)
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert 336 <= hits <= 384


@given(st.lists(st.floats(0.1, 100), min_size=5, max_size=12), st.floats(0.1, 2), st.booleans())
def test_an_interval_holds_its_estimate_and_one_seed_gives_one(values, factor, same) -> None:  # type: ignore[no-untyped-def]
    a = [value * factor for value in values]
    found = saving(sides(values), sides(a), same)
    assert found.low <= found.mean_of_ratios <= found.high
    assert found == saving(sides(values), sides(a), same)
    if same:
        assert found.mean_of_ratios == pytest.approx(1 - factor)


@given(st.floats(0.001, 1), st.floats(0.01, 0.5))
def test_the_rounds_needed_make_the_interval_narrow_enough(spread: float, gap: float) -> None:
    needed = rounds_needed(Saving(0.2 + gap, 0.2 + gap, None, None, 10, True, spread), 0.2)
    if needed is None:
        assert spread / gap > 15
        return
    reach = stats.student_quantile(0.95, needed - 1) * spread / needed**0.5
    assert needed >= ROUNDS and reach <= gap * (1 + 1e-9)
    assert needed <= ROUNDS + 1 + 1.1 * (1.84 * spread / gap) ** 2, "and not many more than that"


def test_rounds_needed_where_nothing_is_known_or_nothing_helps() -> None:
    assert rounds_needed(of_means(10, 8.5), 0.2) == ROUNDS, "nothing is known of the spread"
    assert rounds_needed(Saving(0.2, 0.2, None, None, 10, True, 0.1), 0.2) is None, "the estimate lies on the limit"


def test_over_several_devices_it_is_the_mean_of_each() -> None:
    """The user's two: 45.4% and 64.2%."""
    one = together([of_means(30.79, 16.80), of_means(65.5, 23.45)], [30.79, 65.5], [16.80, 23.45])
    assert one.mean_of_ratios == pytest.approx(0.548, abs=5e-4) and one.ratio_of_means == pytest.approx(0.582, abs=5e-4)
    assert one.low is None and one.rounds == 0
    ten = saving(sides([10] * 10), sides([7] * 9 + [7.1]), True)
    both = together([ten, ten], [10, 10], [7, 7])
    assert (both.low, both.high, both.rounds) == (ten.low, ten.high, 10)
