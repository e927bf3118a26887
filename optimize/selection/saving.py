"""The latency saving of two candidates: the document's mean of ratios and the ratio of means, with an interval.

The replicate is the round: a fresh process of each, one after the other, so that drift cancels within a pair.
"""

from __future__ import annotations

import math
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

from bench import stats

ROUNDS = 10
"""Paired rounds below which there is no PASS: the trials that the document's procedure asks for, at least."""

_RESAMPLES = 10_000
_MOST = 1000
"""Rounds that are not worth asking for."""


class Saving(NamedTuple):
    """How much of the baseline's time is saved.

    Attributes:
        mean_of_ratios: Mean of (t_b - t_a) / t_b over the rounds: the document's formula.
        ratio_of_means: (mean t_b - mean t_a) / mean t_b.
        low, high: Interval of the mean of ratios; None with fewer rounds than `bench.stats.VERDICT_ROUNDS`.
        rounds: Of the side that has fewer; 0 where nothing but means is known.
        paired: Whether the rounds ran in pairs; else each of one side is held against each of the other.
        spread: Standard deviation that one more round brings; None with fewer than two rounds.
    """

    mean_of_ratios: float
    ratio_of_means: float
    low: Optional[float] = None
    high: Optional[float] = None
    rounds: int = 0
    paired: bool = False
    spread: Optional[float] = None


def of_means(baseline_s: float, advanced_s: float) -> Saving:
    """The saving of two means, of which no rounds are known: the two formulas are one then."""
    saved = 1 - advanced_s / baseline_s
    return Saving(saved, saved)


def saving(
    baseline: Mapping[int, float],
    advanced: Mapping[int, float],
    same_run: bool,
    level: float = stats.LEVEL,
    seed: int = 0,
) -> Saving:
    """The saving over rounds, with a bootstrap interval over them.

    The quantiles of the bootstrap are moved outwards by Student's tails (`bench.stats.expanded_tail`).

    Args:
        baseline, advanced: Seconds by round, one or more each, above 0.
        same_run: The rounds of one number ran one after the other.
        level: Confidence of the interval.
        seed: Of the resampling.
    """
    common = [number for number in baseline if number in advanced]
    paired = same_run and bool(common)
    b, a = (
        np.array([side[number] for number in (common if paired else side)], np.float64) for side in (baseline, advanced)
    )
    n = min(len(a), len(b))
    means = float(1 - a.mean() / b.mean())
    mean = float(1 - (a / b).mean()) if paired else float(1 - a.mean() * (1 / b).mean())
    spread = None if n < 2 else float((a / b).std(ddof=1)) if paired else (1 - mean) * math.hypot(_cv(a), _cv(b))
    if n < stats.VERDICT_ROUNDS:
        return Saving(mean, means, None, None, n, paired, spread)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(b), (_RESAMPLES, len(b)))
    if paired:
        drawn = 1 - (a / b)[picks].mean(axis=1)
    else:
        others = rng.integers(0, len(a), (_RESAMPLES, len(a)))
        drawn = 1 - a[others].mean(axis=1) * (1 / b)[picks].mean(axis=1)
    tail = stats.expanded_tail((1 - level) / 2, n)
    low, high = (float(value) for value in np.quantile(drawn, [tail, 1 - tail]))
    return Saving(mean, means, min(low, mean), max(high, mean), n, paired, spread)


def _cv(values: npt.NDArray[Any]) -> float:
    """Coefficient of variation."""
    return float(values.std(ddof=1) / values.mean())


def rounds_needed(found: Saving, least: float, level: float = stats.LEVEL) -> Optional[int]:
    """About how many rounds make an interval, of the spread seen, that does not hold `least`; None where too many do.

    Args:
        found: Without a spread, the fewest that give a verdict are asked for.
        least: Saving that is asked for.
        level: Confidence of the interval.
    """
    gap = abs(found.mean_of_ratios - least)
    n = ROUNDS
    while found.spread and n <= _MOST:
        reach = stats.student_quantile(0.5 + level / 2, n - 1) * found.spread
        if reach <= gap * math.sqrt(n):
            break
        n = max(n + 1, math.ceil((reach / gap) ** 2)) if gap > 0 else _MOST + 1
    return n if n <= _MOST else None


def together(found: Sequence[Saving], baseline_s: Sequence[float], advanced_s: Sequence[float]) -> Saving:
    """The saving over several devices: the document's mean over the edges.

    The interval is the widest there can be, as if all erred together, and there is none where one device has none.

    Args:
        found: Of each device.
        baseline_s, advanced_s: Mean times of each: the ratio of means is that of their sums.
    """
    ends: List[Optional[float]] = []
    for name in ("low", "high"):
        values = [getattr(one, name) for one in found]
        ends.append(None if None in values else sum(values) / len(values))
    mean = sum(one.mean_of_ratios for one in found) / len(found)
    rounds, paired = min(one.rounds for one in found), all(one.paired for one in found)
    return Saving(mean, 1 - sum(advanced_s) / sum(baseline_s), ends[0], ends[1], rounds, paired)
