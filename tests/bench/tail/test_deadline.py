"""Misses of a deadline, with an interval for all inferences and a word on whether they come together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tail.deadline import misses
from engines.errors import UsageError


def test_no_miss_is_no_proof() -> None:
    found = misses(np.ones(2995), 2.0)
    assert found["count"] == 0 and found["interval"][0] == 0
    assert found["interval"][1] == pytest.approx(1 - 0.025 ** (1 / 2995), rel=1e-9)


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    from scipy.stats import binomtest

    series = np.random.default_rng(0).permutation(np.concatenate([np.ones(990), np.full(10, 3.0)]))
    there = binomtest(10, 1000).proportion_ci(0.95, "exact")
    found = misses(series, 2.0)
    assert not found["clustered"] and found["interval"] == pytest.approx([there.low, there.high])


def test_misses_that_come_together_are_said_to_and_widen_the_interval() -> None:
    series = np.ones(20_000)
    for start in np.flatnonzero(np.random.default_rng(0).random(19_980) < 1 / 1000):
        series[start : start + 20] = 3.0
    found = misses(series, 2.0)
    assert found["clustered"] and found["longest"] >= 20 and found["after_a_miss"] == pytest.approx(0.95, abs=0.01)
    assert found["extremal_index"] == pytest.approx(1 / 20, rel=0.3)
    apart = misses(np.random.default_rng(1).permutation(series), 2.0)
    assert not apart["clustered"]
    width, narrow = (one["interval"][1] - one["interval"][0] for one in (found, apart))
    assert width > 2 * narrow


def test_all_missed() -> None:
    found = misses(np.full(100, 5.0), 1.0)
    assert found["share"] == 1 and found["interval"][1] == 1 and found["longest"] == 100


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan")])
def test_a_deadline_is_a_positive_time(deadline: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        misses(np.ones(10), deadline)


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_counts_are_what_they_say(missed: list) -> None:
    found = misses(np.where(missed, 2.0, 1.0), 1.5)
    low, high = found["interval"]
    assert found["count"] == sum(missed) and low <= found["share"] <= high
    text = "".join("x" if one else " " for one in missed)
    assert found["longest"] == max(map(len, text.split(" ")))
