"""The policies: greedy (the most accurate), budget (the fastest within the drop limit), pareto (the balanced one)."""

from __future__ import annotations

import math
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from optimize.selection.asked import Asked
from optimize.selection.candidates import Candidate

AXES = ("accuracy", "latency", "energy", "size")
"""Of the Pareto front: those that all candidates tell."""


class Judged(NamedTuple):
    """A candidate that the device can take, with what policies look at."""

    one: Candidate
    top1: float
    total_s: float
    point: Tuple[float, ...]
    """By axis, smaller is better."""

    @property
    def name(self) -> str:
        """Of the candidate."""
        return self.one.name


def judged(found: Sequence[Candidate], totals: Mapping[str, float]) -> Tuple[List[Judged], List[str]]:
    """The candidates as points, and the axes that all of them tell.

    Args:
        found: Each with an accuracy and a time.
        totals: Seconds by name.
    """
    every = [_values(one) for one in found]
    axes = [axis for axis in AXES if all(values[axis] is not None for values in every)]
    points = [tuple(value for axis in axes for value in (values[axis],) if value is not None) for values in every]
    return [Judged(one, one.top1 or 0.0, totals[one.name], point) for one, point in zip(found, points)], axes


def _values(one: Candidate) -> Dict[str, Optional[float]]:
    size = None if one.size_bytes is None else float(one.size_bytes)
    return {"accuracy": -(one.top1 or 0.0), "latency": one.mean.query_s, "energy": one.joules, "size": size}


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a point is as good as another in everything and better in something."""
    return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))


def dominators(found: Sequence[Judged]) -> Dict[str, str]:
    """Who dominates each that is not on the front, by name: the fastest of those that do and are on it."""
    out = {}
    for one in found:
        better = [other for other in found if dominates(other.point, one.point)]
        front = [other for other in better if not any(dominates(third.point, other.point) for third in found)]
        if front:
            out[one.name] = min(front, key=lambda other: other.total_s).name
    return out


def greedy(found: Sequence[Judged]) -> Judged:
    """The most accurate, of equals the fastest: the document's baseline."""
    return min(found, key=lambda one: (-one.top1, one.total_s))


def ties(found: Sequence[Judged], baseline: Judged) -> List[str]:
    """Names of those whose accuracy is within the sampling error of the baseline's: which is the best may be chance.

    The 95% normal interval of the difference of two shares, as if each had images of its own: on the same images they
    differ less by chance, so this names rather too many. Without a number of images none is named.
    """
    out = []
    for one in found:
        images = [int((side.one.row["dataset"] or {}).get("n", 0)) for side in (one, baseline)]
        if one is baseline or not all(images):
            continue
        error = math.sqrt(sum(side.top1 * (1 - side.top1) / n for side, n in zip((one, baseline), images)))
        if baseline.top1 - one.top1 <= _NORMAL * error:
            out.append(one.name)
    return out


_NORMAL = 1.959964
"""97.5% quantile of the normal distribution."""


def budget(found: Sequence[Judged]) -> Judged:
    """The fastest, of equals the most accurate: the document's advanced choice, given those within the drop limit."""
    return min(found, key=lambda one: (one.total_s, -one.top1))


def pareto(found: Sequence[Judged], every: Sequence[Judged]) -> Judged:
    """Of the front's members given, the nearest to the best of each axis, each axis scaled to the front's own range.

    Source: the compromise solution of M. Zeleny, "Multiple Criteria Decision Making" (McGraw-Hill, 1982), with equal
    weights and the Euclidean distance.

    Args:
        found: Members of the front within the drop limit.
        every: The whole front.
    """
    lows = [min(column) for column in zip(*(one.point for one in every))]
    highs = [max(column) for column in zip(*(one.point for one in every))]

    def distance(one: Judged) -> float:
        return math.sqrt(sum(((v - lo) / (hi - lo)) ** 2 for v, lo, hi in zip(one.point, lows, highs) if hi > lo))

    return min(found, key=lambda one: (distance(one), one.total_s))


def pick(found: Sequence[Judged], baseline: Judged, asked: Asked) -> Judged:
    """What the policy takes; the baseline itself is always within the drop limit."""
    if asked.policy == "greedy":
        return baseline
    within = [one for one in found if asked.drop.allows(baseline.top1, one.top1)]
    if asked.policy == "budget":
        return budget(within)
    off = dominators(found)
    return pareto([one for one in within if one.name not in off], [one for one in found if one.name not in off])
