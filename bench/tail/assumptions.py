"""Whether a series is what the theory of extremes asks for: independent, and of one distribution all along.

Tests look at ranks and not at milliseconds, so that a few huge values neither hide nor make a dependence; ties share
their mean rank. All tests of a series share one family-wise level (S. Holm, Scandinavian Journal of Statistics 6(2),
1979).
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from bench.tail.clusters import Peaks

LEVEL = 0.05
"""Probability that a series which is as it should be fails at least one of the tests."""

_PARTS = 4
_LAGS = 20
_SHORT_GAPS = 0.1
"""Share of the gaps between exceedances that is called short, where exceedances are independent."""


class Check(NamedTuple):
    """One test.

    Attributes:
        name: Such as `Ljung-Box`.
        asks: What is tested: `independent`, `identically distributed`, `stationary` or `not periodic`.
        p: p-value.
        failed: Whether the family-wise level rejects it.
    """

    name: str
    asks: str
    p: float
    failed: bool = False


def holm(tests: Sequence[Check], level: float = LEVEL) -> List[Check]:
    """The tests with `failed` set: from the smallest p-value on, as long as p <= level / (tests left)."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p)
    failed = set()
    for place, index in enumerate(order):
        if tests[index].p > level / (len(tests) - place):
            break
        failed.add(index)
    return [test._replace(failed=index in failed) for index, test in enumerate(tests)]


def of_series(series: npt.NDArray[Any], exceedances: Peaks) -> List[Check]:
    """Tests of a whole series and of the exceedances of its threshold, in the order in which they are told.

    Args:
        series: Shape (n,), in order.
        exceedances: All of them, not declustered.
    """
    scores = _scores(series)
    found = [Check(name, asks, _probability(of(scores))) for name, asks, of in _SERIES]
    return holm(found + _of_tail(exceedances, len(series), short_gaps))


def of_peaks(peaks: Peaks, n: int) -> List[Check]:
    """Tests of what declustering left, of a series of n values."""
    tests = _of_tail(peaks, n, _dispersion)
    tests.append(Check("Ljung-Box of peaks", "independent", _probability(ljung_box(_scores(peaks.values)))))
    return holm(tests)


def _of_tail(peaks: Peaks, n: int, gaps: Callable[[npt.NDArray[Any], int], float]) -> List[Check]:
    present = np.zeros(n)
    present[peaks.positions] = 1
    return [
        Check("gaps in the tail", "independent", _probability(gaps(peaks.positions, n))),
        Check("rate of the tail", "stationary", _probability(_even(peaks.positions, n))),
        Check("sizes in the tail", "identically distributed", _probability(_halves(peaks.values))),
        Check("period in the tail", "not periodic", _probability(periodic(present))),
    ]


def _probability(p: float) -> float:
    return float(min(max(p, 0.0), 1.0)) if math.isfinite(p) else 1.0


def _scores(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Normal scores: the quantile of the standard normal at each rank."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(values) - 0.5) / len(values)))


def ljung_box(values: npt.NDArray[Any]) -> float:
    """p-value of no autocorrelation at lags 1 to 20 (G. M. Ljung and G. E. P. Box, Biometrika 65(2), 1978)."""
    from scipy.stats import chi2

    n = len(values)
    lags = min(_LAGS, n // 5)
    centred = values - values.mean()
    power = float(centred @ centred)
    if lags < 1 or power <= 0:
        return 1.0
    statistic = sum(float(centred[lag:] @ centred[:-lag] / power) ** 2 / (n - lag) for lag in range(1, lags + 1))
    return float(chi2.sf(n * (n + 2) * statistic, lags))


def runs(values: npt.NDArray[Any]) -> float:
    """p-value of as many runs above and below the median as chance gives (A. Wald and J. Wolfowitz, 1940)."""
    from scipy.stats import norm

    middle = np.median(values)
    above = values[values != middle] > middle
    more, less = int(above.sum()), int((~above).sum())
    n = more + less
    if min(more, less) < 2:
        return 1.0
    seen = 1 + int(np.count_nonzero(above[1:] != above[:-1]))
    expected = 1 + 2 * more * less / n
    variance = (expected - 1) * (expected - 2) / (n - 1)
    return float(2 * norm.sf(abs(seen - expected) / math.sqrt(variance)))


def _parts(values: npt.NDArray[Any]) -> float:
    """Each quarter against the others, by Kolmogorov and Smirnov's test of two samples; the least p, times four."""
    from scipy.stats import ks_2samp

    quarters = np.array_split(values, _PARTS)
    found = []
    for index, quarter in enumerate(quarters):
        others = np.concatenate([part for place, part in enumerate(quarters) if place != index])
        found.append(float(ks_2samp(quarter, others, "two-sided", "asymp")[1]))
    return _PARTS * min(found)


def _halves(values: npt.NDArray[Any]) -> float:
    from scipy.stats import ks_2samp

    first, second = np.array_split(values, 2)
    return float(ks_2samp(first, second, "two-sided", "asymp")[1]) if len(first) > 1 and len(second) > 1 else 1.0


def _trend(values: npt.NDArray[Any]) -> float:
    """p-value of no monotonous trend (Mann-Kendall, by Kendall's tau with time)."""
    from scipy.stats import kendalltau

    return float(kendalltau(np.arange(len(values)), values)[1])


def change_point(values: npt.NDArray[Any]) -> float:
    """p-value of no change of level at any point (A. N. Pettitt, Applied Statistics 28(2), 1979)."""
    from scipy.stats import kstwobign, rankdata

    n = len(values)
    ranks = rankdata(values)
    sums = 2 * np.cumsum(ranks) - np.arange(1, n + 1) * (n + 1)
    return float(kstwobign.sf(float(np.abs(sums).max()) * math.sqrt(3 / (n**3 + n**2))))


def stationary(values: npt.NDArray[Any]) -> float:
    """p-value of a level that neither drifts nor wanders (D. Kwiatkowski, P. C. B. Phillips, P. Schmidt and Y. Shin,
    Journal of Econometrics 54, 1992).

    Their statistic tends to the integral of a squared Brownian bridge, so that p is that of Cramer and von Mises' test.
    """
    n = len(values)
    centred = values - values.mean()
    variance = float(centred @ centred) / n
    return cramer_von_mises(float((np.cumsum(centred) ** 2).sum()) / n**2 / variance) if variance > 0 else 1.0


def cramer_von_mises(statistic: float) -> float:
    """P(integral of a squared Brownian bridge > statistic) (T. W. Anderson and D. A. Darling, Annals of Mathematical
    Statistics 23(2), 1952, equation 4.35)."""
    from scipy.special import gamma, kv

    if statistic < 0.01:
        return 1.0
    total = 0.0
    for k in range(20):
        odd = 4 * k + 1
        y = odd**2 / (16 * statistic)
        weight = gamma(k + 0.5) / (gamma(0.5) * gamma(k + 1))
        total += weight * math.sqrt(odd) * math.exp(-y) * float(kv(0.25, y))
    return 1 - total / (math.pi * math.sqrt(statistic))


def periodic(values: npt.NDArray[Any]) -> float:
    """p-value of no single period, of any length: the greatest ordinate of the periodogram against their mean
    (R. A. Fisher, Proceedings of the Royal Society A 125, 1929; its limit for long series)."""
    centred = values - values.mean()
    power = np.abs(np.fft.rfft(centred)[1 : (len(values) + 1) // 2]) ** 2
    if len(power) < 2 or power.mean() <= 0:
        return 1.0
    greatest = float(power.max() / power.mean())
    return -math.expm1(len(power) * math.log1p(-math.exp(-greatest)))


def short_gaps(positions: npt.NDArray[Any], n: int) -> float:
    """p-value of no more short gaps between exceedances than independent ones have, which lie where they like."""
    from scipy.stats import binom

    gaps = np.diff(positions)
    if len(gaps) < 2:
        return 1.0
    rate = len(positions) / n
    limit = max(1, round(math.log(1 - _SHORT_GAPS) / math.log1p(-rate)))
    return float(binom.sf(int(np.count_nonzero(gaps <= limit)) - 1, len(gaps), -math.expm1(limit * math.log1p(-rate))))


def _even(positions: npt.NDArray[Any], n: int) -> float:
    """p-value of exceedances that lie evenly in time."""
    from scipy.stats import kstest

    return float(kstest((positions + 0.5) / n, "uniform")[1]) if len(positions) > 1 else 1.0


def _dispersion(positions: npt.NDArray[Any], n: int) -> float:
    """p-value of no clusters: the counts of about ten peaks a stretch vary no more than Poisson's do."""
    from scipy.stats import chi2

    stretches = max(2, len(positions) // 10)
    counts = np.histogram(positions, bins=stretches, range=(0, n))[0]
    return float(chi2.sf(float(((counts - counts.mean()) ** 2).sum() / counts.mean()), stretches - 1))


_SERIES: Tuple[Tuple[str, str, Callable[[npt.NDArray[Any]], float]], ...] = (
    ("Ljung-Box", "independent", ljung_box),
    ("runs", "independent", runs),
    ("Kolmogorov-Smirnov over quarters", "identically distributed", _parts),
    ("Mann-Kendall", "identically distributed", _trend),
    ("Pettitt", "identically distributed", change_point),
    ("KPSS", "stationary", stationary),
    ("Fisher's g", "not periodic", periodic),
)


def as_json(tests: Sequence[Check]) -> List[Dict[str, Any]]:
    """For a result: a dictionary a test."""
    return [test._asdict() for test in tests]
