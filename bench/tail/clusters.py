"""Exceedances that come in clusters, and the cluster's greatest ones, which are nearly independent.

C. A. T. Ferro and J. Segers, "Inference for clusters of extreme values", Journal of the Royal Statistical Society B
65(2), 2003: both the extremal index and the gap that ends a cluster come from the gaps between exceedances, so that no
run length has to be chosen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Peaks(NamedTuple):
    """The greatest value of each cluster.

    Attributes:
        positions: Index of each in the series, ascending.
        values: As in the series.
        extremal_index: Clusters per exceedance, 1 where exceedances are independent.
        exceedances: Values above the threshold in all clusters.
    """

    positions: npt.NDArray[Any]
    values: npt.NDArray[Any]
    extremal_index: float
    exceedances: int


def extremal_index(positions: npt.NDArray[Any]) -> float:
    """The intervals estimator, from the positions of exceedances (ascending, shape (n,)); 1 for fewer than three."""
    gaps = np.diff(np.asarray(positions, np.float64))
    if len(gaps) < 2:
        return 1.0
    if gaps.max() <= 2:
        numerator, denominator = 2 * gaps.sum() ** 2, len(gaps) * (gaps**2).sum()
    else:
        numerator, denominator = 2 * (gaps - 1).sum() ** 2, len(gaps) * ((gaps - 1) * (gaps - 2)).sum()
    return float(min(1.0, numerator / denominator)) if denominator > 0 else 1.0


def peaks(series: npt.NDArray[Any], threshold: float, decluster: bool) -> Peaks:
    """Values above a threshold, or the greatest one of each cluster of them.

    Args:
        series: Shape (n,), in order.
        threshold: Values greater than it are exceedances.
        decluster: Keep one value of each cluster.
    """
    positions = np.flatnonzero(series > threshold)
    if not decluster or len(positions) < 3:
        return Peaks(positions, series[positions], 1.0, len(positions))
    index = extremal_index(positions)
    gaps = np.diff(positions)
    clusters = int(index * len(gaps)) + 1
    # The longest gaps part the clusters; of gaps that are alike all or none do.
    ordered = np.sort(gaps)[::-1]
    limit = ordered[clusters - 1] if clusters <= len(ordered) else 0
    starts = np.concatenate([[0], np.flatnonzero(gaps > limit) + 1])
    greatest = np.array([start + int(np.argmax(part)) for start, part in _parts(series[positions], starts)], np.int64)
    kept = positions[greatest]
    return Peaks(kept, series[kept], len(kept) / len(positions), len(positions))


def _parts(values: npt.NDArray[Any], starts: npt.NDArray[Any]) -> Any:
    return zip(starts.tolist(), np.split(values, starts[1:]))
