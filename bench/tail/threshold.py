"""Where the tail begins: the lowest threshold from which on the excesses are of a GPD.

Candidates go from 5% of the samples, at most 2,000, down to 50 by quarters. Their p-values of fit, from the lowest
threshold upwards, go through ForwardStop at 5% (M. G. G'Sell et al., Journal of the Royal Statistical Society B 78(2),
2016, as B. Bader, J. Yan and X. Zhang use it for thresholds, Annals of Applied Statistics 12(1), 2018): it leaves out
the low thresholds at which the body of the distribution is still seen.
"""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

from bench.tail import pareto
from bench.tail.clusters import Peaks, peaks

FEWEST = 50
"""Peaks that a fit needs: of fewer the shape is known to no better than 0.14."""

SHARE = 0.05
"""Of the samples that lie above the lowest threshold."""

_MOST, _STEP = 2000, 0.75
_STOP = 0.05


class Candidate(NamedTuple):
    """A threshold and what is above it.

    Attributes:
        threshold: In the unit of the series.
        peaks: Above it.
        fit: Of their excesses.
        p: Of the goodness of fit: of the whole, and of the greatest excess, which a rare cause may have put there.
    """

    threshold: float
    peaks: Peaks
    fit: pareto.Fit
    p: float

    @property
    def excesses(self) -> npt.NDArray[Any]:
        """Shape (peaks,), in the unit of the series."""
        return self.peaks.values - self.threshold


def candidates(series: npt.NDArray[Any], decluster: bool) -> List[Candidate]:
    """Thresholds from the lowest to the highest; none where the series is too short or too tied for one."""
    ordered = np.sort(series)[::-1]
    found: List[Candidate] = []
    count = min(_MOST, int(SHARE * len(series)))
    while count >= FEWEST:
        threshold = float(ordered[count])
        above = peaks(series, threshold, decluster)
        if len(above.values) >= FEWEST and (not found or threshold > found[-1].threshold):
            excesses = above.values - threshold
            fit = pareto.fit(excesses)
            p = min(1.0, 2 * min(pareto.misfit(excesses), pareto.greatest(excesses, fit)))
            found.append(Candidate(threshold, above, fit, p))
        count = int(_STEP * count)
    return found


def chosen(found: Sequence[Candidate]) -> Optional[Candidate]:
    """The candidate that ForwardStop leaves as the lowest; None where it leaves none."""
    losses = np.cumsum([-math.log1p(-min(one.p, 1 - 1e-12)) for one in found]) / np.arange(1, len(found) + 1)
    rejected = np.flatnonzero(losses <= _STOP)
    first = int(rejected[-1]) + 1 if len(rejected) else 0
    return found[first] if first < len(found) else None
