"""Throughput of queries that run side by side: each stream asks again as soon as it is answered (a closed loop)."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from engines.errors import UsageError
from engines.spec import Feeds, Query, Runner


def side_by_side(
    runner: Runner, streams: int, given: Feeds, warmup_s: float, duration_s: float, iterations: int
) -> Streams:
    """Time a runner with as many queries at a time as there are streams, each with arrays of its own.

    Where its queries cannot run side by side (`Runner.parallel`), each stream opens the model for itself.

    Args:
        runner: Opened with as many `streams` among its options.
        streams: 2 or more.
        given: Host arrays of a query.
        warmup_s, duration_s, iterations: See `measure`.

    Raises:
        OptimizeError: The model cannot be opened again, most often for want of memory.
    """
    import engines

    with contextlib.ExitStack() as stack:
        more = range(streams - 1)
        runners = [
            runner,
            *(runner if runner.parallel else stack.enter_context(engines.open(runner.spec)) for _ in more),
        ]
        queries = [one.bind({name: array.copy() for name, array in given.items()}) for one in runners]
        return measure(queries, warmup_s, duration_s, iterations)


class Streams(NamedTuple):
    """Result of `measure`.

    Attributes:
        samples: Wall time of each query in nanoseconds, int64, one stream's after the other's.
        per_s: Queries a second: the sum of what each stream did in its own time.
    """

    samples: npt.NDArray[Any]
    per_s: float


def measure(queries: Sequence[Query], warmup_s: float, duration_s: float, iterations: int = 10) -> Streams:
    """Time queries that run side by side, each over and over in a thread of its own.

    All streams keep querying until the last has what it needs, so that none is timed while others rest.

    Args:
        queries: Bound apart, of a runner that is `parallel` (or of runners of their own).
        warmup_s, duration_s, iterations: See `bench.loop.measure`; each stream makes `iterations` queries at least.

    Raises:
        UsageError: See there, or no query.
        Exception: What a query raised, after all streams have stopped.
    """
    if not queries or iterations < 1 or warmup_s < 0 or duration_s < 0:
        raise UsageError(f"{len(queries)} streams, {iterations} iterations, {warmup_s} s, {duration_s} s: too few")
    done: List[Tuple[List[int], int]] = []
    failed: List[BaseException] = []
    start, left = threading.Barrier(len(queries)), threading.Semaphore(0)
    over = threading.Event()

    def stream(query: Query) -> None:
        try:
            query()
            start.wait()
            samples, elapsed = _timed(query, warmup_s, duration_s, iterations, over)
            done.append((samples, elapsed))
            left.release()
            while not over.is_set():
                query()
        except BaseException as error:
            failed.append(error)
            start.abort()
            for _ in queries:
                left.release()

    threads = [threading.Thread(target=stream, args=(query,), daemon=True) for query in queries]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            left.acquire()
    finally:
        over.set()
        for thread in threads:
            thread.join()
        if collecting:
            gc.enable()
    real = [error for error in failed if not isinstance(error, threading.BrokenBarrierError)]
    if real:
        raise real[0]
    samples = np.array([value for one, _ in done for value in one], np.int64)
    return Streams(samples, sum(len(one) / (1e-9 * elapsed) for one, elapsed in done))


def _timed(
    query: Query, warmup_s: float, duration_s: float, iterations: int, over: threading.Event
) -> Tuple[List[int], int]:
    """A stream's samples, and the nanoseconds from the first one's start to the last one's end.

    It ends early where another stream has failed.
    """
    clock = time.perf_counter_ns
    end = clock() + int(warmup_s * 1e9)
    while clock() < end and not over.is_set():
        query()
    samples: List[int] = []
    begin = stop = clock()
    end = begin + int(duration_s * 1e9)
    while (stop < end or len(samples) < iterations) and not over.is_set():
        start = clock()
        query()
        stop = clock()
        samples.append(stop - start)
    return samples, stop - begin
