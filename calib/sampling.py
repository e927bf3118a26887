"""Choosing images: label-balanced, seeded, the same on every machine and NumPy version."""

from __future__ import annotations

import hashlib
from typing import Any, Iterable, List, Sequence, Union

import numpy as np
import numpy.typing as npt

from engines.errors import UsageError

Labels = Union["npt.NDArray[Any]", Sequence[int]]


def _priority(seed: int, index: int) -> bytes:
    """A hash to sort by: NumPy's generators may change their streams between versions, a hash does not."""
    return hashlib.sha256(b"%d/%d" % (seed, index)).digest()


def balanced(labels: Labels, n: int, seed: int = 0, exclude: Iterable[int] = ()) -> npt.NDArray[np.int64]:
    """Choose `n` images so that every class has as many as the others, as far as it has any left.

    Classes take turns, so every beginning of the result is balanced too, and a smaller `n` gives a beginning of what a
    larger one gives.

    Args:
        labels: Class of each image, any integers.
        n: How many; fewer come where there are no more.
        seed: Another one chooses others.
        exclude: Indices never chosen.

    Returns:
        int64 indices into `labels`, without repetition.

    Raises:
        UsageError: `n` is negative.
    """
    if n < 0:
        raise UsageError(f"{n} samples: 0 or more are needed")
    values = np.asarray(labels)
    free: npt.NDArray[Any] = np.ones(len(values), bool)
    free[np.fromiter(exclude, np.int64)] = False
    queues: List[List[int]] = []
    for label in np.unique(values[free]):
        members = np.flatnonzero(free & (values == label)).tolist()
        queues.append(sorted(members, key=lambda index: _priority(seed, index)))
    # Where n is no multiple of the classes, the seed decides which of them get one more.
    queues.sort(key=lambda queue: _priority(seed, queue[0]))
    chosen: List[int] = []
    turn = 0
    while len(chosen) < n and queues:
        queues = [queue for queue in queues if turn < len(queue)]
        chosen.extend(queue[turn] for queue in queues)
        turn += 1
    return np.asarray(chosen[:n], np.int64)


FEW = 32
"""Images below which a range is what a handful of them happen to hold: one of each class of CIFAR-10 three times."""


def too_few(samples: int) -> List[str]:
    """A warning where so few images calibrate that their ranges say little."""
    if samples >= FEW:
        return []
    return [f"{samples} image{'s' * (samples != 1)} calibrate INT8: {FEW} or more are needed for ranges to be trusted"]
