"""Whether the kernel ended a process because the memory ran out: its counters tell, where there are any."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, Iterator

from engines.errors import OptimizeError

_ROOT = Path("/")
"""Where `proc` and `sys` are."""

_COUNTER = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
"""In each file: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; `vmstat` since 4.13."""


def counters() -> Dict[str, int]:
    """How many processes the kernel has ended for want of memory, by the file that tells; empty where none does."""
    found = {}
    for file in _files():
        try:
            told = _COUNTER.search(file.read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue
        if told:
            found[str(file)] = int(told.group(1))
    return found


def _files() -> Iterator[Path]:
    """The machine's counter, and those of this process's control groups (both generations) up to the outermost."""
    yield _ROOT / "proc" / "vmstat"
    try:
        groups = (_ROOT / "proc" / "self" / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (
            ("sys/fs/cgroup/memory", "memory.oom_control") if controllers else ("sys/fs/cgroup", "memory.events")
        )
        inner = path.strip("/").split("/") if path.strip("/") and ".." not in path.split("/") else []
        for depth in range(len(inner), -1, -1):  # in a container the path may be the host's, and only the top is here
            yield _ROOT / top / os.path.join("", *inner[:depth]) / name


def killed(target: str, before: Dict[str, int]) -> OptimizeError:
    """The error for a process that SIGKILL ended.

    Args:
        target: What it ran.
        before: `counters()` from before it started.
    """
    now = counters()
    if any(count > before.get(file, count) for file, count in now.items()):
        return OptimizeError(
            f"{target} was killed (signal 9) because the memory ran out",
            "close other programs, add swap, or use a smaller --batch",
        )
    return OptimizeError(
        f"{target} was killed (signal 9)",
        "run the same command again; if nobody ended it, use a smaller --batch, since the memory may be short",
    )
