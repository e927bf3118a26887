"""The tables of every report, and bars that compare what stands in them."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from bench.report import csv
from bench.report.cells import COLUMNS, PASSES, cells, groups, name, notes, number, passes
from bench.report.html.draw import WIDTH, drawable, label, svg
from bench.report.html.elements import Cell, figure, items, table

_FULL = {
    "batch": "batch",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "images/s": "images_per_s",
    "speed-up": "speedup",
    "top-1": "top1",
    "drop": "top1_drop",
    "size MB": "size_bytes",
}
"""Columns of the tables, and the field of a row that they are sorted by."""

_MOST = 40
"""Bars of a chart."""

_BAR, _LEFT, _ROOM = 36, 6, 90
"""Height of a bar with its label, margin, and room for the value behind the longest bar."""


def section(run: Dict[str, Any]) -> str:
    """A table and two charts for each batch."""
    return "".join(_group(place, heading, rows) for place, (heading, rows) in enumerate(groups(run))) or (
        "<p>Nothing was measured.</p>"
    )


def _group(place: int, heading: str, rows: List[Dict[str, Any]]) -> str:
    columns = [(title, right) for title, right, _ in COLUMNS]
    shown = [[_cell(title, text, row) for (title, _), text in zip(columns, cells(row))] for row in rows]
    times = _bars(f"p50-{place}", "p50_ms", "Median latency (p50), ms; shorter is better", heading, rows)
    rates = _bars(f"rate-{place}", "images_per_s", "Images per second; longer is better", heading, rows)
    return (
        f"<h3>{heading[0].upper()}{heading[1:]}</h3>"
        + table(f"Results, {heading}", columns, shown, csv.text({"rows": rows}))
        + items(notes(rows))
        + (f'<p class="hint">Originals (*) are hatched.</p><div class="pair">{times}{rates}</div>' if times else "")
    )


def passed(run: Dict[str, Any]) -> str:
    """The rows whose whole passes were timed; nothing where none was."""
    heading, rows = passes(run)
    if not rows:
        return ""
    columns = [(title, right) for title, right, _ in PASSES]
    return table(
        heading[0].upper() + heading[1:], columns, [cells(row, PASSES) for row in rows], csv.text({"rows": rows})
    )


def _cell(title: str, text: str, row: Dict[str, Any]) -> Cell:
    return (text, row[_FULL[title]]) if title in _FULL else text


def _bars(id_: str, field: str, title: str, heading: str, rows: List[Dict[str, Any]]) -> str:
    able = [row for row in rows if drawable(row[field])]
    drawn = able[:_MOST]
    if not drawn:
        return ""
    bars = [(name(row), float(row[field]), number(row[field]), row["role"] == "original") for row in drawn]
    left_out = f" The first {_MOST} of {len(able)}." if len(able) > _MOST else ""
    caption = f"{title} ({heading}).{left_out}"
    desc = "; ".join(f"{words} {text}" for words, _, text, _ in bars)
    data = table(f"{title}, {heading}", [("target", False), (field, True)], [[n, (t, v)] for n, v, t, _ in bars])
    return figure(bar_chart(id_, f"{title}, {heading}", desc, bars), caption, data)


def bar_chart(id_: str, title: str, desc: str, bars: List[Tuple[str, float, str, bool]]) -> str:
    """Bars from zero, each under its name and with its value behind it.

    Args:
        bars: Name, length, the value in words, whether it is hatched.
    """
    longest = max(length for _, length, _, _ in bars)
    parts = []
    for place, (words, length, text, hatched) in enumerate(bars):
        top, long = place * _BAR + 4, max(length / longest * (WIDTH - _LEFT - _ROOM), 1.0)
        shown = words if len(words) <= 58 else words[:57] + "…"
        parts.append(label(_LEFT, top + 11, shown))
        kind = "bar hatched" if hatched else "bar"
        parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{top + 16}" width="{long:.1f}" height="13"/>')
        parts.append(label(_LEFT + long + 5, top + 27, text, kind="value"))
    return svg(id_, title, desc, parts, len(bars) * _BAR + 6)
