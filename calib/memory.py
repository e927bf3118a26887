"""Giving freed memory back: what one phase has used must not lie below the peak of the next."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from typing import Any


def release() -> None:
    """Hand freed pages back to the system, on Linux with glibc (elsewhere that is left to it).

    A large graph that is loaded and dropped leaves holes that glibc keeps, because it raises its threshold for memory
    of its own with every large block that is freed (ResNet-34: 100 of 620 MB).
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):  # another C library, such as musl
        ctypes.CDLL(None).malloc_trim(0)


def forget(array: Any) -> None:
    """Let go of the pages of a file that an array is mapped from; they are read again when asked for.

    Memory that the system could take back at any time counts as resident all the same, on a board's 8 GB too (the
    batches of CIFAR-10: 31 MB each). Arrays that are not mapped, and systems without madvise, are left as they are.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
