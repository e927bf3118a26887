"""What happened on a node, one JSON line each, on the disk before the next thing happens.

Nothing is decided by a line's time: clocks jump. Lines are counted, and each says what was active when it was written,
so that a line that a crash has swallowed is noticed and made up for. The link `active` is the truth, not the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from engines import fields, jsonfile
from engines.errors import DamagedError
from optimize.pipeline.stages import now

NAME = "journal.jsonl"
EARLIER = "journal.1.jsonl"

_LARGEST = 1 << 20
"""Bytes after which a new file is begun; the one before it is kept."""

_REASON = 2000
"""Characters of a reason that are kept: a line stays far below `_TAIL`."""

_TAIL = 1 << 16

MOST = 1 << 53
"""Largest number of a line: a node that counts every microsecond comes there in 285 years. Beyond it is damage."""


def add(folder: Path, sequence: int, event: str, active: Optional[str], **about: Any) -> None:
    """Add a line, and see it on the disk; where that fails, nothing of it stays.

    Args:
        folder: Of the node.
        sequence: Number of the line, larger than all before it.
        event: pulled, activated, rolled-back, refused or removed.
        active: The variant that is active now; None where there is none.
        about: `name`, `tag`, `digest`, `variant`, `url`, `reason`: what is known.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    path = folder / NAME
    if "reason" in about:
        about["reason"] = str(about["reason"])[:_REASON]
    line = {"sequence": sequence, "time": now(), "event": event, "active": active, **about}
    rest = json.dumps(line, allow_nan=False).encode("ascii") + b"\n"
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LARGEST:
            os.replace(path, folder / EARLIER)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # a crash has cut the line before: it spoils no other
            rest = b"\n" + rest
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    jsonfile.fsync_folder(folder)


def last(folder: Path) -> Optional[Dict[str, Any]]:
    """The last whole line; None where there is none."""
    found, _ = lines(folder, 1)
    return found[-1] if found else None


def lines(folder: Path, count: int) -> Tuple[List[Dict[str, Any]], int]:
    """The last whole lines, oldest first, and how many of those looked at are damaged.

    Args:
        folder: Of the node.
        count: How many at most.
    """
    found: List[Dict[str, Any]] = []
    damaged = 0
    for name in (NAME, EARLIER):
        for text in reversed(_texts(folder / name, count)):
            value = _parsed(text)
            if value is None:
                damaged += 1
            else:
                found.append(value)
            if len(found) == count:
                return found[::-1], damaged
    return found[::-1], damaged


def _texts(path: Path, count: int) -> List[bytes]:
    try:
        with jsonfile.plain(path) as handle:
            size = handle.seek(0, os.SEEK_END)
            start = max(0, size - _TAIL * count)
            handle.seek(start)
            texts = handle.read().split(b"\n")
    except FileNotFoundError:
        return []
    except DamagedError:
        return [b"something else is in its place"]  # counts as one damaged line
    return [text for text in (texts[1:] if start else texts) if text]


def _parsed(text: bytes) -> Optional[Dict[str, Any]]:
    try:
        value: Dict[str, Any] = jsonfile.loads(text.decode("ascii"))
        _line("line", value)
    except (ValueError, DamagedError):
        return None
    return value


_line = fields.an_object(
    sequence=fields.whole(0, MOST), event=fields.word, active=fields.null_or(fields.word), time=fields.word
)
