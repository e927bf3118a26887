"""A run as tables on a terminal, one for each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from bench import knee
from bench.report.cells import COLUMNS, PASSES, cells, failed, groups, notes, passes
from engines.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WRAPS = {"target": 22, "achieved": 14, "flags": 8}
"""Columns that may wrap, and how narrow they may get; numbers stay whole."""

_LEAVE_OUT = ("batch", "achieved", "size MB", "p99 ms", "flags", "images/s", "drop", "form", "precision", "top-1")
"""Columns that a narrow terminal goes without, in this order; the heading tells the batch."""


def render(run: Dict[str, Any], console: Console) -> None:
    """Print a run.

    Args:
        run: `optimize.run/1`.
        console: Where to; where it is narrow, columns are left out and named.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    left_out: List[str] = []
    for heading, rows in groups(run):
        shown = [[plain(cell) for cell in cells(row)] for row in rows]
        kept = _fitting(shown, console.width)
        table = Table(
            title=heading,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        for index, wide in kept.items():
            name, right, _ = COLUMNS[index]
            table.add_column(name, justify="right" if right else "left", width=wide, overflow="fold")
        for line in shown:
            table.add_row(*[Text(line[index]) for index in kept])
        console.print(table)
        for note in notes(rows):
            console.print(Text(plain(note)))
        left_out += [name for i, (name, _, _) in enumerate(COLUMNS) if i not in kept and name not in left_out]
    for note in knee.notes(run):
        console.print(Text(plain(f"knee batch of {note}")))
    heading, measured = passes(run)
    if measured:
        console.print(_passes(heading, measured))
    for note in failed(run):
        console.print(Text(plain(note)), style="red")
    if left_out:
        console.print(Text(f"left out, the terminal is narrow: {', '.join(left_out)} (optimize report has them)"))
    if not run["rows"]:
        console.print(Text("nothing was measured"))


def _passes(heading: str, rows: List[Dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for name, right, _ in PASSES:
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(plain(cell)) for cell in cells(row, PASSES)])
    return table


def _fitting(lines: List[List[str]], width: int) -> Dict[int, int]:
    """Columns that fit into a terminal, all or without some of `_LEAVE_OUT`, and the width of each.

    Rich's own fitting may take a column to nothing and does not keep to least widths.
    """
    wanted = {i: max(len(name), *(len(line[i]) for line in lines)) for i, (name, _, _) in enumerate(COLUMNS)}
    widths = {i: min(wanted[i], _WRAPS.get(COLUMNS[i][0], wanted[i])) for i in wanted}
    for name in _LEAVE_OUT:
        if _total(widths) <= width:
            break
        widths.pop(next(i for i, column in enumerate(COLUMNS) if column[0] == name))
    for i in sorted(widths, key=lambda i: wanted[i] - widths[i]):
        widths[i] += max(0, min(wanted[i] - widths[i], width - _total(widths)))
    return widths


def _total(widths: Dict[int, int]) -> int:
    """Width of the whole table: two blanks part the columns."""
    return sum(widths.values()) + 2 * len(widths)
