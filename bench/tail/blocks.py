"""Block maxima: the generalised extreme value distribution (GEV), as a second opinion on the tail.

The greatest of many values tends to P(M <= x) = exp(-(1 + shape * (x - location) / scale) ** (-1 / shape)) (Fisher and
Tippett 1928, Gnedenko 1943), whatever short dependence there is among them. `scipy.stats.genextreme` has the opposite
sign of shape.
"""

from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

FEWEST = 20
"""Blocks that a fit needs."""

_RESAMPLES = 200


class Gev(NamedTuple):
    """Parameters, each of shape (samples,)."""

    shape: npt.NDArray[Any]
    location: npt.NDArray[Any]
    scale: npt.NDArray[Any]


def fit(maxima: npt.NDArray[Any]) -> Gev:
    """Fit rows of maxima by probability-weighted moments (J. R. M. Hosking, J. R. Wallis and E. F. Wood, Technometrics
    27(3), 1985, equations 13 to 15).

    Args:
        maxima: Shape (samples, n) or (n,).
    """
    from scipy.special import gamma

    rows = np.sort(np.atleast_2d(maxima), axis=1)
    n = rows.shape[1]
    rank = np.arange(n)
    b0 = rows.mean(axis=1)
    b1 = (rows * rank).mean(axis=1) / (n - 1)
    b2 = (rows * rank * (rank - 1)).mean(axis=1) / ((n - 1) * (n - 2))
    ratio = (2 * b1 - b0) / (3 * b2 - b0) - math.log(2) / math.log(3)
    k = 7.8590 * ratio + 2.9554 * ratio**2
    k = np.where(np.abs(k) < 1e-6, 1e-6, k)
    k = np.maximum(k, -0.99)
    scale = (2 * b1 - b0) * k / (gamma(1 + k) * (1 - 2.0**-k))
    return Gev(-k, b0 + scale * (gamma(1 + k) - 1) / k, scale)


def exceeded_by(of: Gev, p: float, size: float) -> npt.NDArray[Any]:
    """The value that each of `size` independent values of a block exceeds with probability p."""
    logs = -size * math.log1p(-p)
    return np.asarray(of.location + of.scale / of.shape * (logs**-of.shape - 1))


def opinion(
    series: npt.NDArray[Any], probabilities: Sequence[float], index: float, level: float, seed: int = 0
) -> Optional[Dict[str, Any]]:
    """Estimates from block maxima, as many blocks as each has values.

    Args:
        series: Shape (n,), in order.
        probabilities: Per value.
        index: Extremal index: a block of b values is like one of index * b independent ones.
        level: Of the percentile bootstrap over blocks.
        seed: Of the bootstrap.

    Returns:
        `size` and `count` of the blocks, `shape`, `location`, `scale`, and `estimates` [{`p`, `value`, `low`, `high`}];
        None of fewer than 20 blocks or of maxima that are all alike.
    """
    size = int(math.sqrt(len(series)))
    if size < FEWEST:
        return None
    count = len(series) // size
    maxima = series[: count * size].reshape(count, size).max(axis=1)
    if maxima.min() == maxima.max():
        return None
    found = fit(maxima)
    rng = np.random.default_rng(seed)
    resampled = fit(maxima[rng.integers(0, count, (_RESAMPLES, count))])
    estimates = []
    for p in probabilities:
        low, high = _quantiles(exceeded_by(resampled, p, index * size), level)
        value = float(exceeded_by(found, p, index * size)[0])
        estimates.append({"p": p, "value": value, "low": min(low, value), "high": max(high, value)})
    words = {name: float(getattr(found, name)[0]) for name in Gev._fields}
    return {"size": size, "count": count, **words, "estimates": estimates}


def _quantiles(values: npt.NDArray[Any], level: float) -> Tuple[float, float]:
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
