"""Tables that fit a terminal: names fold, numbers stay whole, and what has no room is left out by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

from engines.text import plain

if TYPE_CHECKING:
    from rich.console import Console

_BREAKS = re.compile(r"(?<=\w)-|[_/ ]|\.(?!\d)")
"""After which a name may go on in the next line; never within a number or a version."""

_LONGEST = 24
"""A part of a name that has no place to break is kept whole up to so many characters."""

_BETWEEN = 2
"""Blanks that part two columns."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Heading; it folds at blanks only.
        right: Aligned right, as numbers are.
        least: How narrow it may get where names fold; None where every cell stays whole.
    """

    name: str
    right: bool = False
    least: Optional[int] = None


def show(
    console: Console,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    leave_out: Sequence[str] = (),
) -> List[str]:
    """Print a table.

    Args:
        console: Where to.
        title: A line above it, if any.
        columns: Its columns.
        rows: A cell in words for each column.
        leave_out: Names of columns that a narrow terminal goes without, the first first. Before them go columns without
            a word in them.

    Returns:
        The names of the columns that were left out though something stood in them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[plain(cell) for cell in row] for row in rows]
    widths, left_out = _fitting(columns, cells, console.width, leave_out)
    # wider than the terminal where not even the last columns fit: it breaks the lines then, and no number is lost
    wide = _total(widths) if _total(widths) > console.width else None
    table = Table(
        header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, _BETWEEN - 1, 0, 0), width=wide
    )
    for index, width in widths.items():
        column = columns[index]
        table.add_column(column.name, justify="right" if column.right else "left", width=width, overflow="fold")
    for row in cells:
        table.add_row(*[Text(fold(row[index], width)) for index, width in widths.items()])
    if title:
        console.print(Text(plain(title), style="bold"))
    console.print(table, crop=False)
    return left_out


def left_out_line(names: Sequence[str], where: str) -> List[str]:
    """Says which columns were left out, in a line, and where they are found; nothing if there is none."""
    return [f"left out, the terminal is narrow: {', '.join(names)} ({where})"] if names else []


def fold(text: str, width: int) -> str:
    """Text in lines that are no wider, parted after `-`, `_`, `/`, a blank or a dot; a longer part stays whole."""
    from rich.cells import cell_len

    lines = [""]
    for part in _parts(text):
        if lines[-1] and cell_len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def _parts(text: str) -> List[str]:
    ends = [match.end() for match in _BREAKS.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)]) if start < end]


def _fitting(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, leave_out: Sequence[str]
) -> Tuple[Dict[int, int], List[str]]:
    """The width of each column that is shown, by its place, and the names of what is lost with the others.

    Rich's own fitting may take a column to nothing and does not keep to least widths.
    """
    from rich.cells import cell_len

    wanted = [max(map(cell_len, [column.name, *(row[i] for row in rows)])) for i, column in enumerate(columns)]
    widths = {i: _least(column, [row[i] for row in rows]) for i, column in enumerate(columns)}
    for i, _ in enumerate(columns):
        if _total(widths) > width and not any(row[i] for row in rows):
            widths.pop(i)
    left_out = []
    for name in leave_out:
        same = [i for i in widths if columns[i].name == name]
        if _total(widths) > width and same:
            left_out.append(name)
            for i in same:
                widths.pop(i)
    narrow = sorted(widths, key=lambda i: wanted[i] - widths[i])
    for place, i in enumerate(narrow):  # the room that is left, in equal shares
        share = (width - _total(widths)) // (len(narrow) - place)
        widths[i] += max(0, min(wanted[i] - widths[i], share))
    return widths, left_out


def _least(column: Column, cells: Sequence[str]) -> int:
    """How narrow a column may get: no word of its heading is broken, nor a part of a name or a number."""
    from rich.cells import cell_len

    heading = max(map(cell_len, column.name.split() or [""]))
    longest = max(map(cell_len, cells), default=0)
    if column.least is not None:
        part = max((cell_len(part.strip()) for cell in cells for part in _parts(cell)), default=0)
        longest = min(longest, max(column.least, min(part, _LONGEST)))
    return max(heading, longest)


def _total(widths: Dict[int, int]) -> int:
    """Width of the whole table: the last column has one blank behind it."""
    return sum(widths.values()) + _BETWEEN * len(widths) - 1
