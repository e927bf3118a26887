"""Elements of the page. Whatever comes from a run file is hostile text: it enters a page only by `escape`."""

from __future__ import annotations

import html
import re
import urllib.parse
from typing import Any, Iterable, Optional, Sequence, Tuple, Union

from bench.report import csv
from engines.text import plain

Cell = Union[str, Tuple[str, Optional[float]]]
"""What a cell shows; a number also in full, by which the column is sorted and which the CSV gets."""


def escape(value: Any) -> str:
    """Any value as text that is only text, between tags and within quoted attributes alike."""
    return html.escape(plain(str(value)))


def items(lines: Iterable[str]) -> str:
    """A list of sentences; nothing where there are none."""
    shown = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{shown}</ul>" if shown else ""


def table(caption: str, columns: Sequence[Tuple[str, bool]], rows: Sequence[Sequence[Cell]], text: str = "") -> str:
    """A table in a box of its own that scrolls, with a link that downloads it.

    Args:
        caption: What it shows; the file's name is made of it.
        columns: Heading, and whether it is of numbers (right-aligned).
        rows: A cell for each column.
        text: The CSV, where it is more than the table.
    """
    head = "".join(f'<th scope="col"{" class=n" * right}>{escape(name)}</th>' for name, right in columns)
    body = "".join("<tr>" + "".join(map(_cell, row, (right for _, right in columns))) + "</tr>" for row in rows)
    made = text or csv.table([name for name, _ in columns], [[_full(cell) for cell in row] for row in rows])
    file = re.sub(r"[^a-z0-9]+", "-", caption.lower())[:60].strip("-") or "table"
    link = "data:text/csv;charset=utf-8," + urllib.parse.quote(made, safe=",;:/()*!~", errors="replace")
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{escape(caption)}"><table><caption>{escape(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="csv"><a download="{file}.csv" href="{link}">Download as CSV<span class="unseen">: {escape(caption)}'
        "</span></a></p>"
    )


def _cell(cell: Cell, right: bool) -> str:
    shown, value = cell if isinstance(cell, tuple) else (cell, None)
    number = f' data-v="{value!r}"' if isinstance(value, (int, float)) else ""
    return f"<td{' class=n' * right}{number}>{escape(shown)}</td>"


def _full(cell: Cell) -> Any:
    return cell if isinstance(cell, str) else cell[0] if cell[1] is None else cell[1]


def figure(drawing: str, caption: str, data: str = "") -> str:
    """A drawing with its caption, and its data as a table that can be opened."""
    more = f"<details><summary>Data as a table</summary>{data}</details>" if data else ""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}{more}</figure>"
