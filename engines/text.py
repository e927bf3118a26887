"""Text that came from files or names, made safe to print, and numbers of things."""

from __future__ import annotations


def plain(text: str) -> str:
    """Text in one line and without control characters, which would act on a terminal or break a table."""
    return "".join(c if c.isprintable() else " " for c in text)


def counted(number: int, thing: str) -> str:
    """A number of things: `1 key`, `2 keys`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
