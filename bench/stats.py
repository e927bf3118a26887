"""Statistics of latencies: trtexec's percentiles, and intervals whose replicate is the fresh process.

Samples of one process are alike: they share its memory layout, its threads and its moment. What varies between
measurements is the process, so intervals resample rounds first and samples within them second.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from engines.errors import UsageError

Samples = Union[Sequence[float], "npt.NDArray[Any]"]

LEVEL = 0.9
"""Confidence of intervals unless told otherwise."""

VERDICT_ROUNDS = 5
"""Rounds on each side below which a ratio gets no interval and no verdict."""

UNSTABLE = 0.05
"""Coefficient of variation of the round medians from which a row is flagged. trtexec warns at 0.025 (10.16) of single
GPU kernels on locked clocks; medians of processes on a shared CPU differ by a few percent on a quiet machine."""

WINDOWS, SETTLED = 3, 1.10
"""Windows that are looked at last, and how far apart they may lie (greatest / least) for a row to have settled: the
rule of Triton's perf_analyzer (`--stability-percentage 10`)."""

_RESAMPLES = 2000
_KEPT = 200
"""Quantiles that stand for a round's samples when it is resampled: they keep its median and spread."""

_BLOCKS = 10


def percentile(samples: Samples, p: float) -> float:
    """trtexec's percentile: the sorted sample at `max(n - 1 - int((1 - p/100) * n), 0)` in float32, no interpolation.

    Source: `findPercentile` in TensorRT's samples/common/sampleReporting.cpp. A value returned was measured.

    Raises:
        UsageError: No sample, or p outside 0..100.
    """
    values = _checked(samples)
    if not 0 <= p <= 100:
        raise UsageError(f"percentile {p}: 0 to 100 is expected")
    exclude = int((np.float32(1) - np.float32(p) / np.float32(100)) * np.float32(len(values)))
    return float(np.sort(values)[max(len(values) - 1 - exclude, 0)])


def summary(samples_ms: Samples) -> Dict[str, float]:
    """Latencies of one cell in the words of a run's row.

    The median is the mean of the middle two, as trtexec's; the other percentiles follow `percentile`.

    Args:
        samples_ms: Milliseconds.

    Returns:
        `p50_ms`, `p90_ms`, `p95_ms`, `p99_ms`, `min_ms`, `max_ms`, `mean_ms`.

    Raises:
        UsageError: No sample, or one that is not a finite number.
    """
    values = np.sort(_checked(samples_ms))
    return {
        "p50_ms": float(np.median(values)),
        **{f"p{p}_ms": percentile(values, p) for p in (90, 95, 99)},
        "min_ms": float(values[0]),
        "max_ms": float(values[-1]),
        "mean_ms": float(values.mean()),
    }


def _checked(samples: Samples) -> npt.NDArray[Any]:
    values = np.asarray(samples, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise UsageError("statistics need one or more finite samples")
    return values


def variation(rounds: Sequence[Samples]) -> float:
    """Coefficient of variation (population sigma / mean) of the round medians.

    Of a single round, the medians of ten consecutive blocks of samples stand in for rounds.
    """
    values = [_checked(samples) for samples in rounds]
    if len(values) == 1:
        values = [block for block in np.array_split(values[0], _BLOCKS) if len(block)]
    medians = np.asarray([np.median(block) for block in values])
    return float(medians.std() / medians.mean()) if medians.mean() > 0 else 0.0


def settled(rounds: Sequence[Samples]) -> bool:
    """Whether the last three windows are alike in their median latency and in their throughput (one over the mean).

    A window is a round; of fewer rounds than three the last one's thirds stand in.
    """
    windows = [_checked(samples) for samples in rounds][-WINDOWS:]
    if len(windows) < WINDOWS:
        windows = [part for part in np.array_split(windows[-1], WINDOWS) if len(part)]
    for of in (np.median, np.mean):
        values = [float(of(window)) for window in windows]
        if max(values) > SETTLED * min(values):
            return False
    return True


class Ratio(NamedTuple):
    """How many times as long one side takes as the other.

    Attributes:
        ratio: Median of all samples of a / median of all samples of b.
        low, high: Interval at `level`; None where rounds are too few for one.
        level: Such as 0.9.
        rounds: Of the side that has fewer.
    """

    ratio: float
    low: Optional[float]
    high: Optional[float]
    level: float
    rounds: int

    @property
    def verdict(self) -> str:
        """`faster` (b is, for sure), `slower`, `no difference`; or that there is no verdict, and why."""
        if self.low is None or self.high is None:
            return f"no verdict: fewer than {VERDICT_ROUNDS} rounds"
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "no difference"


def ratio_interval(
    rounds_a: Sequence[Samples],
    rounds_b: Sequence[Samples],
    level: float = LEVEL,
    seed: int = 0,
    paired: bool = False,
) -> Ratio:
    """Ratio of medians with a bootstrap interval over rounds first, then over samples within each round.

    A percentile bootstrap of n replicates is too narrow by sqrt((n - 1) / n) and by the normal's tails instead of
    Student's; its quantiles are moved outwards by both (the expanded percentile interval: T. Hesterberg, "What
    Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015, section 5.3).

    Args:
        rounds_a, rounds_b: Samples of each round, of any one unit.
        level: Confidence of the interval, between 0 and 1.
        seed: Of the resampling: the same samples and seed give the same interval.
        paired: Round i of both sides ran one after the other, so rounds are drawn together and drift cancels.

    Raises:
        UsageError: A side without samples, or paired sides of different length.
    """
    a, b = ([_checked(samples) for samples in side] for side in (rounds_a, rounds_b))
    if not a or not b or not 0 < level < 1 or (paired and len(a) != len(b)):
        raise UsageError("a ratio needs rounds on both sides (as many where they are paired), and a level in 0..1")
    ratio = float(np.median(np.concatenate(a)) / np.median(np.concatenate(b)))
    fewest = min(len(a), len(b))
    if fewest < VERDICT_ROUNDS:
        return Ratio(ratio, None, None, level, fewest)
    rng = np.random.default_rng(seed)
    picks_a = rng.integers(0, len(a), (_RESAMPLES, len(a)))
    picks_b = picks_a if paired else rng.integers(0, len(b), (_RESAMPLES, len(b)))
    ratios = _medians(a, picks_a, rng) / _medians(b, picks_b, rng)
    tail = expanded_tail((1 - level) / 2, fewest)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Ratio(ratio, min(float(low), ratio), max(float(high), ratio), level, fewest)


def _medians(rounds: List[npt.NDArray[Any]], picks: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Median of each resample: rounds as picked, samples within each drawn anew."""
    kept = min(_KEPT, max(len(values) for values in rounds))
    table = np.stack([np.quantile(values, (np.arange(kept) + 0.5) / kept) for values in rounds])
    within = rng.integers(0, kept, (*picks.shape, kept), dtype=np.int32)
    drawn = table[picks[:, :, None], within]
    medians: npt.NDArray[Any] = np.median(drawn.reshape(len(picks), -1), axis=1, overwrite_input=True)
    return medians


def expanded_tail(tail: float, n: int) -> float:
    """The tail probability to read off a bootstrap of n replicates so that the interval means what it says."""
    quantile = student_quantile(1 - tail, n - 1) * math.sqrt(n / (n - 1))
    return 0.5 * math.erfc(quantile / math.sqrt(2))


def student_quantile(p: float, df: int) -> float:
    """Quantile of Student's t for p >= 0.5 and whole degrees of freedom, by bisection of its closed form.

    Source of the closed form: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, df: int) -> float:
    theta = math.atan(t / math.sqrt(df))
    cosine, sine = math.cos(theta), math.sin(theta)
    term = cosine if df % 2 else 1.0
    total = 0.0 if df == 1 else term
    for k in range(3 if df % 2 else 2, df - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = 2 / math.pi * (theta + sine * total) if df % 2 else sine * total
    return 0.5 + inside / 2
