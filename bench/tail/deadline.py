"""Misses of a deadline: how many, what that says of all inferences, and whether they come together."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import numpy as np
import numpy.typing as npt

from bench.tail.assumptions import LEVEL, short_gaps
from bench.tail.clusters import extremal_index
from engines.errors import UsageError


def misses(series: npt.NDArray[Any], deadline: float, level: float = 0.95) -> Dict[str, Any]:
    """Values above a deadline.

    Args:
        series: Shape (n,), in order.
        deadline: In its unit.
        level: Of the interval.

    Returns:
        `deadline`, `count`, `n`, `share`, `interval` of the share (C. J. Clopper and E. S. Pearson, Biometrika 26,
        1934; of as many independent values as the clusters leave), `after_a_miss` (share of misses among the values
        that follow a miss; None without one), `longest` (misses in a row), `clustered` (with `p`, its p-value), and
        `extremal_index` (clusters per miss).

    Raises:
        UsageError: A deadline that is not positive.
    """
    check(deadline)
    missed = series > deadline
    positions = np.flatnonzero(missed)
    n, count = len(series), len(positions)
    p = short_gaps(positions, n) if 0 < count < n else 1.0
    clustered = p <= LEVEL
    index = extremal_index(positions) if clustered else 1.0
    followed = missed[1:][missed[:-1]]
    return {
        "deadline": deadline,
        "count": count,
        "n": n,
        "share": count / n,
        "interval": list(_clopper_pearson(count * index, n * index, level)),
        "after_a_miss": float(followed.mean()) if len(followed) else None,
        "longest": _longest(missed),
        "clustered": clustered,
        "p": p,
        "extremal_index": index,
    }


def check(deadline: float) -> None:
    """Refuse what is no deadline.

    Raises:
        UsageError: Not a positive time.
    """
    if not deadline > 0:
        raise UsageError(f"a deadline of {deadline:g} ms: a positive time is expected")


def _clopper_pearson(count: float, n: float, level: float) -> Tuple[float, float]:
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def _longest(missed: npt.NDArray[Any]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missed.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0
