"""What a fleet has done, one JSON line each: a run that is interrupted, or lost boards, goes on after it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from bench import journal
from engines import jsonfile
from engines.errors import IncompatibleError

SCHEMA = "optimize.fleet/1"

BEGUN, DONE, FAILED, LOST = "begun", "done", "failed", "lost"


class Journal:
    """Steps by the board, or the class of boards, that they were done for.

    A line that a crash cut short is dropped. The last line of a step counts.

    Args:
        path: The file; it is made when something is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._steps: Dict[Tuple[str, str], Dict[str, Any]] = {}
        for line in _lines(path):
            if isinstance(line.get("subject"), str) and isinstance(line.get("step"), str):
                self._steps[line["subject"], line["step"]] = line

    def done(self, subject: str, step: str, key: str) -> Optional[Any]:
        """What a step gave, if it was done with the same inputs."""
        line = self._steps.get((subject, step))
        return line.get("value") if line and line.get("state") == DONE and line.get("key") == key else None

    def unfinished(self, subject: str, step: str) -> str:
        """Key of a step that was begun, and that nothing is known to have come of; empty where there is none."""
        line = self._steps.get((subject, step)) or {}
        return str(line.get("key")) if line.get("state") in (BEGUN, LOST) else ""

    def last(self, subject: str) -> List[Dict[str, Any]]:
        """Every step of a board or class, as it ended: `step`, `state`, `at`, `why`."""
        found = [line for (name, _), line in self._steps.items() if name == subject]
        return [{name: line.get(name) for name in ("step", "state", "at", "why")} for line in found]

    def add(self, subject: str, step: str, key: str, state: str = DONE, value: Any = None, why: str = "") -> None:
        """Add how a step ended, and see it on the disk."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        line = {"subject": subject, "step": step, "key": key, "state": state, "at": now, "why": why, "value": value}
        if not self.path.exists() or not self.path.stat().st_size:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            journal.append(self.path, {"schema": SCHEMA})
        journal.append(self.path, line)
        self._steps[subject, step] = line


def _lines(path: Path) -> List[Dict[str, Any]]:
    """The whole lines of a journal of this schema; what stands behind them is cut off, or the next line would be lost
    behind it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    found: List[Dict[str, Any]] = []
    end = 0
    for line in content.splitlines(keepends=True):
        try:
            value = jsonfile.loads(line.decode("utf-8")) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if not isinstance(value, dict) or (not found and value.get("schema") != SCHEMA):
            break
        found.append(value)
        end += len(line)
    if end < len(content):
        with open(path, "r+b") as file:
            file.truncate(end)
    return found


def key(*about: Any) -> str:
    """What a step depends on, as a SHA-256 in hex."""
    return hashlib.sha256(jsonfile.dumps(list(about)).encode()).hexdigest()


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the work folder: two runs in it would spoil each other's journal.

    Raises:
        IncompatibleError: Another run holds it.
    """
    import filelock

    work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(str(work / "lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise IncompatibleError(f"{work}: another optimize fleet works there", "wait for it, or give -o DIR") from None
    try:
        yield
    finally:
        lock.release()
