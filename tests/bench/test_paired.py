"""Statistics of pairs, held against plain references."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import paired

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_mcnemars_test_is_the_binomial_one(lost, won):
    n = lost + won
    weights = [Fraction(math.comb(n, i), 2**n) for i in range(n + 1)]
    # two-sided: every outcome no likelier than the one seen, which for a fair coin is twice the smaller tail
    expected = sum(w for w in weights if w <= weights[lost])
    assert paired.mcnemar(lost, won) == pytest.approx(float(expected), rel=1e-12)
    assert paired.mcnemar(lost, won) == paired.mcnemar(won, lost)


def test_mcnemars_test_as_published_and_for_many_images():
    assert paired.mcnemar(0, 0) == paired.mcnemar(5, 5) == 1.0
    assert paired.mcnemar(1, 7) == pytest.approx(0.0703125)  # the example of Fagerland and others: 0.070
    assert paired.mcnemar(0, 10) == pytest.approx(2 / 1024)
    assert paired.mcnemar(0, 5000) == 0.0
    normal = math.erfc((21000 - 20000 - 1) / math.sqrt(41000) / math.sqrt(2))
    assert paired.mcnemar(20000, 21000) == pytest.approx(normal, rel=0.01)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_shares_that_the_score_test_does_not_refuse(case):
    hits, n = case
    low, high = paired.wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for edge in (low, high):
        if 0 < edge < 1:  # the score test is at its limit there
            score = abs(hits / n - edge) / math.sqrt(edge * (1 - edge) / n)
            assert score == pytest.approx(paired.Z95, rel=1e-6)


def test_no_image_tells_nothing():
    assert paired.wilson(0, 0) == [0.0, 1.0]


@st.composite
def results(draw):
    n = draw(st.integers(1, 80))
    lists = [draw(st.lists(st.integers(0, top), min_size=n, max_size=n)) for top in (5, 1, 1)]
    labels, before, after = map(np.array, lists)
    return labels, before.astype(bool), after.astype(bool)


@given(results(), st.integers(1, 8))
def test_the_worst_classes_are_those_of_a_plain_count(case, most):
    labels, before, after = case
    expected = []
    for label in range(6):
        mine = [i for i, one in enumerate(labels) if one == label]
        right, still = (sum(bool(part[i]) for i in mine) for part in (before, after))
        if still < right:
            expected.append((-100 * (right - still) / len(mine), -len(mine), label, right, still))
    found = paired.worst_classes(before, after, labels, ["a", "b"], most)
    told = [(-one["drop"], -one["n"], one["class"], one["before"], one["after"]) for one in found]
    assert told == sorted(expected)[:most]
    assert all(one["name"] == ("ab"[one["class"]] if one["class"] < 2 else str(one["class"])) for one in found)


@given(results())
def test_the_drop_is_that_of_the_counts(case):
    _, before, after = case
    found, (low, high) = paired.drop(before, after)
    assert found == pytest.approx(100 * (before.mean() - after.mean()))
    assert -100 <= low <= high <= 100
    assert paired.discordant(before, after) == (
        sum(a and not b for a, b in zip(before, after)),
        sum(b and not a for a, b in zip(before, after)),
    )


@pytest.mark.parametrize(
    ("top1", "n", "expected", "many", "told"),
    [
        (0.10, 1000, 0.91, 1000, True),
        (0.88, 10000, 0.91, 10000, True),
        (0.90, 10000, 0.91, 10000, False),  # one point is no other scale
        (0.80, 20, 0.91, 10000, False),  # nor are so few images
        (0.0, 20, 0.91, 0, True),
        (0.95, 1000, 0.91, 0, False),
    ],
)
def test_an_accuracy_that_nobody_expected(top1, n, expected, many, told):
    assert paired.unexpected(top1, n, expected, many) is told


def test_guessing():
    assert paired.by_chance(0.10, 1000, 10) and paired.by_chance(0.11, 1000, 10) and paired.by_chance(0.02, 1000, 10)
    assert not paired.by_chance(0.15, 1000, 10) and not paired.by_chance(1.0, 10, 2)


def test_the_drops_interval_is_agresti_and_mins():
    # b = 7, c = 2 of n = 100: (7 - 2) / 102 +- 1.96 sqrt(7 + 2 + 1 - 25 / 102) / 102
    before, after = np.zeros(100, bool), np.zeros(100, bool)
    before[:7], after[7:9] = True, True
    middle, (low, high) = paired.drop(before, after)
    assert middle == pytest.approx(5.0)
    assert (low, high) == (pytest.approx(-1.0994, abs=2e-3), pytest.approx(10.903, abs=2e-3))


def test_no_difference_is_not_certainty():
    same = np.ones(100, bool)
    middle, (low, high) = paired.drop(same, same)
    assert middle == 0 and low == pytest.approx(-high) and high > 1


def test_the_drops_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    hits, runs, truth = 0, 2000, 100 * (0.03 - 0.01)
    for _ in range(runs):
        kind = rng.choice(4, 500, p=[0.6, 0.03, 0.01, 0.36])
        _, (low, high) = paired.drop((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        hits += low <= truth <= high
    assert 0.935 <= hits / runs <= 0.975
