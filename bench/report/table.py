"""A run as tables on a terminal, one for each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict

from bench.report.cells import COLUMNS, cells, failed, groups, notes, plain

if TYPE_CHECKING:
    from rich.console import Console

_WORDY = ("target", "achieved", "flags")
"""Columns that may wrap; numbers stay whole."""


def render(run: Dict[str, Any], console: Console) -> None:
    """Print a run.

    Args:
        run: `optimize.run/1`.
        console: Where to.
    """
    from rich.table import Table
    from rich.text import Text

    for heading, rows in groups(run):
        table = Table(title=heading, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
        for name, right, _ in COLUMNS:
            table.add_column(name, justify="right" if right else "left", no_wrap=name not in _WORDY, overflow="fold")
        for row in rows:
            table.add_row(*[Text(plain(cell)) for cell in cells(row)])
        console.print(table)
        for line in notes(rows):
            console.print(Text(plain(line)))
    for line in failed(run):
        console.print(Text(plain(line)), style="red")
    if not run["rows"]:
        console.print(Text("nothing was measured"))
