"""Samples of rails while something runs in another process, and the energy between two moments."""

from __future__ import annotations

import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from bench.telemetry.rails import Rail

HZ = 20.0
"""Samples a second: an INA3221 averages over some milliseconds, a processor's counter moves each millisecond."""

_SURE_S, _TRIES = 0.01, 3
"""A reading that took longer may have waited for a busy machine: nobody knows when it was taken, and it is repeated."""

_LONGEST_S = 1.0
"""A gap between two samples beyond which what happened in it is not known."""

Sample = Tuple[float, float]
"""Moment by `time.monotonic`, the same clock in all processes of a machine; watts or joules."""


class Sampler:
    """Reads rails from a thread until its `with` block ends.

    Args:
        rails: What to read.
        hz: How often.

    Attributes:
        samples: By rail, in order; a reading that gave nothing is left out.
    """

    def __init__(self, rails: Sequence[Rail], hz: float = HZ) -> None:
        self._rails, self._period = list(rails), 1 / hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failed: Optional[BaseException] = None
        self.samples: Dict[str, List[Sample]] = {rail.name: [] for rail in self._rails}

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is not None and exception[0] is None:
            raise self._failed

    def _run(self) -> None:
        try:
            while True:
                self._read()
                if self._stop.wait(self._period):
                    self._read()  # the end of what ran lies between two samples
                    return
        except BaseException as error:  # raised again where the block ends
            self._failed = error

    def _read(self) -> None:
        for rail in self._rails:
            tries: List[Tuple[float, float, Optional[float]]] = []
            while len(tries) < _TRIES and (not tries or tries[-1][0] > _SURE_S):
                before = time.monotonic()
                value = rail.read()
                took = time.monotonic() - before
                tries.append((took, before + took / 2, value))
            _, moment, value = min(tries, key=lambda one: one[0])
            if value is not None:  # a sensor may take milliseconds: the value is of the middle
                self.samples[rail.name].append((moment, value))


def joules(rail: Rail, samples: Sequence[Sample], start: float, end: float) -> Optional[float]:
    """Energy that a rail gave between two moments.

    Power is integrated by the trapezoidal rule, its value at the ends interpolated; a counter's is interpolated at both
    ends, and a counter that starts again at 0 goes on.

    Returns:
        Joules; None where the samples do not reach both ends or leave a gap of more than a second between them.
    """
    if len(samples) < 2 or end <= start:
        return None
    times, values = (np.array(column, np.float64) for column in zip(*samples))
    inside = np.flatnonzero((times >= start) & (times <= end))
    first = max(int(np.searchsorted(times, start, side="right")) - 1, 0)
    last = min(int(np.searchsorted(times, end, side="left")), len(times) - 1)
    if times[first] > start or times[last] < end or (np.diff(times[first : last + 1]) > _LONGEST_S).any():
        return None
    if rail.counts:
        steps = np.diff(values)
        steps[steps < 0] += rail.range_j
        total = np.concatenate([[0.0], np.cumsum(steps)])
        return float(np.interp(end, times, total) - np.interp(start, times, total))
    moments = np.concatenate([[start], times[inside], [end]])
    watts = np.interp(moments, times, values)
    return float(np.sum((watts[1:] + watts[:-1]) / 2 * np.diff(moments)))
