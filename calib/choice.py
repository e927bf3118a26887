"""Choosing ranges by measurement: a race of methods over hold-out images, then single tensors with heavy tails."""

from __future__ import annotations

import math
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from calib.agreement import Agreement, PerImage, join
from calib.histogram import TensorRange
from calib.holdout import Holdout
from calib.methods import Method
from calib.simulation import Simulation
from engines.spec import Progress, quiet

STAGES = ((1 / 16, 2.0, 5), (1 / 4, 1.25, 2))
"""Share of the hold-out after which a method is out whose error is so many times the least, and how many go on at most.
Images come in balanced order."""

_FEWEST = 4
"""Images of the first stage at least; each stage has twice as many as the one before, or more."""

TRIALS = 4
"""Tensors that are tried with another method."""

_TRIAL_SHARE = 1 / 8
"""Of the hold-out; each trial has at least `_FEWEST` images."""

_TAIL = 1.5
"""Largest value over threshold from which a tensor's tail counts as heavy."""

_ANOTHER = 1.1
"""Ratio from which two thresholds are two."""

_BETTER = 0.99
"""The error must fall to this part: what falls less is as likely an accident of the images."""

_CHANCE = 1.64
"""Standard deviations that chance exceeds in one of twenty cases, on one side."""

Scales = Dict[str, float]


class Entry(NamedTuple):
    """A method in the race: what it gave for as many images of the hold-out as it got to, and for all of them."""

    method: Method
    measured: PerImage
    found: Agreement


def race(
    holdout: Holdout, simulation: Simulation, scales: Mapping[Method, Scales], progress: Progress = quiet
) -> List[Entry]:
    """Measure methods on more and more images, dropping after each stage those far behind; the last ones on all.

    Returns:
        All methods, best first: those of more images before the others, by error among themselves.
    """
    entries: Dict[Method, Entry] = {}
    alive = list(scales)
    images = 0
    for share, behind, most in (*STAGES, (1.0, np.inf, len(scales))):
        wanted = max(int(share * len(holdout)), 2 * images, _FEWEST)
        images = min(len(holdout), -(-wanted // holdout.batch) * holdout.batch)
        for index, method in enumerate(alive):
            progress(f"method {method}", index, len(alive))
            before = [entries[method].measured] if method in entries else []
            more = holdout.measure(simulation.query(scales[method]), sum(map(len, before)), images)
            measured = join([*before, more])
            entries[method] = Entry(method, measured, measured.mean())
        limit = behind * min(entries[method].found.error for method in alive)
        alive = [method for method in alive if entries[method].found.error <= limit]
        alive = sorted(alive, key=lambda method: entries[method].found.error)[:most]
        if images == len(holdout):
            break
    return sorted(entries.values(), key=lambda entry: (-len(entry.measured), entry.found.error, -entry.found.agreement))


def best(entries: Sequence[Entry], holdout: Holdout) -> Entry:
    """Of those that were measured on the whole hold-out the one of least error that no other is better than."""
    whole = [entry for entry in entries if len(entry.measured) == len(holdout)]
    images = holdout.counted
    return next(
        entry
        for entry in sorted(whole, key=lambda entry: entry.found.error)
        if all(_as_many(entry.found, other.found, images) for other in whole)
    )


def heavy_tails(seen: Mapping[str, TensorRange], scales: Scales) -> List[str]:
    """The tensors that lose the most of their range to clipping, most first."""
    ratios = {name: found.values.amax / (127.0 * scales[name]) for name, found in seen.items()}
    return sorted((name for name, ratio in ratios.items() if ratio >= _TAIL), key=lambda name: -ratios[name])


def per_tensor(
    holdout: Holdout,
    simulation: Simulation,
    chosen: Scales,
    measured: PerImage,
    others: Sequence[Tuple[Method, Scales]],
    tails: Sequence[str],
    progress: Progress = quiet,
) -> Dict[str, Method]:
    """Try other methods for single tensors on the first images of the hold-out, keeping each that lowers the error.

    Args:
        holdout: The images.
        simulation: Of the graph.
        chosen: Scales of the method chosen for all.
        measured: What they gave for the hold-out.
        others: The other methods, most promising first.
        tails: Tensors to try.
        progress: Told the trials done.

    Returns:
        The method of each tensor that is better off with another; to be confirmed on the second half of the hold-out.
    """
    images = min(max(int(_TRIAL_SHARE * len(holdout)), _FEWEST), len(holdout) // 2)
    if not images:
        return {}
    least, current, kept = measured.part(0, images).mean(), dict(chosen), {}
    for index, name in enumerate(tails[:TRIALS]):
        progress("tensors", index, min(TRIALS, len(tails)))
        another = next((pair for pair in others if _differ(pair[1][name], chosen[name])), None)
        if another is None:
            continue
        tried = {**current, name: another[1][name]}
        found = holdout.measure(simulation.query(tried), 0, images).mean()
        if found.agreement >= least.agreement and found.error < _BETTER * least.error:
            least, current = found, tried
            kept[name] = another[0]
    return kept


def improves(found: Agreement, base: Agreement, images: int = 0) -> bool:
    """Whether one is better than the other: a smaller error, and no fewer answers of FP32 than chance explains.

    The error is the mean of thousands of numbers, the agreement a count of a few images that differ. Of n images of
    which b and c differ from FP32, b - c has a standard deviation of at most sqrt(b + c) where neither is better
    (McNemar 1947).

    Args:
        found, base: What was measured of both on the same images.
        images: How many, where the agreement counts answers; 0 where it does not, and may not fall.
    """
    return found.error < base.error and _as_many(found, base, images)


def _as_many(found: Agreement, base: Agreement, images: int) -> bool:
    """Whether no fewer answers are FP32's than chance explains; see `improves`."""
    lost = images * (base.agreement - found.agreement)
    differ = images * (2.0 - base.agreement - found.agreement)
    return lost <= _CHANCE * math.sqrt(differ) if images else found.agreement >= base.agreement


def _differ(a: float, b: float) -> bool:
    return max(a, b) > _ANOTHER * min(a, b)
