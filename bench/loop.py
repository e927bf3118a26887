"""The timing loop: one query at a time, a clock around each, nothing else in between."""

from __future__ import annotations

import contextlib
import gc
import time
from array import array
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.errors import UsageError
from engines.spec import Query

BEAT_S, SETTLE_S = 1.0, 0.02
"""Seconds between two pauses of a long run, and of queries after one that are not kept."""

_FIRST = 1 << 14
"""Samples that the buffer holds at first (128 KiB); it doubles when it is full, between two queries."""


def measure(
    query: Query,
    warmup_s: float,
    duration_s: float,
    iterations: int = 10,
    mark: Callable[[], None] = lambda: None,
) -> npt.NDArray[Any]:
    """Time a query over and over.

    One query runs before the warm-up: what is compiled or allocated in the first call belongs to neither. The garbage
    collector is off meanwhile, as in `timeit`: its pauses are this process's and not the engine's.

    Args:
        query: Bound to its host arrays (`Runner.bind`): host array in, host array out.
        warmup_s: Seconds of queries that are not kept.
        duration_s: Seconds of queries that are.
        iterations: Queries kept at least, however long they take.
        mark: Called before the first query that is kept and after the last.

    Returns:
        Wall time of each query in nanoseconds, int64, shape (queries,), in order.

    Raises:
        UsageError: No iteration is asked for, or a time is negative.
    """
    if iterations < 1 or warmup_s < 0 or duration_s < 0:
        raise UsageError(
            f"iterations {iterations}, warm-up {warmup_s} s, duration {duration_s} s: 1 or more, and no negative time",
            "for example --iterations 10 --warmup 200ms --duration 1s",
        )
    clock = time.perf_counter_ns
    samples = array("q", bytes(8 * _FIRST))
    size, count = _FIRST, 0
    with uncollected():
        query()
        end = clock() + int(warmup_s * 1e9)
        while clock() < end:
            query()
        mark()
        end = clock() + int(duration_s * 1e9)
        while True:
            start = clock()
            query()
            stop = clock()
            samples[count] = stop - start
            count += 1
            if stop >= end and count >= iterations:
                break
            if count == size:
                samples.extend(samples)
                size *= 2
        mark()
    return np.array(samples[:count], np.int64)


class Many(NamedTuple):
    """Result of `measure_many`.

    Attributes:
        first: Wall time of the first query of all, in nanoseconds.
        samples: Wall time of each query after the warm-up, ns, int64, shape (samples,), in order.
        starts: When each of them began, ns after the first of them, int64, shape (samples,).
    """

    first: int
    samples: npt.NDArray[Any]
    starts: npt.NDArray[Any]


def measure_many(
    query: Query,
    samples: int,
    warmup_s: float,
    mark: Callable[[], None] = lambda: None,
    beat: Callable[[int], None] = lambda done: None,
    beat_s: float = BEAT_S,
) -> Many:
    """Time a query as often as the tail of its times needs, and keep when each began.

    It pauses once in `beat_s`, to tell how far it is and to collect garbage, and then queries for `SETTLE_S` without
    keeping it: what reads the progress runs at that time, and would else be seen in one of a thousand samples.

    Args:
        query: Bound to its host arrays.
        samples: Queries that are kept.
        warmup_s: Seconds of queries that are not, after the first.
        mark: Called before the first query that is kept and after the last.
        beat: Told, in each pause, how many queries are done.
        beat_s: Seconds between pauses.

    Raises:
        UsageError: No sample is asked for, or a time is negative.
    """
    if samples < 1 or warmup_s < 0:
        raise UsageError(f"samples {samples}, warm-up {warmup_s} s: 1 or more, and no negative time")
    clock = time.perf_counter_ns
    times, starts = array("q", bytes(8 * samples)), array("q", bytes(8 * samples))
    with uncollected():
        start = clock()
        query()
        first = clock() - start
        end = clock() + int(warmup_s * 1e9)
        while clock() < end:
            query()
        mark()
        due = clock() + int(beat_s * 1e9)
        for index in range(samples):
            start = clock()
            query()
            stop = clock()
            times[index] = stop - start
            starts[index] = start
            if stop >= due:
                beat(index + 1)
                gc.collect()
                end = clock() + int(SETTLE_S * 1e9)
                query()
                while clock() < end:
                    query()
                due = clock() + int(beat_s * 1e9)
        mark()
    return Many(first, np.array(times, np.int64), np.array(starts, np.int64) - starts[0])


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """While it lasts, garbage is collected only where that is asked for, and only what has become garbage since."""
    collecting = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
