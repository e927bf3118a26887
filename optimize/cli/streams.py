"""stdin, stdout and stderr, made so that no terminal, pipe or locale ends a command half-way."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO, cast


def prepare() -> None:
    """Open what was closed, and replace what the encoding lacks. A reader that has left no longer matters.

    A command goes on when nobody reads what it says: its work, and its exit code, are the same.
    """
    for number in range(3):
        _filled(number)
    sys.stdout = _safe(sys.stdout, 1)
    sys.stderr = _safe(sys.stderr, 2)


def flush() -> None:
    """Bring out what is still kept, while an error can still be told.

    Raises:
        OSError: The disk that stdout goes to is full.
    """
    sys.stdout.flush()


def discard() -> None:
    """Give up stdout: what could not be written would be tried again, and told, at the end of the process."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _filled(number: int) -> None:
    """Put something under a closed descriptor, before a file of ours gets its number and what C libraries print."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _safe(stream: Any, number: int) -> TextIO:
    if stream is None:  # Python found the descriptor closed
        return open(os.devnull, "w", encoding="utf-8", errors="replace")
    try:
        ours = os.name == "posix" and stream.fileno() == number
    except (AttributeError, OSError, ValueError):
        ours = False
    if ours:
        return io.TextIOWrapper(
            io.BufferedWriter(cast(io.RawIOBase, _Pipe(number, "w", closefd=False))),
            encoding=stream.encoding,
            errors="replace",
            line_buffering=stream.line_buffering,
            write_through=getattr(stream, "write_through", False),
        )
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return cast(TextIO, stream)


class _Pipe(io.FileIO):
    """A file that forgets what nobody reads."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)
