"""A run as tables on a terminal, one for each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from bench import knee
from bench.report.cells import COLUMNS, PASSES, Columns, cells, failed, groups, notes, passes
from bench.report.flags import told
from engines.terminal import Column, left_out_line, show
from engines.text import plain

if TYPE_CHECKING:
    from rich.console import Console

_FOLDS = {"target": 16, "form": 8, "precision": 9, "achieved": 12, "flags": 8, "busy cores": 10}
"""Columns of words, and how narrow they may get."""

_LEAVE_OUT = ("batch", "achieved", "size MB", "p99 ms", "drop", "images/s", "precision", "top-1", "form", "flags")
"""Columns that a narrow terminal goes without, in this order: the heading tells the batch, the flags that a number is
not to be trusted."""

_LEAVE_OUT_OF_PASSES = ("batch", "interrupts/s", "busy cores", "precision", "images/s", "shortest s", "threads", "form")


def render(run: Dict[str, Any], console: Console) -> None:
    """Print a run.

    Args:
        run: `optimize.run/1`.
        console: Where to; where it is narrow, columns are left out and named.
    """
    from rich.text import Text

    left_out: List[str] = []
    for heading, rows in groups(run):
        left_out += _show(console, heading, COLUMNS, rows, _LEAVE_OUT)
        for note in notes(rows):
            console.print(Text(plain(note)))
    for note in knee.notes(run):
        console.print(Text(plain(f"knee batch of {note}")))
    heading, measured = passes(run)
    if measured:
        left_out += _show(console, heading, PASSES, measured, _LEAVE_OUT_OF_PASSES)
    for note in told(run["rows"]):
        console.print(Text(plain(note), style="yellow"))
    for note in failed(run):
        console.print(Text(plain(note)), style="red")
    for note in left_out_line(list(dict.fromkeys(left_out)), "optimize report has them"):
        console.print(Text(note))
    if not run["rows"]:
        console.print(Text("nothing was measured"))


def _show(
    console: Console, heading: str, columns: Columns, rows: List[Dict[str, Any]], leave_out: Sequence[str]
) -> List[str]:
    fitted = [Column(name, right, _FOLDS.get(name)) for name, right, _ in columns]
    return show(console, heading, fitted, [cells(row, columns) for row in rows], leave_out)
