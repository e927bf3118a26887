"""Background load where stress-ng is missing: small processes of our own, each of one kind, until they are ended."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Sequence

from bench.interference import sizes
from bench.interference.kinds import Kind, Made
from engines import child
from engines.errors import outcome

_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from bench.interference.own import main; main(sys.argv[1])"

_PERIOD_S = (0.005, 0.015)
"""Bounds of the periods, drawn anew each time, in which a core is busy for its share: a fixed one would be seen as a
period in what is measured."""

_BLOCK = 1 << 20
"""Bytes written at a time, each time synced."""


def commands(kind: Kind, data: Path, said: Path) -> Made:
    """One process for each core or worker.

    Args:
        kind: What they make.
        data: Folder of our own where they write.
        said: Another, where they say that they run.
    """
    import numpy as np

    cores, size = sizes.cores(), sizes.stream_bytes()
    workers = len(cores) if kind.name == "cpu" else kind.amount
    settings: Dict[str, Dict[str, Any]] = {
        "cpu": {"percent": kind.amount, "period_s": list(_PERIOD_S), "pinned": hasattr(os, "sched_setaffinity")},
        "memory": {"bytes": size},
        "io": {"bytes": sizes.FILE, "block_bytes": _BLOCK},
    }
    words = {
        "cpu": f"{kind.amount}% of the time of each of {workers} cores",
        "memory": f"{workers} x copying through {size >> 20} MiB",
        "io": f"{workers} x writing and syncing {sizes.FILE >> 20} MiB on {sizes.filesystem(str(data)) or 'a disk'}",
    }[kind.name]
    ready = [said / f"{kind.name}-{place}.ready" for place in range(workers)]
    about = {"kind": kind.name, "amount": kind.amount, "data": str(data), "parent": os.getpid()}
    jobs = [{**about, "place": place, "ready": str(file)} for place, file in enumerate(ready)]
    made = [[sys.executable, "-c", _BOOT, json.dumps(job), *child.clean_path()] for job in jobs]
    env = {"PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}  # NumPy's threads would only wait

    def runs(started: Sequence[Any]) -> bool:
        return all(file.exists() for file in ready)

    version = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return Made("own", version, made, env, runs, {"workers": workers, **settings[kind.name]}, f"own load: {words}")


def main(job: str) -> None:
    """The process's side: after its first piece of work it makes the file `ready`, and goes on until it is ended."""
    asked: Dict[str, Any] = json.loads(job)
    child.follow_parent(asked["parent"], signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    ready = Path(asked["ready"])
    try:
        for index, _ in enumerate(_WORK[asked["kind"]](asked)):
            if index == 0:
                ready.touch()
            if os.getppid() != asked["parent"]:  # where the kernel does not end us with it
                return
    except (OSError, MemoryError) as error:
        sys.stderr.write(outcome(error).message + "\n")
        sys.exit(1)


def _cpu(asked: Dict[str, Any]) -> Iterator[None]:
    """Busy for a share of the time of one core, by the CPU time that it got."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sizes.cores()[asked["place"]]})
    draw, share = random.Random(asked["place"]), asked["amount"] / 100  # noqa: S311
    while True:
        begun, period = time.perf_counter(), draw.uniform(*_PERIOD_S)
        enough = time.process_time() + share * period
        while time.process_time() < enough:
            for _ in range(500):
                pass
        time.sleep(max(begun + period - time.perf_counter(), 0))
        yield


def _memory(asked: Dict[str, Any]) -> Iterator[None]:
    """Copies one array over another, there and back; both together are larger than the cache."""
    import numpy as np

    one = np.ones(sizes.stream_bytes() // 16)
    other = np.ones_like(one)
    while True:
        np.copyto(other, one)
        one, other = other, one
        yield


def _io(asked: Dict[str, Any]) -> Iterator[None]:
    """Writes a file block by block, each synced, from its beginning again when it is long enough."""
    block = os.urandom(_BLOCK)
    path = os.path.join(asked["data"], f"{asked['place']}.data")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    while True:
        os.lseek(file, 0, os.SEEK_SET)
        for _ in range(sizes.FILE // _BLOCK):
            left = block
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
            yield


_WORK: Dict[str, Callable[[Dict[str, Any]], Iterator[None]]] = {"cpu": _cpu, "memory": _memory, "io": _io}
