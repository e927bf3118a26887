"""Thresholds that weigh what is clipped against what is rounded, read from a histogram of |x|: entropy and MSE."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from calib.histogram import BINS, Histogram

_KL_BINS = 2048
_KL_LEVELS = 128

_COARSE = np.geomspace(1 / 64, 1, 49)
"""Thresholds tried first, as parts of the largest |x|: neighbours differ by 9%."""

_FINE = 17
"""Thresholds tried between the neighbours of the best of the first ones: 1% apart."""


def entropy(hist: Histogram) -> float:
    """The threshold that loses the least information, as TensorRT's entropy calibrator chooses it.

    Of 2,048 bins the first i are kept, for every i from 128 on; what lies beyond counts for the last of them. They are
    merged to 128 levels and spread again evenly over the bins that hold anything. The i of the least Kullback-Leibler
    divergence between the two wins, the largest among equals. The first bin, where zeros gather that any scale
    represents exactly, counts as much as the second.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017, slides 28 to 37; what it leaves open (the first bin,
    ties) follows NVIDIA's pytorch-quantization, `calib/histogram.py`.

    Returns:
        A threshold of |x|, at most the largest seen; 0 where nothing was added.
    """
    if hist.total == 0 or hist.exponent is None:
        return hist.amax
    bins = hist.counts.reshape(_KL_BINS, -1).sum(axis=1).astype(np.float64)
    bins[0] = bins[1]
    used = int(np.flatnonzero(bins)[-1]) + 1 if bins.any() else 0
    if used <= _KL_LEVELS:
        return hist.amax
    divergence = divergences(bins[:used])
    best = len(divergence) - 1 - int(np.argmin(divergence[::-1])) + _KL_LEVELS
    return min(best * hist.width * (BINS // _KL_BINS), hist.amax)


def divergences(bins: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The divergence for every number of kept bins from 128 to all, infinite where clipped values fall on an empty bin.

    With counts b, T in all, O clipped and C kept, S_g and N_g the counts and the filled bins of level g:
    T KL = sum of b log b - sum of S_g log(S_g / N_g) + T log(C / T), where the last bin's b counts O as well. Both
    sums come from running totals, so that all candidates together are one table of candidates by levels.

    Args:
        bins: float64 counts, at least 128; the last is not 0.
    """
    total = bins.sum()
    kept = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0], np.cumsum(bins > 0)])
    entropies = np.concatenate([[0.0], np.cumsum(_xlogx(bins))])
    sizes = np.arange(_KL_LEVELS, len(bins) + 1)
    edges = _edges()[: len(sizes)]
    sums = np.diff(kept[edges], axis=1)
    counts = np.diff(filled[edges], axis=1)
    means = np.log(np.divide(sums, counts, out=np.ones_like(sums), where=sums > 0))
    last, clipped = bins[sizes - 1], total - kept[sizes]
    clipped[-1] = 0.0
    own = entropies[sizes] - _xlogx(last) + _xlogx(last + clipped)
    cross = (sums * means).sum(axis=1) + clipped * means[:, -1]
    with np.errstate(divide="ignore"):  # nothing kept at all
        found = (own - cross) / total + np.log(kept[sizes] / total)
    found[(last == 0) & (clipped > 0)] = np.inf
    return np.asarray(found)


def mse(hist: Histogram, levels: int = 127) -> float:
    """The threshold of the least mean squared error of rounding to `levels` steps and clipping.

    Args:
        hist: Of |x|; each value counts at the middle of its bin.
        levels: Steps between 0 and the threshold: 127 of int8, 255 of uint8.

    Returns:
        A threshold of |x|, at most the largest seen; 0 where nothing was added.
    """
    if hist.total == 0 or hist.exponent is None:
        return hist.amax
    index = np.flatnonzero(hist.counts)
    values, counts = (index + 0.5) * hist.width, hist.counts[index].astype(np.float64)
    values[0] = 0.0 if index[0] == 0 else values[0]  # mostly exact zeros
    np.minimum(values, hist.amax, out=values)
    coarse = _COARSE * hist.amax
    best = int(np.argmin(squared_errors(values, counts, coarse, levels)))
    fine = np.geomspace(coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)], _FINE)
    return float(fine[np.argmin(squared_errors(values, counts, fine, levels))])


def squared_errors(
    values: npt.NDArray[Any], counts: npt.NDArray[Any], thresholds: npt.NDArray[Any], levels: int
) -> npt.NDArray[Any]:
    """Summed squared error of weighted values for each threshold: QuantizeLinear and back, in float64."""
    found = []
    for threshold in thresholds:
        steps = values * (levels / threshold)
        np.rint(steps, out=steps)
        np.minimum(steps, levels, out=steps)
        steps *= threshold / levels
        steps -= values
        found.append(np.dot(steps * steps, counts))
    return np.asarray(found)


@lru_cache(maxsize=1)
def _edges() -> npt.NDArray[Any]:
    """First bin of each level, and the end of the last, where i bins are kept: bin j has level floor(128 j / i)."""
    sizes = np.arange(_KL_LEVELS, _KL_BINS + 1)[:, None]
    return np.asarray(-(-np.arange(_KL_LEVELS + 1)[None, :] * sizes // _KL_LEVELS))


def _xlogx(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))
