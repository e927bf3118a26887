"""How much scratch memory a build may take: a limit that leaves a board usable, and what to do where it is too much."""

from __future__ import annotations

import re
from typing import Callable, Iterator, Sequence, Tuple

from engines import board
from engines.cuda import Context

SHARE = 0.5
"""Of the free memory: the other half is for the weights, the tactics under test and, where the GPU shares its memory
with the CPU, the system. trtexec's default is all of the device's memory, which a desktop bears and an 8 GB board not;
the rule is this project's own."""

LEAST = 16 << 20
"""Bytes below which no smaller limit is tried."""

TRIES = 4
"""The limit that was asked for, and three times half of the one before."""

Lines = Sequence[Tuple[str, str]]

_RAN_OUT = re.compile(
    r"out ?of ?memory|GPU memory .* could not be allocated|insufficient memory|MemoryAllocation", re.IGNORECASE
)

_TOO_SMALL = re.compile(r"insufficient (?:workspace|memory on requested size)", re.IGNORECASE)
"""A warning of each tactic that the limit, not the device, kept out."""


def _available() -> int:
    return int(board.memory(shared=True).get("available_bytes") or 0)


def automatic(gpu: Context, available: Callable[[], int] = _available) -> int:
    """The limit where none is given, bytes: `SHARE` of the free memory.

    Where the GPU shares the memory of the CPU, free is what the kernel could give (MemAvailable), since the driver's
    figure leaves out what the page cache holds (CUDA driver API, cuMemGetInfo: see the Tegra notes).
    """
    free, total = gpu.memory()
    if gpu.integrated:
        free = min(max(free, available()), total)
    return max(LEAST, int(free * SHARE))


def limits(first: int) -> Iterator[int]:
    """The limits to try one after the other, bytes."""
    for _ in range(TRIES):
        yield first
        first //= 2
        if first < LEAST:
            return


def ran_out(lines: Lines) -> bool:
    """Whether a build failed for want of memory, by the errors that TensorRT logged.

    Warnings do not count: a build that succeeds also warns of every tactic that does not fit.
    """
    return any("ERROR" in severity and _RAN_OUT.search(text) for severity, text in lines)


def hint(lines: Lines) -> str:
    """What helps where a build failed: less, more, or nothing that has to do with the memory."""
    if ran_out(lines):
        return "close other programs, a smaller --batch, or --workspace 256MiB"
    if any(_TOO_SMALL.search(text) for _, text in lines):
        return "a larger --workspace, such as 2GiB"
    return ""
