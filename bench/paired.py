"""Statistics of two classifiers on the same images: shares with intervals, McNemar's exact test, the worst classes.

Without SciPy, which a board may lack: whole numbers as far as they go.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054
"""97.5th percentile of the normal distribution: half of a two-sided 95% interval."""

WORST = 5
"""Classes told of those that lose."""


def wilson(hits: int, n: int) -> List[float]:
    """95% interval of a share of `n` independent images, as fractions of 1; it never leaves 0 to 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927), 209-212.
    """
    if n == 0:
        return [0.0, 1.0]
    share, square = hits / n, Z95 * Z95
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # at both ends the formula gives the end itself, but for rounding
    return [0.0 if hits == 0 else max(middle - half, 0.0), 1.0 if hits == n else min(middle + half, 1.0)]


def drop(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Tuple[float, List[float]]:
    """Drop of a share of right answers in points of 100 and its 95% interval.

    The images are the same, so only those count on which the two differ: with b right before and wrong after, c the
    other way round and n images, the drop is (b - c) / n. The interval is Wald's for matched pairs after adding 1/2 to
    each of the four cells, which holds its level where b and c are small and is not empty where both are 0.
    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions", Statistics
    in Medicine 24 (2005), 729-740.

    Args:
        before: bool, shape (images,): the original is right.
        after: The same for the engine.
    """
    b, c = discordant(before, after)
    n = len(before) + 2
    middle = (b - c) / n
    half = Z95 * math.sqrt(max(b + c + 1 - (b - c) ** 2 / n, 0.0)) / n
    return 100 * (b - c) / len(before), [100 * max(middle - half, -1.0), 100 * min(middle + half, 1.0)]


def discordant(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Tuple[int, int]:
    """Images that only the first is right on, and those that only the second is right on."""
    return int((before & ~after).sum()), int((~before & after).sum())


def mcnemar(lost: int, won: int) -> float:
    """Two-sided p-value of McNemar's test, exact: how likely so unequal a split of the differing images is by chance.

    If neither is better, each differing image is lost or won with probability 1/2, so the smaller count is binomial:
    p = min(1, 2 sum over i up to it of C(lost + won, i) / 2**(lost + won)).
    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), 153-157; the exact form as in M. W. Fagerland, S. Lydersen and P. Laake, BMC Medical
    Research Methodology 13 (2013), 91.
    """
    n, term, total = lost + won, 1, 0
    for i in range(min(lost, won) + 1):
        total += term
        term = term * (n - i) // (i + 1)
    return min(1.0, float(Fraction(2 * total, 2**n)))


def worst_classes(
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    names: Sequence[str] = (),
    most: int = WORST,
) -> List[Dict[str, Any]]:
    """The classes that lose the largest share of their images, the worst first; those that lose none are left out.

    Args:
        before, after: bool, shape (images,): the original and the engine are right.
        labels: int64, shape (images,).
        names: By label; a class without one is called by its number.
        most: How many at most.

    Returns:
        `class` (label), `name`, `n` (images), `before` and `after` (right ones), `drop` (points of 100 of the class).
    """
    found = []
    for label in np.unique(labels).tolist():
        mine = labels == label
        n, right, still = int(mine.sum()), int(before[mine].sum()), int(after[mine].sum())
        if still < right:
            name = names[label] if 0 <= label < len(names) else str(label)
            lost = 100 * (right - still) / n
            found.append({"class": label, "name": name, "n": n, "before": right, "after": still, "drop": lost})
    return sorted(found, key=lambda one: (-one["drop"], -one["n"], one["class"]))[:most]


def unexpected(top1: float, n: int, expected: float, expected_n: int = 0) -> bool:
    """Whether an accuracy lies below an expected one by more than sampling explains, and by more than 2 points.

    Args:
        top1: Measured, fraction of 1, on `n` images.
        expected: Recorded, on `expected_n` other images; 0 where it is taken as it stands.
    """
    sizes = [(top1, n), (expected, expected_n)]
    error = math.sqrt(sum(max(p * (1 - p), 1 / (4 * m)) / m for p, m in sizes if m))
    return expected - top1 > max(0.02, 3 * error)


def by_chance(top1: float, n: int, classes: int) -> bool:
    """Whether an accuracy is not above that of guessing among `classes`, as far as `n` images tell."""
    return wilson(round(top1 * n), n)[0] <= 1 / classes
