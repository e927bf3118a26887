"""Text that came from files or names, made safe to print."""

from __future__ import annotations


def plain(text: str) -> str:
    """Text in one line and without control characters, which would act on a terminal or break a table."""
    return "".join(c if c.isprintable() else " " for c in text)
