"""The timing loop: one query at a time, a clock around each, nothing else in between."""

from __future__ import annotations

import gc
import time
from array import array
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from engines.errors import UsageError
from engines.spec import Query

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
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
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
    finally:
        if collecting:
            gc.enable()
    return np.array(samples[:count], np.int64)
