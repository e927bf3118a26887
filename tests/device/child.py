"""Runs cases in a process of its own, which TensorRT may end at any time, and tells each as a line of JSON."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Sequence

LIMIT_S = 1200.0
"""Seconds for one case: the first builder of a Nano alone takes minutes."""

_TAIL = 8
"""Lines of what a process said before it died."""

_HERE = Path(__file__).resolve().parent

Tell = Callable[[Dict[str, Any]], None]


def serve(names: Sequence[str], with_tensorrt: bool) -> int:
    """Run cases and print `{"begin": name}` and `{"outcome": ...}` for each; what else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(line: Dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    from tests.device.contract import CASES
    from tests.device.world import run

    trt = None
    if with_tensorrt:
        from engines.tensorrt import compat

        trt = compat.tensorrt()
    for name in names:
        say({"begin": name})
        with tempfile.TemporaryDirectory() as folder:
            say({"outcome": run(CASES[name], trt, Path(folder))})
    return 0


def run_all(names: Sequence[str], with_tensorrt: bool, tell: Tell, limit_s: float = LIMIT_S) -> List[Dict[str, Any]]:
    """Outcomes of cases, in order: a case that ends its process, or never ends, is an outcome too.

    Args:
        names: Of the cases.
        with_tensorrt: Import it; otherwise the cases get None.
        tell: Given each outcome as it comes.
        limit_s: Seconds for one case.
    """
    outcomes: List[Dict[str, Any]] = []
    while len(outcomes) < len(names):
        found = _one_process(names[len(outcomes) :], with_tensorrt, limit_s, tell)
        outcomes += found
    return outcomes


def _one_process(names: Sequence[str], with_tensorrt: bool, limit_s: float, tell: Tell) -> List[Dict[str, Any]]:
    """Outcomes until the process ends; the last one may be of the case that ended it."""
    words = [sys.executable, str(_HERE), "--child", *(["--tensorrt"] if with_tensorrt else []), *names]
    found: List[Dict[str, Any]] = []
    begun = False
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            status, why = "crashed", ""
            for line in _lines(process, limit_s):
                if line is None:
                    status, why = "timeout", f"not done after {limit_s:.0f} s"
                    break
                begun = True
                if "outcome" in line:
                    found.append(line["outcome"])
                    tell(found[-1])
        finally:
            process.kill()
            process.wait()
        if len(found) == len(names):
            return found
        if status == "crashed":
            why = f"{_ended(process.returncode)}: {_tail(log)}"
    lost = names[len(found) : len(found) + 1] if begun else names  # it does not start: none of the others would
    for name in lost:
        found.append(_without(name, status, why))
        tell(found[-1])
    return found


def _without(name: str, status: str, why: str) -> Dict[str, Any]:
    about = {"name": name, "status": status, "why": why}
    return {**about, "told": {}, "checks": {}, "seen": {}, "log": [], "seconds": None}


def _lines(process: Any, limit_s: float) -> Iterator[Any]:
    """The lines that come, each parsed; None where none came in time."""
    waiting: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            waiting.put(line)
        waiting.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=limit_s)
        except queue.Empty:
            yield None
            return
        if not line.endswith(b"\n"):
            return
        yield json.loads(line)


def _ended(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with {code}"


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    rows = log.read().decode("utf-8", "replace").strip().splitlines()
    return " | ".join(row.strip() for row in rows[-_TAIL:]) or "it said nothing"
