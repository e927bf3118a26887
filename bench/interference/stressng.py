"""Background load by stress-ng: another program, run and never imported (it is under the GPL)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

from bench.interference import sizes
from bench.interference.kinds import Kind, Made
from engines import child

_BOOT = (
    "import sys; end = 3 + int(sys.argv[2]); sys.path[:] = sys.argv[3:end]; "
    "import os, signal; from engines.child import follow_parent; "
    "follow_parent(int(sys.argv[1]), signal.SIGTERM); os.dup2(2, 1); os.execv(sys.argv[end], sys.argv[end:])"
)
"""Linux keeps what was asked across exec: stress-ng ends its workers when it is asked to end."""

_NAMES = {"cpu": "cpu", "memory": "stream", "io": "hdd"}
"""Its words for the kinds."""

_SLICE_MS = 5
"""Milliseconds for which a worker of the processor is busy at a time."""


def find() -> str:
    """Path of stress-ng; empty where it is missing."""
    return (shutil.which("stress-ng") or "") if os.name == "posix" else ""


def version(program: str) -> str:
    """Version of a program that is stress-ng and starts; else empty."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
        told = re.match(r"stress-ng, version (\S+)", done.stdout)
        return told.group(1) if told else ""
    return ""


def commands(program: str, release: str, kind: Kind, folder: Path) -> Made:
    """One process of stress-ng with as many workers as the load has.

    Args:
        program, release: Path of stress-ng, and its version.
        kind: What it makes.
        folder: Of our own: it must be able to write there, whatever it does.
    """
    cores, cache = len(sizes.cores()), sizes.cache_bytes()
    workers = cores if kind.name == "cpu" else kind.amount
    options = {
        # one method that computes in registers, so that it takes time from a core and no memory from another load
        "cpu": [f"--cpu-load={kind.amount}", f"--cpu-load-slice={_SLICE_MS}", "--cpu-method=int64"],
        "memory": [f"--stream-l3-size={cache}"],
        "io": [f"--hdd-bytes={sizes.FILE}", "--hdd-opts=wr-seq,fsync"],
    }[kind.name]
    words = {
        "cpu": f"{kind.amount}% of the time of each of {cores} cores",
        "memory": f"{workers} x memory streams beyond a cache of {cache >> 20} MiB",
        "io": f"{workers} x writing and syncing {sizes.FILE >> 20} MiB on {sizes.filesystem(str(folder)) or 'a disk'}",
    }[kind.name]
    asked = [f"--{_NAMES[kind.name]}={workers}", *options, "--oomable", f"--temp-path={folder}", "--timeout=30d"]
    path = child.clean_path()
    boot = [sys.executable, "-c", _BOOT, str(os.getpid()), str(len(path)), *path, program]
    settings = {"workers": workers, "options": [one for one in asked if not one.startswith("--temp-path")]}
    made = [[*boot, *asked]]
    return Made("stress-ng", release, made, {}, lambda started: _run(started, workers), settings, f"stress-ng: {words}")


def _run(started: Sequence[Any], workers: int) -> bool:
    """Whether all workers are there and have computed."""
    import psutil

    busy = 0
    with contextlib.suppress(psutil.Error):
        for worker in psutil.Process(started[0].pid).children():
            with contextlib.suppress(psutil.Error):
                family = [worker, *worker.children(recursive=True)]
                times = [each.cpu_times() for each in family if each.status() != psutil.STATUS_ZOMBIE]
                busy += sum(spent.user + spent.system for spent in times) > 0
    return busy >= workers
