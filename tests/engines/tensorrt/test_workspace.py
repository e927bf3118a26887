"""How much scratch memory a build may take, and how a failure for want of it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest

from engines.tensorrt import workspace

GIB, MIB = 1 << 30, 1 << 20


def device(free: int, total: int, integrated: bool) -> Any:
    return SimpleNamespace(memory=lambda: (free, total), integrated=integrated)


@pytest.mark.parametrize(
    ("free", "total", "integrated", "available", "limit"),
    [
        (8 * GIB, 16 * GIB, False, 64 * GIB, 4 * GIB),
        (1 * GIB, 8 * GIB, True, 6 * GIB, 3 * GIB),  # what the page cache holds is free too
        (4 * GIB, 8 * GIB, True, 2 * GIB, 2 * GIB),
        (4 * GIB, 8 * GIB, True, 0, 2 * GIB),  # nothing is known of the kernel's memory
        (4 * GIB, 8 * GIB, True, 32 * GIB, 4 * GIB),
        (10 * MIB, 8 * GIB, False, 0, workspace.LEAST),
    ],
)
def test_half_of_what_is_free(free: int, total: int, integrated: bool, available: int, limit: int) -> None:
    assert workspace.automatic(device(free, total, integrated), lambda: available) == limit


@pytest.mark.parametrize(
    ("first", "tried"),
    [(1024, [1024, 512, 256, 128]), (64, [64, 32, 16]), (16, [16]), (4, [4])],
)
def test_each_limit_is_half_of_the_one_before(first: int, tried: List[int]) -> None:
    assert list(workspace.limits(first * MIB)) == [size * MIB for size in tried]


@pytest.mark.parametrize(
    ("line", "memory", "hint"),
    [
        (("ERROR", "Error Code 2: OutOfMemory (no further information)"), True, "256MiB"),
        (("INTERNAL_ERROR", "[virtualMemoryBuffer.cpp] out of memory"), True, "256MiB"),
        (("ERROR", "GPU memory of 400 MiB could not be allocated"), True, "256MiB"),
        (("ERROR", "cudaErrorMemoryAllocation"), True, "256MiB"),
        (("WARNING", "Requested amount of GPU memory (400 bytes) could not be allocated. OutOfMemory"), False, ""),
        (("WARNING", "Tactic skipped, insufficient memory on requested size of 400"), False, "2GiB"),
        (("ERROR", "Could not find any implementation for node conv1: insufficient workspace"), False, "2GiB"),
        (("ERROR", "No importer registered"), False, ""),
    ],
)
def test_errors_tell_that_memory_ran_out_and_warnings_do_not(line: Tuple[str, str], memory: bool, hint: str) -> None:
    assert workspace.ran_out([("WARNING", "slow"), line]) is memory
    told = workspace.hint([("WARNING", "slow"), line])
    assert (hint in told) if hint else (told == "")


def test_nothing_was_said() -> None:
    assert workspace.ran_out([]) is False
    assert workspace.hint([]) == ""
