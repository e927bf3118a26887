"""From a series of latencies to what one inference in a thousand, million or billion takes; or why that cannot be said.

1. The assumptions are tested on the whole series and on the exceedances of a threshold (`bench.tail.assumptions`).
2. Where one fails, exceedances are declustered (`bench.tail.clusters`) and what is left is tested again.
3. Where that fails too, or nothing fits, there is no estimate but a reason.

An estimate says what holds under the conditions of the measurement. No number of samples makes it a bound.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

from bench.tail import assumptions, blocks, pareto
from bench.tail.clusters import peaks
from bench.tail.threshold import FEWEST, Candidate, candidates, chosen
from bench.tail.threshold import SHARE as LOWEST_SHARE
from engines.errors import DataError, UsageError

SCHEMA = "optimize.tail/1"

PROBABILITIES = (1e-3, 1e-6, 1e-9)
"""Per inference."""

RAREST = 1e-15
"""Probability below which nothing is asked: the samples to have seen it are no whole number of a float64 any more."""

LEVEL = 0.95

FEWEST_SAMPLES = int(FEWEST / LOWEST_SHARE)

_STEPS = 3
"""Steps of the clock that the median excess must have: of fewer the shape of the tail is the clock's."""

_CURVE = 41

_TOLD = 3
"""Failed tests that a reason names."""


MORE = "measure more: --samples 100000"


class Refusal(NamedTuple):
    """Why there is no estimate.

    Attributes:
        reason: In words.
        needed: Samples that would do.
        hint: What may help.
        unfitted: They would do without a tail that fits: among so many the rarest value asked for is seen itself.
    """

    reason: str
    needed: int
    hint: str
    unfitted: bool = False


def seen_after(p: float, level: float = LEVEL) -> int:
    """Samples among which a value of probability p is seen with the given certainty: log(1 - level) / log(1 - p)."""
    return math.ceil(math.log(1 - level) / math.log1p(-p))


def estimate(
    samples_ms: Sequence[float], probabilities: Sequence[float] = PROBABILITIES, level: float = LEVEL, seed: int = 0
) -> Dict[str, Any]:
    """Describe a series and extrapolate its tail, if it can be.

    Args:
        samples_ms: Latencies in the order in which they were measured, in milliseconds.
        probabilities: Per inference, from 1e-15 to 0.05. One that is above the share of the samples over the chosen
            threshold is not extrapolated but read from the samples.
        level: Of the intervals.
        seed: Of the jitter within a step of the clock, and of the bootstrap.

    Returns:
        What was seen: `n`, `best_ms`, `median_ms`, `mean_ms`, `hwm_ms` (the high-water mark), `hwm_ratio` (to the
        best), `sigma_ms`, `mu_3_sigma_ms` and `mu_3_sigma_exceeded` (the share of samples above it; a normal
        distribution's is 0.00135), `resolution_ms`.
        What was tested: `tests`, `declustered`, `extremal_index`, `peak_tests`.
        What was fitted: `threshold` {`ms`, `exceedances`, `peaks`, `shape`, `shape_low`, `shape_high`, `scale_ms`,
        `p`}, `candidates` (of thresholds), `blocks` (`bench.tail.blocks.opinion`).
        What comes of it: `estimates` [{`p`, `ms`, `low_ms`, `high_ms`, `extrapolated`, `seen_after`}], `curve`
        [{`p`, `ms`, `low_ms`, `high_ms`}], `refused` {`reason`, `needed`, `hint`} or None; where it is not None
        `estimates` and `curve` are empty.

    Raises:
        DataError: A sample that is not a positive, finite number, or none at all.
        UsageError: A probability out of range.
    """
    series = _checked(samples_ms)
    check_probabilities(probabilities)
    told = {**_seen(series), "level": level, **_NOTHING}
    refused = _unfit(series, told["resolution_ms"])
    if refused is None:
        rng = np.random.default_rng(seed)
        # The clock cuts values to steps; spread within their step they have no ties.
        spread = series + told["resolution_ms"] * (rng.random(len(series)) - 0.5)
        refused = _extrapolate(told, spread, sorted(probabilities, reverse=True), level, seed)
    if refused is not None:
        told.update(estimates=[], curve=[], refused=refused._asdict())
    return told


def check_probabilities(probabilities: Sequence[float]) -> None:
    """Refuse what is no probability of a tail.

    Raises:
        UsageError: Not from 1e-15 to 0.05.
    """
    for p in probabilities:
        if not RAREST <= p < LOWEST_SHARE:
            raise UsageError(f"probability {p:g}: from {RAREST:g} to {LOWEST_SHARE:g} is expected", "for example 1e-6")


_NOTHING: Dict[str, Any] = {
    "tests": [],
    "declustered": False,
    "extremal_index": None,
    "peak_tests": [],
    "threshold": None,
    "candidates": [],
    "blocks": None,
    "estimates": [],
    "curve": [],
    "refused": None,
}


def _checked(samples_ms: Sequence[float]) -> npt.NDArray[Any]:
    series = np.asarray(samples_ms, np.float64)
    if series.ndim != 1 or len(series) == 0 or not np.isfinite(series).all() or series.min() <= 0:
        raise DataError("a tail needs one or more samples, each above zero and finite")
    return series


def _seen(series: npt.NDArray[Any]) -> Dict[str, Any]:
    mean, sigma = float(series.mean()), float(series.std())
    best, most = float(series.min()), float(series.max())
    steps = np.diff(np.unique(series))
    steps = steps[steps > 1e-9 * most]  # less is the rounding of the numbers, not of the clock
    return {
        "n": len(series),
        "best_ms": best,
        "median_ms": float(np.median(series)),
        "mean_ms": mean,
        "hwm_ms": most,
        "hwm_ratio": most / best,
        "sigma_ms": sigma,
        "mu_3_sigma_ms": mean + 3 * sigma,
        "mu_3_sigma_exceeded": float(np.mean(series > mean + 3 * sigma)),
        "resolution_ms": float(steps.min()) if len(steps) else 0.0,
    }


def _unfit(series: npt.NDArray[Any], resolution: float) -> Optional[Refusal]:
    """Why a series cannot be looked at for its tail, whatever the tests say."""
    if len(series) < FEWEST_SAMPLES:
        words = f"{len(series)} samples are too few for a tail: {FEWEST} of them must lie above a threshold"
        return Refusal(words, FEWEST_SAMPLES, MORE)
    if series.min() == series.max():
        return Refusal("all samples are alike: there is no spread to extrapolate", len(series), "a finer clock")
    level = np.quantile(series, 1 - LOWEST_SHARE)
    above = series[series > level]
    if len(above) < FEWEST or np.median(above) - level < _STEPS * resolution:
        words = f"the clock's steps of {resolution:g} ms are too coarse for the spread of the tail"
        return Refusal(words, len(series), "a finer clock, or the time of several queries as one sample")
    return None


def _extrapolate(
    told: Dict[str, Any], series: npt.NDArray[Any], probabilities: Sequence[float], level: float, seed: int
) -> Optional[Refusal]:
    """Fill in what was tested, fitted and extrapolated, as far as it comes; why it came no further."""
    n, needed = len(series), seen_after(probabilities[-1])
    found = candidates(series, decluster=False)
    best = chosen(found)
    tests = assumptions.of_series(series, (best or found[0]).peaks) if found else []
    told["tests"] = assumptions.as_json(tests)
    failed = any(test.failed for test in tests)
    if failed:
        found = candidates(series, decluster=True)
        best = chosen(found)
    told["declustered"] = failed
    told["candidates"] = [_candidate(one, n, probabilities) for one in found]
    if not found:
        few = len(peaks(series, float(np.quantile(series, 1 - LOWEST_SHARE)), decluster=True).values)
        words = f"slow queries come together, in {few} clusters, and {FEWEST} are needed ({_names(tests)})"
        return Refusal(words, math.ceil(n * FEWEST / max(few, 1)), "measure longer, and quieten the machine")
    if best is None:
        words = f"no threshold leaves a tail that a generalised Pareto distribution fits (p {found[-1].p:.2g} at best)"
        return Refusal(words, needed, "a mixture of causes: measure them apart, or quieten the machine", True)
    told["extremal_index"] = best.peaks.extremal_index
    told["threshold"] = {**_candidate(best, n, probabilities), "exceedances": best.peaks.exceedances}
    told["blocks"] = blocks.opinion(series, probabilities, best.peaks.extremal_index, level, seed)
    if failed:
        again = assumptions.of_peaks(best.peaks, n)
        told["peak_tests"] = assumptions.as_json(again)
        if any(test.failed for test in again):
            words = f"declustered too, slow queries are not as the theory asks ({_names(again)})"
            return Refusal(words, needed, "lock the clocks, quieten the machine, let it warm up, measure again", True)
    return _estimates(told, best, series, probabilities, level)


def _names(tests: Sequence[assumptions.Check]) -> str:
    """The clearest failures, in words."""
    clearest = sorted((test for test in tests if test.failed), key=lambda test: test.p)[:_TOLD]
    return ", ".join(f"{test.name}: not {test.asks}, p {test.p:.2g}" for test in clearest)


def _estimates(
    told: Dict[str, Any], best: Candidate, series: npt.NDArray[Any], probabilities: Sequence[float], level: float
) -> Optional[Refusal]:
    from scipy.special import chdtri

    n = len(series)
    loss = float(chdtri(1, 1 - level)) / 2
    around = pareto.region(best.excesses, best.fit)
    shapes = around.at(loss)[0]
    told["threshold"].update(shape_low=float(shapes.min()), shape_high=float(shapes.max()))
    if shapes.max() >= 1:
        words = f"the tail is so heavy (shape {best.fit.shape:.2f} to {shapes.max():.2f}) that it may have no mean"
        return Refusal(words, seen_after(probabilities[-1]), "find what the slowest queries have in common", True)
    share = best.peaks.exceedances / n
    # Clusters, not exceedances, are what is independent: as many values stand behind the rate.
    rate = (share, float(len(best.peaks.values)), n * best.peaks.extremal_index)

    def at(p: float) -> Dict[str, float]:
        if p > share:
            return {"p": p, **_below(series, p, best.peaks.extremal_index, level)}
        inner = np.array([p / share])
        value = float(pareto.excess(inner, np.array([best.fit.shape]), np.array([best.fit.scale]))[0])
        low, high = pareto.interval(around, rate, p, loss)
        ends = (best.threshold + end for end in (value, min(low, value), max(high, value)))
        return {"p": p, **dict(zip(("ms", "low_ms", "high_ms"), ends))}

    told["estimates"] = [{**at(p), "extrapolated": p * n < 1, "seen_after": seen_after(p)} for p in probabilities]
    told["curve"] = [at(float(p)) for p in np.geomspace(share, min(1e-9, *probabilities), _CURVE)]
    return None


def _below(series: npt.NDArray[Any], p: float, index: float, level: float) -> Dict[str, float]:
    """What is exceeded more often than the threshold lies below the fitted tail: the samples themselves tell it.

    The interval is that of order statistics (W. J. Conover, "Practical Nonparametric Statistics", section 3.2): of the
    values that p of so many exceed; of as many independent ones as the clusters leave.
    """
    from scipy.stats import binom

    independent = max(int(index * len(series)), 1)
    ends = binom.ppf([(1 + level) / 2, (1 - level) / 2], independent, p) / independent
    low, value, high = np.quantile(series, [1 - float(ends[0]), 1 - p, 1 - float(ends[1])])
    return {"ms": float(value), "low_ms": float(low), "high_ms": float(high)}


def _candidate(one: Candidate, n: int, probabilities: Sequence[float]) -> Dict[str, Any]:
    """For the stability plot; the scale is told as it would be at a threshold of zero, where all of them are alike."""
    share = np.array([min(probabilities[-1] * n / one.peaks.exceedances, 1.0)])
    shape, scale = one.fit
    return {
        "ms": one.threshold,
        "peaks": len(one.peaks.values),
        "shape": shape,
        "shape_error": max(1 + shape, 0.2) / math.sqrt(len(one.peaks.values)),
        "scale_ms": scale,
        "modified_scale_ms": scale - shape * one.threshold,
        "last_ms": one.threshold + float(pareto.excess(share, np.array([shape]), np.array([scale]))[0]),
        "p": one.p,
    }


def out_of_sample(
    samples_ms: Sequence[float], probabilities: Sequence[float] = (1e-2, 1e-3, 1e-4)
) -> Optional[List[Dict[str, Any]]]:
    """Fit the first half and count how often the second half exceeds the estimates.

    Returns:
        [{`p`, `ms`, `expected`, `seen`}]; None where the first half gives no estimate.
    """
    first, second = np.array_split(_checked(samples_ms), 2)
    found = estimate(first, probabilities)
    if found["refused"]:
        return None
    return [
        {
            "p": one["p"],
            "ms": one["ms"],
            "expected": one["p"] * len(second),
            "seen": int(np.count_nonzero(second > one["ms"])),
        }
        for one in found["estimates"]
    ]
