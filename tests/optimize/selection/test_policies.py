from __future__ import annotations

from typing import List, Tuple

from hypothesis import given
from hypothesis import strategies as st

from optimize.selection import policies
from optimize.selection.asked import Asked, Drop
from optimize.selection.candidates import Candidate, Cost
from optimize.selection.policies import Judged

from .conftest import row

POINTS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: 0.5 + n / 50), st.integers(1, 30), st.integers(1, 5)),
    min_size=1,
    max_size=8,
)


def judged(points: List[Tuple[float, int, int]]) -> List[Judged]:
    found = [
        Candidate(f"m{number}", 0, row(f"m{number}", top1, size_bytes=size), {}, Cost(None, None, float(ms)))
        for number, (top1, ms, size) in enumerate(points)
    ]
    told, axes = policies.judged(found, {one.name: one.mean.query_s or 0.0 for one in found})
    assert axes == ["accuracy", "latency", "size"]
    return told


@given(POINTS)
def test_everything_off_the_front_is_dominated_by_something_on_it(points: List[Tuple[float, int, int]]) -> None:
    found = judged(points)
    by = {one.name: one for one in found}
    dominators = policies.dominators(found)
    front = [one for one in found if one.name not in dominators]
    assert front
    for name, better in dominators.items():
        assert better in {one.name for one in front} and policies.dominates(by[better].point, by[name].point)
    for one in front:
        assert not any(policies.dominates(other.point, one.point) for other in found)


@given(POINTS, st.floats(0, 20))
def test_every_policy_stays_within_the_limit_and_keeps_its_word(
    points: List[Tuple[float, int, int]], drop: float
) -> None:
    found = judged(points)
    baseline = policies.greedy(found)
    assert baseline.top1 == max(one.top1 for one in found)
    asked = Asked(drop=Drop(drop, False))
    within = [one for one in found if 100 * (baseline.top1 - one.top1) <= drop + 1e-9]
    budget = policies.pick(found, baseline, asked)
    assert budget in within and budget.total_s == min(one.total_s for one in within)
    balanced = policies.pick(found, baseline, asked._replace(policy="pareto"))
    assert balanced in within and balanced.name not in policies.dominators(found)
    assert policies.pick(found, baseline, asked._replace(policy="greedy")) is baseline


def test_accuracies_that_the_images_do_not_tell_apart() -> None:
    """48.45% of 10,000 has a standard error of 0.5 points: 8 images are an accident, 200 are none."""

    def one(name: str, top1: float, n: int = 10_000) -> Candidate:
        about = row(name, top1, dataset={"name": "cifar10", "n": n, "sha256": None})
        return Candidate(name, 0, about, {}, Cost(None, None, 1.0))

    found = [one("best", 0.4845), one("near", 0.4837), one("far", 0.4645)]
    told, _ = policies.judged(found, dict.fromkeys(("best", "near", "far"), 1.0))
    assert policies.ties(told, told[0]) == ["near"]
    few, _ = policies.judged([one("best", 0.4845, 100), one("far", 0.4645, 100)], {"best": 1.0, "far": 1.0})
    assert policies.ties(few, few[0]) == ["far"]
    unknown, _ = policies.judged([one("a", 0.9, 0), one("b", 0.9, 0)], {"a": 1.0, "b": 1.0})
    assert policies.ties(unknown, unknown[0]) == []


def test_an_axis_that_one_does_not_tell_is_none() -> None:
    known, unknown = (
        Candidate(name, 0, row(name, 0.9, size_bytes=size), {}, Cost(None, None, 1.0))
        for name, size in (("known", 5), ("unknown", None))
    )
    assert policies.judged([known, unknown], {"known": 1.0, "unknown": 1.0})[1] == ["accuracy", "latency"]
