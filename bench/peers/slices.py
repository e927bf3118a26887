"""Two processes that are measured side by side in slices of time: while one runs, the other is stopped (SIGSTOP).

A machine whose speed changes from one second to the next changes it for both, where rounds that take turns leave it to
chance. A request that a stop falls into takes a slice longer than it should; the medians of the rest do not feel it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any, Dict, List, Sequence, Tuple

from bench.peers import turns
from engines import child
from engines.errors import IncompatibleError
from engines.spec import Progress

SHORTEST_S, QUERIES = 0.1, 20
"""A slice lasts for so long, and for so many queries, at least."""

_READY = "ready to be timed"


def ready(query_ms: float, progress: Progress) -> None:
    """In the child: all before this is preparation; what follows is timed, in slices.

    Args:
        query_ms: About how long a query takes.
        progress: The one that `engines.child.call` gave.
    """
    progress(_READY, os.getpid(), int(1e3 * query_ms))
    os.kill(os.getpid(), signal.SIGSTOP)


def measure(calls: Sequence[Tuple[str, Dict[str, Any]]]) -> List[Any]:
    """Run functions in children of their own, which call `ready` once; from then on they run one at a time.

    Args:
        calls: Functions for `engines.child.call`, with their arguments. The first runs the first slice.

    Returns:
        What each returned.

    Raises:
        OptimizeError: One failed; the other is let run to its end.
        IncompatibleError: This system cannot stop processes.
    """
    if not hasattr(signal, "SIGSTOP"):
        raise IncompatibleError("this system has no signal that stops a process", "use Linux or macOS")
    runs = [_Run(*call) for call in calls]
    try:
        for run in runs:
            run.thread.start()
        while not all(run.query_ms or run.ended for run in runs):
            time.sleep(0.01)
        slice_s = max(SHORTEST_S, QUERIES * max(run.query_ms for run in runs) / 1e3)
        for run in runs:
            run.tell(signal.SIGSTOP)
        while not any(run.ended for run in runs):
            for run in runs:
                run.tell(signal.SIGCONT)
                run.thread.join(slice_s)
                run.tell(signal.SIGSTOP)
        while not all(run.ended for run in runs):
            for run in runs:  # again and again: one may have been about to stop itself
                run.tell(signal.SIGCONT)
                run.thread.join(SHORTEST_S)
    except BaseException:
        for run in runs:
            run.tell(signal.SIGKILL)
        raise
    for run in runs:
        if run.error:
            raise run.error[0]
    return [run.returned[0] for run in runs]


def ratio(first: Sequence[float], second: Sequence[float]) -> Dict[str, Any]:
    """`ratio`: the median over the rounds of the ratio within each, which ran at the same time; and its `interval`."""
    return turns.ratio([a / b for a, b in zip(first, second)], [1.0] * len(first))


class _Run:
    """A call in a thread."""

    def __init__(self, stage: str, arguments: Dict[str, Any]) -> None:
        self.query_ms, self.pid = 0.0, 0
        self.returned: List[Any] = []
        self.error: List[BaseException] = []
        self.thread = threading.Thread(target=self._call, args=(stage, arguments), daemon=True)

    @property
    def ended(self) -> bool:
        return bool(self.returned or self.error)

    def tell(self, number: int) -> None:
        if self.pid and not self.ended:
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, number)

    def _call(self, stage: str, arguments: Dict[str, Any]) -> None:
        def progress(what: str, done: int, total: int) -> None:
            if what == _READY:
                self.pid, self.query_ms = done, max(total, 1) / 1e3

        try:
            self.returned.append(child.call(stage, arguments, progress))
        except BaseException as error:  # raised by `measure`, in the thread that asked
            self.error.append(error)
