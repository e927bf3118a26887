"""Requests put together: one thread asks the engine, and what has come meanwhile goes into its next batch.

MLServer has a batcher of its own, which is left off. It counts requests and not samples, it joins them before anything
is checked, so that one wrong request fails all others of its batch, it asks the engine again while that still computes,
and it cannot tell waiting from computing.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from engines.errors import IncompatibleError, UsageError
from engines.spec import Feeds, Progress, Query, Runner, TensorSpec, quiet
from engines.tensors import checked, text
from optimize.serving.statistics import Statistics, Times

Arrays = Dict[str, "np.ndarray[Any, Any]"]

_WARMUP = 3
"""Queries of each batch before the first request: what is compiled or allocated then is done, and the cost known."""

_MOST_WAITING = 4096
"""Requests that may wait; more are refused, so that a flood does not take the memory."""


class _Request(NamedTuple):
    feeds: Arrays
    samples: int
    arrived: int
    answer: Future[Arrays]


class _Bound(NamedTuple):
    """A batch size of the engine: its input arrays, the query over them, and about how long that takes (ns)."""

    arrays: Arrays
    query: Query
    cost: float


class Batcher:
    """An engine that answers requests of any number of samples up to its largest batch.

    Args:
        runner: Open; the batcher's thread alone uses it, and closes it.
        batches: Sizes to run, ascending.
        delay_s: How long the first request of a batch may wait for others, while the engine is idle.
        progress: Told the sizes that are ready.

    Attributes:
        statistics: What has been done.
        inputs: What a request holds; the batch is free.
        most: Samples of the largest request.

    Raises:
        UsageError: An input without a batch, or with another size that is free.
        OptimizeError: The engine does not run one of the batches.
    """

    def __init__(
        self, runner: Runner, batches: Sequence[int], delay_s: float = 0.0, progress: Progress = quiet
    ) -> None:
        self.runner, self.statistics = runner, Statistics()
        self.inputs = tuple(_free(tensor) for tensor in runner.inputs)
        self._delay = int(delay_s * 1e9)
        self._bound: Dict[int, _Bound] = {}
        for index, size in enumerate(batches):
            progress("warming up", index, len(batches))
            self._bound[size] = self._bind(size)
        progress("warming up", len(batches), len(batches))
        self.most = max(self._bound)
        self._plans = _plans({size: one.cost for size, one in self._bound.items()})
        self._waiting: Deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, feeds: Feeds) -> Future[Arrays]:
        """Ask for the outputs of some samples; they are arrays of their own.

        Args:
            feeds: By input name, batch first; they must not be changed until they are answered.

        Raises:
            UsageError: A wrong name, shape or dtype, or more samples than the largest batch.
            IncompatibleError: The server is stopping, or too many requests wait already.
        """
        arrived = time.perf_counter_ns()
        try:
            samples = len(checked(self.inputs, feeds)[0])
            if samples > self.most:
                raise UsageError(f"{samples} samples; at most {self.most} are taken at once")
            answer: Future[Arrays] = Future()
            with self._changed:
                if self._closed:
                    raise IncompatibleError("the server is stopping")
                if len(self._waiting) >= _MOST_WAITING:
                    raise IncompatibleError(f"{_MOST_WAITING} requests wait already")
                self._waiting.append(_Request(dict(feeds), samples, arrived, answer))
                self._changed.notify()
        except (UsageError, IncompatibleError):
            self.statistics.failed(time.perf_counter_ns() - arrived)
            raise
        return answer

    def close(self) -> None:
        """Take no more requests, answer those that wait, and close the engine."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._bound.clear()
        self.runner.close()

    def _bind(self, size: int) -> _Bound:
        arrays: Arrays = {
            tensor.name: np.zeros((size, *(n or 1 for n in tensor.shape[1:])), tensor.dtype) for tensor in self.inputs
        }
        query = self.runner.bind(arrays)
        query()
        times = []
        for _ in range(_WARMUP):
            start = time.perf_counter_ns()
            query()
            times.append(time.perf_counter_ns() - start)
        return _Bound(arrays, query, statistics.median(times))

    def _run(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            try:
                if taken:
                    self._answer(taken)
            except Exception as error:  # whatever a backend raises is told to those that asked; the next may do
                ended = time.perf_counter_ns()
                for one in taken:
                    self.statistics.failed(ended - one.arrived)
                    one.answer.set_exception(error)

    def _take(self) -> Optional[List[_Request]]:
        """The requests of the next batch, the first come first; None where the batcher is closed and all are done."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and not self._closed:
                left = self._waiting[0].arrived + self._delay - time.perf_counter_ns()
                if left <= 0 or sum(one.samples for one in self._waiting) >= self.most:
                    break
                self._changed.wait(left / 1e9)
            if not self._waiting:
                return None
            taken: List[_Request] = []
            total = 0
            while self._waiting and total + self._waiting[0].samples <= self.most:
                one = self._waiting.popleft()
                if one.answer.set_running_or_notify_cancel():  # else whoever asked has left
                    total += one.samples
                    taken.append(one)
            return taken

    def _answer(self, taken: List[_Request]) -> None:
        """Run a batch, in one query or in several where that is quicker, and give each request its part."""
        begun = time.perf_counter_ns()
        total = sum(one.samples for one in taken)
        joined = {
            tensor.name: np.concatenate([one.feeds[tensor.name] for one in taken])
            if len(taken) > 1
            else taken[0].feeds[tensor.name]
            for tensor in self.runner.inputs
        }
        given, computed, took = time.perf_counter_ns() - begun, 0, 0
        parts: List[Arrays] = []
        start = 0
        for size in self._plans[total]:
            count = min(size, total - start)
            bound = self._bound[size]
            at = time.perf_counter_ns()
            for name, array in bound.arrays.items():
                array[:count] = joined[name][start : start + count]
            filled = time.perf_counter_ns()
            found = bound.query()
            done = time.perf_counter_ns()
            parts.append({name: value[:count].copy() for name, value in found.items()})
            ended = time.perf_counter_ns()
            given, computed, took = given + filled - at, computed + done - filled, took + ended - done
            start += count
        whole = {
            name: np.concatenate([one[name] for one in parts]) if len(parts) > 1 else parts[0][name]
            for name in parts[0]
        }
        ended = time.perf_counter_ns()
        times = [Times(ended - one.arrived, begun - one.arrived, given, computed, took) for one in taken]
        self.statistics.ran(times, total, sum(self._plans[total]))  # before anyone who was answered can ask for them
        start = 0
        for one in taken:
            one.answer.set_result({name: value[start : start + one.samples] for name, value in whole.items()})
            start += one.samples


def _free(tensor: TensorSpec) -> TensorSpec:
    if not tensor.shape or None in tensor.shape[1:]:
        raise UsageError(
            f"{tensor.name} has the shape {text(tensor.shape)}: only its first size, the batch, may be free"
        )
    return TensorSpec(tensor.name, (None, *tensor.shape[1:]), tensor.dtype)


def _plans(costs: Dict[int, float]) -> List[Tuple[int, ...]]:
    """For each number of samples up to the largest batch, the batches that answer it in the least time.

    A batch may be filled up: 60 samples are quicker as one batch of 64 than as 60 of 1, and 3 are not.

    Args:
        costs: Time of each batch size.
    """
    best: List[Tuple[float, Tuple[int, ...]]] = [(0.0, ())]
    for total in range(1, max(costs) + 1):
        tried = ((cost + best[max(0, total - size)][0], size) for size, cost in costs.items())
        cost, size = min(tried)
        best.append((cost, (size, *best[max(0, total - size)][1])))
    return [sizes for _, sizes in best]
