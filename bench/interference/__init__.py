"""A controlled background load beside a measurement: `with interfering(kinds("cpu:50,memory:2,io")) as told: ...`.

stress-ng makes it where it is installed, else processes of ours (`bench.interference.own`). It runs before the first
query, and ends with the block whatever happens: by an exception, by a signal that ends this process, and where this
process is killed by the kernel (Linux; elsewhere our own loads look for their parent).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from bench.interference import own, sizes, stressng
from bench.interference.kinds import Kind, Made, kinds
from engines import process, scratch
from engines.errors import OptimizeError
from engines.spec import Progress, quiet

__all__ = ["Kind", "interfering", "kinds"]

_PATIENCE_S = 30.0
"""Seconds until a load must run: a worker of the disk has to have synced once."""

_STEP_S = 0.02


class _Load(NamedTuple):
    """One kind that was started: its processes, each with the file of its errors, and what tells that it runs."""

    kind: Kind
    facts: Dict[str, Any]
    processes: List[subprocess.Popen[bytes]]
    logs: List[Path]
    runs: Callable[[], bool]


@contextlib.contextmanager
def interfering(
    asked: Sequence[Kind],
    progress: Progress = quiet,
    folder: Optional[Path] = None,
    program: Optional[str] = None,
) -> Iterator[Optional[Dict[str, Any]]]:
    """Run background load while the block lasts.

    Args:
        asked: Of `kinds`; nothing runs where it is empty.
        progress: Told the loads that run.
        folder: Where `io` writes; by default the first of the temporary folder, /var/tmp and the working folder that is
            not in memory.
        program: Path of stress-ng; empty for our own loads; by default what PATH has.

    Yields:
        What runs, for a row's `interference` (None where nothing does): `kinds`, `words`, and `loads`, each with
        `kind`, `amount`, `tool`, `version`, `settings`, `words` and `cpus`: how many CPUs it kept busy on average,
        which is filled in when the block has ended.

    Raises:
        UsageError: More memory or disk than there is.
        OptimizeError: A load did not start, or ended before the block did: what was measured is not what it says.
        OSError: The folder is missing, or cannot be written to.
    """
    if not asked:
        yield None
        return
    tool = stressng.find() if program is None else program
    version = stressng.version(tool) if tool else ""
    wanted = {kind.name: kind.amount for kind in asked}
    sizes.check_memory(wanted.get("memory", 0))
    place = (str(folder) if folder else sizes.on_disk()) if "io" in wanted else None
    if place is not None:
        sizes.check_disk(place, wanted["io"])
    with contextlib.ExitStack() as stack:
        # two folders: what is said of a disk that is full must not be written to it
        data, said = (Path(stack.enter_context(scratch.folder(one))) for one in (place, None))
        loads: List[_Load] = []
        for index, kind in enumerate(asked):
            progress("background load", index, len(asked))
            made = stressng.commands(tool, version, kind, data) if version else own.commands(kind, data, said)
            loads.append(_started(kind, made, said, stack))
        for load in loads:
            _wait(load)
        progress("background load", len(asked), len(asked))
        told = {
            "kinds": ",".join(map(str, asked)),
            "words": "; ".join(load.facts["words"] for load in loads),
            "loads": [load.facts for load in loads],
        }
        begun, before = time.monotonic(), [_cpu_s(load) for load in loads]
        yield told
        for load in loads:
            if not _lives(load):
                raise OptimizeError(
                    f"the background load {load.kind} has ended early: {_last_words(load)}",
                    "what was measured beside it is not what it says: measure again",
                )
        seconds = time.monotonic() - begun
        for load, cpu_s in zip(loads, before):
            load.facts["cpus"] = (_cpu_s(load) - cpu_s) / seconds if seconds > 0 else None


def _started(kind: Kind, made: Made, folder: Path, stack: contextlib.ExitStack) -> _Load:
    about = {"tool": made.tool, "version": made.version, "settings": made.settings, "words": made.words}
    facts = {"kind": kind.name, "amount": kind.amount, **about, "cpus": None}
    started: List[subprocess.Popen[bytes]] = []
    logs = []
    for index, command in enumerate(made.commands):
        logs.append(folder / f"{kind.name}-{index}.log")
        with open(logs[-1], "wb") as log:
            started.append(process.start(command, {**os.environ, **made.env}, log, True))
        stack.callback(process.end, started[-1], True)
        stack.enter_context(process.passing_on(started[-1], True))
    return _Load(kind, facts, started, logs, lambda: made.runs(started))


def _wait(load: _Load) -> None:
    """Until it really runs."""
    deadline = time.monotonic() + _PATIENCE_S
    while not load.runs():
        if any(one.poll() is not None for one in load.processes) or time.monotonic() > deadline:
            raise OptimizeError(f"the background load {load.kind} does not run: {_last_words(load)}")
        time.sleep(_STEP_S)


def _lives(load: _Load) -> bool:
    return all(one.poll() is None for one in load.processes) and load.runs()


def _last_words(load: _Load) -> str:
    """What the processes have said, the one that has ended first."""
    order = sorted(range(len(load.logs)), key=lambda index: load.processes[index].poll() is None)
    for index in order:
        lines = load.logs[index].read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    codes = [one.poll() for one in load.processes if one.poll() is not None]
    return f"it ended with code {codes[0]}" if codes else "it said nothing"


def _cpu_s(load: _Load) -> float:
    """Seconds of CPU time of its processes and what they have started."""
    import psutil

    total = 0.0
    for one in load.processes:
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(one.pid)
            for each in (leader, *leader.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    spent = each.cpu_times()
                    total += spent.user + spent.system
    return total
