"""Exact histograms of a tensor's values: what the range methods read, in memory that no number of images enlarges.

Every histogram has a fixed number of bins whose width is a power of two. When a value does not fit, the width doubles
and neighbouring bins are added up, which is exact: floor(|x| / 2w) = floor(floor(|x| / w) / 2). So the histogram
depends on the values alone, not on their order or on how they came in batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

import numpy as np
import numpy.typing as npt

from engines.errors import DataError

BINS = 8192
"""Bins per tensor; the largest value lies in the upper half, so a bin is at most 1/4096 of it."""

_CHUNK = 1 << 17
"""Values binned at once: 512 KiB of float32, which stays in the cache."""

_LOWEST = -100
"""Smallest exponent of the bin width: below it 2**-exponent would leave float32; such values are zero to int8."""

MOMENTA = (0.99,)
"""Momenta of the moving averages that are gathered unless told otherwise."""


@dataclass
class Histogram:
    """Counts of |x| in `BINS` bins of width 2**exponent, with the exact signed extremes.

    Attributes:
        counts: int64, shape (BINS,); values of exactly the upper edge belong to the next bin.
        exponent: Of the bin width; None until a value other than zero was seen.
        minimum, maximum: Signed extremes; both 0 where nothing was added.
        total: Values added.
    """

    counts: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: Optional[int] = None
    minimum: float = 0.0
    maximum: float = 0.0
    total: int = 0

    @property
    def width(self) -> float:
        """Width of a bin; 0 where only zeros were seen."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    @property
    def amax(self) -> float:
        """Largest |x| seen, exact."""
        return max(-self.minimum, self.maximum)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count every value of an array of any shape, as float32.

        Raises:
            DataError: The array holds NaN or an infinity.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK])

    def _add_chunk(self, chunk: npt.NDArray[Any]) -> None:
        low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError("a tensor holds NaN or an infinity")
        self.minimum = low if self.total == 0 else min(self.minimum, low)
        self.maximum = high if self.total == 0 else max(self.maximum, high)
        self.total += chunk.size
        if self.amax == 0:
            self.counts[0] += chunk.size
            return
        self.grow(_exponent(self.amax))
        assert self.exponent is not None
        scaled = np.abs(chunk)
        scaled *= np.float32(2.0**-self.exponent)
        self.counts += np.bincount(scaled.astype(np.int64), minlength=BINS)

    def grow(self, exponent: int) -> None:
        """Widen the bins to 2**exponent by adding up neighbours; narrower ones are left as they are."""
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = self.counts[0::2] + self.counts[1::2]
            self.counts[: BINS // 2] = merged
            self.counts[BINS // 2 :] = 0
            self.exponent += 1

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts; the result is as if its values had been added here."""
        if other.total == 0:
            return
        self.minimum = other.minimum if self.total == 0 else min(self.minimum, other.minimum)
        self.maximum = other.maximum if self.total == 0 else max(self.maximum, other.maximum)
        self.total += other.total
        copy = Histogram(other.counts.copy(), other.exponent)
        if other.exponent is not None:
            self.grow(other.exponent)
        if self.exponent is not None:
            copy.grow(self.exponent)
        self.counts += copy.counts

    def percentile(self, percentile: float) -> float:
        """Percentile of |x| by linear interpolation between order statistics, as `numpy.percentile` defines it.

        Each order statistic is known to its bin, taken at the bin's middle: within half a bin of the exact value.
        """
        if self.total == 0:
            return 0.0
        rank = percentile / 100.0 * (self.total - 1)
        below = math.floor(rank)
        cumulative = np.cumsum(self.counts)
        first, second = (self._order(cumulative, min(k, self.total - 1)) for k in (below, below + 1))
        return first + (second - first) * (rank - below)

    def _order(self, cumulative: npt.NDArray[Any], k: int) -> float:
        """The k-th smallest |x|, k from 0."""
        if k == self.total - 1:
            return self.amax
        index = int(np.searchsorted(cumulative, k, side="right"))
        return min((index + 0.5) * self.width, self.amax)


def _exponent(amax: float) -> int:
    """Smallest exponent e >= _LOWEST with amax < BINS * 2**e."""
    return max(math.frexp(amax)[1] - int(math.log2(BINS)), _LOWEST)


@dataclass
class TensorRange:
    """What is known of a tensor: histograms of |x| over all values and of each image's largest |x|, and averages.

    Attributes:
        values, peaks: The two histograms.
        averages: Per momentum m the moving average of the images' largest |x|, as a sum and its weight: image i of n
            counts m**(n - 1 - i). Its start needs no first value, which would outweigh the others where images are few.
    """

    values: Histogram = field(default_factory=Histogram)
    peaks: Histogram = field(default_factory=Histogram)
    averages: Dict[float, Tuple[float, float]] = field(default_factory=lambda: dict.fromkeys(MOMENTA, (0.0, 0.0)))

    def add(self, batch: npt.NDArray[Any], images: int) -> None:
        """Count a batch: its values, and one peak per image where the first axis can be split into `images`."""
        if not batch.size:
            return
        rows = batch.reshape(images if batch.ndim and batch.shape[0] % images == 0 else 1, -1)
        self.values.add(rows)
        peaks = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        self.peaks.add(peaks)
        for momentum, (total, weight) in self.averages.items():
            for peak in peaks.tolist():  # one by one: the sum must not depend on how images come in batches
                total, weight = total * momentum + peak, weight * momentum + 1.0
            self.averages[momentum] = total, weight

    def average(self, momentum: float) -> float:
        """The moving average of the images' largest |x|; 0 where nothing was added.

        Raises:
            KeyError: This momentum was not gathered.
        """
        total, weight = self.averages[momentum]
        return total / weight if weight else 0.0

    @property
    def nonnegative(self) -> bool:
        """Whether no negative value was seen."""
        return self.values.minimum >= 0
