"""Cells of a run under way, one JSON line each: what a run that is interrupted or killed keeps.

The process that measured a cell writes and syncs its line at once. A line that a crash cut short is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

SCHEMA = "optimize.cells/1"

UNWATCHED = "interrupted"
"""Flag of a cell whose process did not live to say what disturbed the machine meanwhile."""


def append(path: Union[str, Path], value: Dict[str, Any]) -> None:
    """Add a line, and see it on the disk."""
    line = (json.dumps(value, allow_nan=False) + "\n").encode("utf-8")
    handle = os.open(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        while line:
            line = line[os.write(handle, line) :]
        os.fsync(handle)
    finally:
        os.close(handle)


class Journal:
    """The cells of a run that were measured before, if it is the same run, and where new ones are added.

    Args:
        path: The file; None keeps nothing.
        about: What is measured and how, as JSON values: a file about anything else is started anew.

    Attributes:
        before: State of the machine when the run began; None where it begins now.
        achieved: Layers by precision, by target.
        kept: What `keep` added, by its name.
    """

    def __init__(self, path: Optional[Path], about: Any) -> None:
        self.path = path
        self._key = hashlib.sha256(json.dumps([SCHEMA, about], sort_keys=True).encode()).hexdigest()
        self.before: Optional[Dict[str, Any]] = None
        self.achieved: Dict[str, Dict[str, int]] = {}
        self.kept: Dict[str, Any] = {}
        self._cells: Dict[Tuple[str, int], Dict[int, Dict[str, Any]]] = {}
        if path is not None:
            self._read(path)

    def __len__(self) -> int:
        return sum(len(cells) for cells in self._cells.values())

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        lines, whole = _lines(content)
        head = lines[0] if lines else {}
        try:
            if head.get("schema") != SCHEMA or head.get("key") != self._key:
                raise ValueError("cells of another run")
            self._take(lines[1:])
        except (LookupError, TypeError, ValueError):  # or a file that something else has changed
            self._cells, self.achieved, self.kept = {}, {}, {}
            path.unlink()
            return
        self.before = head.get("before") or {}
        if whole < len(content):
            with open(path, "r+b") as handle:
                handle.truncate(whole)

    def _take(self, lines: List[Dict[str, Any]]) -> None:
        for line in lines:
            if "kept" in line:
                self.kept[str(line["kept"])] = line["value"]
                continue
            cells = self._cells.setdefault((str(line["target"]), int(line["round"])), {})
            if "cell" in line:
                cells[int(line["cell"]["batch"])] = {**line["cell"], "order": line["order"], "round": line["round"]}
                continue
            self.achieved[str(line["target"])] = dict(line["achieved"])
            for batch in line["batches"]:
                if batch in cells:
                    cells[batch]["watched"] = True
                    cells[batch]["flags"] = [*line["flags"], *cells[batch]["flags"]]

    def begin(self, before: Dict[str, Any]) -> Dict[str, Any]:
        """Start the file where there is none; the state of the machine when the run began."""
        if self.before is None:
            self.before = before
            if self.path is not None:
                append(self.path, {"schema": SCHEMA, "key": self._key, "before": before})
        return self.before

    def cells(self, target: str, turn: int) -> Dict[int, Dict[str, Any]]:
        """Entries of a row's `rounds` by batch, that were measured before."""
        found = {}
        for batch, cell in self._cells.get((target, turn), {}).items():
            entry = {key: value for key, value in cell.items() if key not in ("batch", "watched")}
            found[batch] = entry if cell.get("watched") else {**entry, "flags": [*entry["flags"], UNWATCHED]}
        return found

    def watched(self, target: str, turn: int, batches: List[int], flags: List[str], achieved: Dict[str, int]) -> None:
        """Add what disturbed the cells that a process has measured, and what it told of its layers."""
        if self.path is not None and batches:
            line = {"target": target, "round": turn, "batches": batches, "flags": flags, "achieved": achieved}
            append(self.path, line)

    def keep(self, name: str, value: Any) -> None:
        """Add what was measured of one thing, to go on after it."""
        self.kept[name] = value
        if self.path is not None:
            append(self.path, {"kept": name, "value": value})

    def remove(self) -> None:
        """Forget the cells: the run file has them."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _lines(content: bytes) -> Tuple[List[Dict[str, Any]], int]:
    """The whole lines, and where the last of them ends."""
    found: List[Dict[str, Any]] = []
    end = 0
    for line in content.splitlines(keepends=True):
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            break
        found.append(value)
        end += len(line)
    return found, end
