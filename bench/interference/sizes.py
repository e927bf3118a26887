"""How much memory and disk the loads take, and whether it is there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import List

from engines.errors import UsageError

FILE = 64 << 20
"""Bytes that a worker of the disk writes, over and over."""

_CACHE = 32 << 20
"""Bytes of a last-level cache that is not told: more than most edge devices have."""

_LEAST = 64 << 20
"""Bytes that a worker of the memory streams through at least."""

_IN_MEMORY = ("tmpfs", "ramfs")

_SIZE = re.compile(r"(\d+)([KMG]?)")


def cores() -> List[int]:
    """The cores that this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cache_bytes(root: Path = Path("/")) -> int:
    """Size of the largest cache of the first core, in bytes; a guess where it is not told.

    Source: Linux, Documentation/ABI/testing/sysfs-devices-system-cpu.
    """
    found = []
    for file in root.glob("sys/devices/system/cpu/cpu0/cache/index*/size"):
        try:
            told = _SIZE.fullmatch(file.read_text(encoding="ascii", errors="replace").strip())
        except OSError:
            continue
        if told:
            found.append(int(told.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[told.group(2)])
    return max(found, default=0) or _CACHE


def stream_bytes() -> int:
    """What a worker of the memory streams through: four times the last-level cache, so that nothing of it stays."""
    return max(4 * cache_bytes(), _LEAST)


def check_memory(workers: int) -> None:
    """Refuse to take more than half of what is free: what is measured needs some too.

    Raises:
        UsageError: It would.
    """
    import psutil

    need, free = workers * stream_bytes(), int(psutil.virtual_memory().available)
    if 2 * need > free:
        raise UsageError(
            f"--interference memory:{workers} takes {need >> 20} MiB, and {free >> 20} MiB are free",
            f"--interference memory:{free // 2 // stream_bytes()}"
            if free > 2 * stream_bytes()
            else "close other programs",
        )


def check_disk(folder: str, workers: int) -> None:
    """Refuse to fill a disk.

    Raises:
        UsageError: There is less room than twice what is written.
        OSError: No such folder.
    """
    need, free = workers * FILE, shutil.disk_usage(folder).free
    if 2 * need > free:
        raise UsageError(
            f"--interference io:{workers} writes {need >> 20} MiB in {folder}, and {free >> 20} MiB are free there",
            "free some space, or name a folder on another disk with TMPDIR",
        )


def on_disk() -> str:
    """A folder to write to whose files are not in memory; the temporary one where there is no other."""
    places = [tempfile.gettempdir(), "/var/tmp", os.getcwd()]  # noqa: S108  (a private folder is made in it)
    able = [place for place in places if os.access(place, os.W_OK | os.X_OK) and filesystem(place) not in _IN_MEMORY]
    return able[0] if able else places[0]


def filesystem(folder: str) -> str:
    """Kind of the file system that a folder is on, such as `ext4`; empty where it is not told."""
    import psutil

    real = os.path.realpath(folder)
    found = ""
    longest = -1
    for part in psutil.disk_partitions(all=True):
        point = part.mountpoint.rstrip("/") + "/"
        if (real + "/").startswith(point) and len(point) >= longest:
            found, longest = part.fstype, len(point)
    return found
