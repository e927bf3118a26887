"""Fewer points for a picture than there are samples, in ways that keep the extremes."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

Point = Tuple[float, float]


def series(samples: Sequence[float], points: int, first: int = 0) -> List[Point]:
    """Samples in the order they were taken: of each stretch its smallest and its largest, where they stood.

    Args:
        samples: Of one round.
        points: At most, but for two at least.
        first: Number of the first sample.

    Returns:
        (number of the sample, its value), in order; all of them where they are few enough.
    """
    values = np.asarray(samples, np.float64)
    if len(values) <= max(points, 2):
        return [(float(first + i), float(v)) for i, v in enumerate(values)]
    kept = set()
    for stretch in np.array_split(np.arange(len(values)), max(points // 2, 1)):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    return [(float(first + i), float(values[i])) for i in sorted(kept)]


def distribution(samples: Sequence[float], points: int) -> List[Point]:
    """The empirical distribution: a sorted sample and the share of samples up to it.

    Of many samples those at evenly spaced ranks are kept, and the smallest and the largest always: every point stays a
    true one of the whole distribution.
    """
    values = np.sort(np.asarray(samples, np.float64))
    count = len(values)
    ranks = np.unique(np.linspace(0, count - 1, min(count, max(points, 2))).round().astype(int))
    return [(float(values[i]), (int(i) + 1) / count) for i in ranks]


def histogram(samples: Sequence[float], most: int = 40) -> List[Tuple[float, float, int]]:
    """Bins of equal width (from, to, samples) up to the 99th percentile, and one for the tail beyond, if there is one.

    The width is Freedman and Diaconis's, 2 IQR / cube root of n (Zeitschrift für Wahrscheinlichkeitstheorie 57, 1981),
    but for `most` bins. Every sample is counted.
    """
    values = np.sort(np.asarray(samples, np.float64))
    low, tail = float(values[0]), float(values[int(0.99 * (len(values) - 1))])
    if tail <= low:
        tail = float(values[-1])
    if tail <= low:
        return [(low, low, len(values))]
    quarter, three = np.quantile(values, [0.25, 0.75])
    width = 2 * float(three - quarter) / len(values) ** (1 / 3)
    count = int(min(max(np.ceil((tail - low) / width) if width > 0 else 1, 8), most))
    edges = np.linspace(low, tail, count + 1)
    inside = values <= tail
    found, _ = np.histogram(values[inside], edges)
    bins = [(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], found)]
    beyond = int((~inside).sum())
    return [*bins, (tail, float(values[-1]), beyond)] if beyond else bins
