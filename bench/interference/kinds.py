"""The kinds of background load, and how they are asked for: `cpu:50,memory:2,io`."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from engines.errors import UsageError

_EXAMPLE = "for example --interference cpu:50,memory:2,io"

_KINDS = {
    "cpu": (50, 100, "percent of the time of every core"),
    "memory": (1, 64, "workers that stream through the memory"),
    "io": (1, 64, "workers that write and sync a file"),
}
"""Default and largest number of each kind, and what it counts."""


class Kind(NamedTuple):
    """A kind of load and how much of it; see `_KINDS`."""

    name: str
    amount: int

    def __str__(self) -> str:
        return f"{self.name}:{self.amount}"


class Made(NamedTuple):
    """How a kind of load is made.

    Attributes:
        tool, version: What makes it: `stress-ng`, or `own`.
        commands: One for each process to start.
        env: Added to their environment.
        runs: Whether what these processes are to do is being done now.
        settings: For the run file.
        words: For people.
    """

    tool: str
    version: str
    commands: List[List[str]]
    env: Dict[str, str]
    runs: Callable[[Sequence[Any]], bool]
    settings: Dict[str, Any]
    words: str


def kinds(text: str) -> List[Kind]:
    """Read `cpu:50,memory:2,io`; a kind without a number has its default.

    Raises:
        UsageError: An unknown kind, one given twice, a number out of bounds, or nothing at all.
    """
    found: List[Kind] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, colon, number = word.partition(":")
        if name not in _KINDS:
            raise UsageError(f"--interference {word}: {', '.join(_KINDS)} are known", _EXAMPLE)
        default, most, what = _KINDS[name]
        if colon and not (number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= most):
            raise UsageError(f"--interference {word}: {name} takes 1 to {most} {what}", _EXAMPLE)
        if name in [kind.name for kind in found]:
            raise UsageError(f"--interference {text}: {name} is given twice", _EXAMPLE)
        found.append(Kind(name, int(number) if colon else default))
    if not found:
        raise UsageError("--interference needs a kind of load", _EXAMPLE)
    return found
