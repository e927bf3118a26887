"""What the flags of rows mean for their numbers, in the words of every report and of the terminal."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from bench import stats
from bench.telemetry import proc
from engines.text import counted

DISTURBED: Dict[str, str] = {
    "unstable": f"medians of rounds (of tenths of a single round) vary by {100 * stats.UNSTABLE:.0f}% or more: "
    "a difference between targets that is no larger may be chance",
    "unsettled": f"the last {stats.WINDOWS} rounds (thirds of the last one) differ by more than "
    f"{100 * stats.SETTLED - 100:.0f}% in median or throughput: a longer run may come to other times",
    "GPU unstable": "trtexec warns so of the time on the GPU: lock the clocks",
    "busy": f"other processes took more than {100 * proc.BUSY:.0f}% of the CPU time: "
    "times may be longer than the target's own, and not alike for all targets",
    "clocks free": "frequencies could change: times of another moment may differ",
    "clocks changed": "the power mode or a limit of the clocks moved meanwhile: the times are of both",
    "throttled": "the machine slowed down: times are longer than those of a cool one",
}
"""Flags of what disturbed a measurement."""

_MEANING: Dict[str, str] = {
    **DISTURBED,
    "interrupted": "the process did not live to say what disturbed the machine meanwhile",
    "original-on-cpu": "the original ran on the CPU: the speed-up is the GPU's too",
    "no-fast-fp16": "this machine has no fast 16-bit format: fp16 saves room and no time",
    "another file": "the engine was not built from the original beside it: speed-up and drop may compare two models",
    "random weights": "the times mean something, the accuracies do not",
    "double": "measured on a stand-in for the backend's library; no result of that backend",
}


def told(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """A line for each flag of some rows: how many of them have it, and what it means for their numbers."""
    found = []
    for flag in sorted({flag for row in rows for flag in row["flags"]}):
        count = f"{flag} ({sum(flag in row['flags'] for row in rows)} of {counted(len(rows), 'row')})"
        found.append(f"{count}: {_MEANING[flag]}" if flag in _MEANING else count)
    return found
