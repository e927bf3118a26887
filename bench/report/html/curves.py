"""What a batch size, a number of threads or lost accuracy buys: curves over several of them, and the Pareto front."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from bench.report.cells import COLUMNS, groups, name, number
from bench.report.html.draw import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    apart,
    axes,
    drawable,
    label,
    legend,
    marker,
    path,
    spread,
    svg,
)
from bench.report.html.elements import Cell, figure, table
from bench.report.html.lines import Key, key, numbered, told

_TOP1 = next(cell for title, _, cell in COLUMNS if title == "top-1")
_LINES, _NUMBERED = 16, 24
"""Curves of a chart, and points that are named by a number on it."""

_QUANTITIES = (("images_per_s", "images/s", False), ("p50_ms", "p50, ms", True))
"""Field of a row, in words, whether its scale is logarithmic."""


def by_batch(run: Dict[str, Any]) -> str:
    """Throughput and latency over the batch size, where there are several."""
    return _curves(run, "batch", ("threads", "streams"), "batch (images in a query)")


def by_threads(run: Dict[str, Any]) -> str:
    """Throughput and latency over CPU threads, where several were given."""
    return _curves(run, "threads", ("batch", "streams"), "CPU threads")


def by_streams(run: Dict[str, Any]) -> str:
    """Throughput and latency over queries at a time, where several were given."""
    return _curves(run, "streams", ("batch", "threads"), "queries at a time")


def _curves(run: Dict[str, Any], over: str, apart: Tuple[str, ...], across: str) -> str:
    numbers = numbered(run)
    found: Dict[Tuple[int, ...], Dict[Key, List[Dict[str, Any]]]] = {}
    for _, rows in groups(run):
        for row in rows:
            own = {**row, "streams": row.get("streams") or 1}
            if own.get(over):
                found.setdefault(tuple(own.get(of) or 0 for of in apart), {}).setdefault(key(row), []).append(own)
    parts = []
    for place, (values, lines) in enumerate(sorted(found.items())):
        several = {k: rows for k, rows in lines.items() if len({row[over] for row in rows}) > 1}
        kept = dict(list(several.items())[:_LINES])
        if not kept:
            continue
        told_of = [f"{of} {value}" for of, value in zip(apart, values) if value > (of == "streams")]
        heading = ", ".join(told_of)
        parts.append(f"<h3>{heading[0].upper()}{heading[1:]}</h3>" if heading and len(found) > 1 else "")
        parts.append(legend(told(list(kept), numbers)) + '<div class="pair">')
        more = f" The first {_LINES} of {len(several)} targets." if len(several) > _LINES else ""
        for field, words, log in _QUANTITIES:
            drawing = _chart(f"{over}-{place}-{field.split('_')[0]}", over, field, across, words, log, kept, numbers)
            title = f"{words} by {over}" + f", {heading}" * bool(heading)
            caption = f"{title}{' (logarithmic)' * log}.{more}"
            columns = [("target", False), (over, True), (words, True)]
            data: List[List[Cell]] = [
                [name(row), (str(row[over]), row[over]), (number(row[field]), row[field])]
                for rows in several.values()
                for row in rows
            ]
            parts.append(figure(drawing, caption, table(title, columns, data)) if drawing else "")
        parts.append("</div>")
    return "".join(parts)


def _chart(
    id_: str,
    over: str,
    field: str,
    across: str,
    words: str,
    log: bool,
    lines: Dict[Key, List[Dict[str, Any]]],
    numbers: Dict[Key, int],
) -> str:
    curves = [
        (numbers[k], sorted((float(row[over]), float(row[field])) for row in rows if drawable(row[field])))
        for k, rows in lines.items()
    ]
    curves = [(line, points) for line, points in curves if points]
    if not curves:
        return ""
    at = sorted({a for _, points in curves for a, _ in points})
    x = spread(at, LEFT, WIDTH - RIGHT - 14, log=at[-1] / at[0] > 4)
    y = spread([b for _, points in curves for _, b in points], HEIGHT - BOTTOM, TOP + 8, log=log, zero=not log)
    parts = axes(x, y, across, words, at if len(at) <= 8 else None)
    for line, points in curves:
        places = [(x(a), y(b)) for a, b in points]
        parts.append(path(places, line))
        parts += [marker(a, b, line, f"{point[0]:g}: {number(point[1])}") for (a, b), point in zip(places, points)]
    heights = apart([y(points[-1][1]) + 4 for _, points in curves])
    parts += [
        label(x(points[-1][0]) + 7, at_y, line + 1, kind="number") for at_y, (line, points) in zip(heights, curves)
    ]
    ends = [f"{line + 1}: {number(points[0][1])} to {number(points[-1][1])}" for line, points in curves]
    desc = f"From {at[0]:g} to {at[-1]:g}, by number of the legend: {'; '.join(ends)}"
    return svg(id_, f"{words} by {over}", desc, parts)


def front(points: Sequence[Tuple[float, float]]) -> List[int]:
    """Places of the points (latency, accuracy) that no other beats in one and equals in the other, fastest first."""
    best, found = float("-inf"), []
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[place][1] > best:
            best = points[place][1]
            found.append(place)
    return found


def accuracy(run: Dict[str, Any]) -> str:
    """Accuracy against latency at each batch, with the Pareto front; nothing where accuracy is unmeasured."""
    numbers = numbered(run)
    parts = []
    for place, (heading, rows) in enumerate(groups(run)):
        able = [row for row in rows if row["top1"] is not None and drawable(row["p50_ms"])]
        if able:
            parts.append(_against(f"accuracy-{place}", heading, able, numbers))
    return f'<div class="pair">{"".join(parts)}</div>' if parts else ""


def _against(id_: str, heading: str, rows: List[Dict[str, Any]], numbers: Dict[Key, int]) -> str:
    points = [(float(row["p50_ms"]), 100 * float(row["top1"])) for row in rows]
    best = front(points)
    x = spread([a for a, _ in points], LEFT, WIDTH - RIGHT - 14, log=True)
    y = spread([b for _, b in points], HEIGHT - BOTTOM, TOP + 8)
    parts = axes(x, y, "p50, ms (logarithmic): left is faster", "top-1, %: up is better")
    at = [(x(a), y(b)) for a, b in points]
    steps = "".join(f"H{at[i][0]:.1f}V{at[i][1]:.1f}" for i in best[1:])
    parts.append(f'<path class="front" d="M{at[best[0]][0]:.1f} {at[best[0]][1]:.1f}{steps}H{x.end:.1f}"/>')
    for i, row in enumerate(rows):
        line = numbers[key(row)]
        parts.append(marker(*at[i], line, f"{name(row)}: {number(row['p50_ms'])} ms, {_TOP1(row)}"))
        if i in best or i < _NUMBERED:
            parts.append(label(at[i][0] + 7, at[i][1] - 5, line + 1, kind="number"))
    columns = [("target", False), ("p50 ms", True), ("top-1", True), ("on the front", False)]
    data: List[List[Cell]] = [
        [name(row), (number(row["p50_ms"]), row["p50_ms"]), (_TOP1(row), row["top1"]), "yes" if i in best else "no"]
        for i, row in enumerate(rows)
    ]
    named = "; ".join(name(rows[i]) for i in best)
    title = f"Accuracy against latency, {heading}"
    drawing = svg(id_, title, f"On the Pareto front, the fastest first: {named}", parts)
    caption = f"{title}. The dashed line is the Pareto front: no other target is both faster and as accurate."
    names = legend(told(list(dict.fromkeys(key(row) for row in rows[:_NUMBERED])), numbers))
    return figure(drawing + names, caption, table(title, columns, data))
