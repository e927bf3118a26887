"""What a power mode costs and buys: latency, throughput and energy over the modes of a board, from a run in each."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Sequence, Tuple

from bench.report.cells import groups, name, number
from bench.report.html.draw import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
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
from bench.report.html.lines import key, numbered

_LINES = 16
"""Targets of a chart; the table has all."""

Row = Dict[str, Any]

Lines = Dict[str, List[Tuple[str, Row]]]
"""By target: the power modes that it was measured in, each with its row."""


def _millijoules(row: Row) -> Any:
    joules: Any = (row.get("energy") or {}).get("joules_per_image")
    return 1e3 * joules if drawable(joules) else None


_QUANTITIES: Tuple[Tuple[str, str, Callable[[Row], Any]], ...] = (
    ("speed", "images/s", lambda row: row["images_per_s"]),
    ("p50", "p50, ms", lambda row: row["p50_ms"]),
    ("energy", "mJ an image", _millijoules),
)
"""Name, in words, and how a row tells it."""


def section(run: Dict[str, Any]) -> str:
    """A chart of each quantity at each batch, where one machine was measured in several power modes."""
    numbers = numbered(run)
    found: Dict[Tuple[Any, ...], Lines] = {}
    first: Dict[str, int] = {}
    for _, rows in groups(run):
        for row in rows:
            environment = _environment(run, row)
            mode = _mode(environment)
            if mode:
                machine = (str(environment.get("board") or ""), str(environment.get("cpu") or ""))
                group = (*machine, row["batch"], row.get("threads") or 0, row.get("streams") or 0)
                found.setdefault(group, {}).setdefault(name(row), []).append((mode, row))
                first.setdefault(name(row), numbers[key(row)])
    several = {group: lines for group, lines in sorted(found.items()) if len(_modes(lines)) > 1}
    machines = len({group[:2] for group in several})
    parts = []
    for place, (group, lines) in enumerate(several.items()):
        heading = _heading(group, machines > 1)
        shown = dict(list(lines.items())[:_LINES])
        parts.append(f"<h3>{heading[0].upper()}{heading[1:]}</h3>" if len(several) > 1 else "")
        parts.append(legend([(first[word], word) for word in shown]) + '<div class="pair">')
        for kind, words, value in _QUANTITIES:
            title = f"{words} over power modes, {heading}"
            drawing = _chart(f"modes-{place}-{kind}", title, words, value, shown, first)
            more = f" The first {_LINES} of {len(lines)} targets." if len(lines) > _LINES else ""
            parts.append(figure(drawing, f"{title}.{more}", _table(title, words, value, lines)) if drawing else "")
        parts.append("</div>")
    return "".join(parts)


def _environment(run: Dict[str, Any], row: Row) -> Dict[str, Any]:
    """Of the run, among those merged, that a row is from."""
    several: List[Dict[str, Any]] = run.get("environments") or [run["environment"]]
    return dict(enumerate(several)).get(row.get("run", 0), {})


def _mode(environment: Dict[str, Any]) -> str:
    """The power mode of a run; nothing where it is unknown, or was another one in the end."""
    told = {(environment.get(when) or {}).get("power_mode") for when in ("before", "after")} - {None, ""}
    return str(told.pop()) if len(told) == 1 else ""


def _modes(lines: Lines) -> List[str]:
    """The modes of some lines, by their watts, those that name none (MAXN) last."""

    def watts(mode: str) -> Tuple[float, str]:
        found = re.search(r"(\d+)\s*W", mode, re.IGNORECASE)
        return (float(found.group(1)) if found else float("inf")), mode

    return sorted({mode for points in lines.values() for mode, _ in points}, key=watts)


def _heading(group: Tuple[Any, ...], several: bool) -> str:
    board, cpu, batch, threads, streams = group
    words = [board or cpu] * several + [f"batch {batch}"]
    words += [f"{threads} CPU thread{'s' * (threads > 1)}"] * bool(threads)
    words += [f"{streams} queries at a time"] * (streams > 1)
    return ", ".join(filter(None, words))


def _chart(id_: str, title: str, words: str, value: Callable[[Row], Any], lines: Lines, numbers: Dict[str, int]) -> str:
    """A line of each target through its modes, which stand side by side; nothing where nothing is known."""
    modes = _modes(lines)
    curves: List[Tuple[int, List[Tuple[int, float]]]] = []
    for target, rows in lines.items():
        known = [(modes.index(mode), float(value(row))) for mode, row in rows if drawable(value(row))]
        if known:
            curves.append((numbers[target], sorted(known)))
    if not curves:
        return ""
    x = Scale(-0.3, len(modes) - 0.7, LEFT, WIDTH - RIGHT - 14)
    y = spread([high for _, points in curves for _, high in points], HEIGHT - BOTTOM, TOP + 8, zero=True)
    levels = 1 + (len(modes) > 3)  # names as long as 15W_6CORE have room beside each other only so
    parts = axes(x, y, "", words, [])
    parts += [
        label(x(at), y.start + 15 + 13 * (at % levels), mode.replace("MODE_", "")[:9], "middle")
        for at, mode in enumerate(modes)
    ]
    for line, points in curves:
        places = [(x(at), y(high)) for at, high in points]
        parts.append(path(places, line))
        parts += [marker(*spot, line, f"{modes[at]}: {number(high)}") for spot, (at, high) in zip(places, points)]
    heights = apart([y(points[-1][1]) + 4 for _, points in curves])
    ends: Sequence[Tuple[float, int, float]] = [(h, line, p[-1][0]) for h, (line, p) in zip(heights, curves)]
    parts += [label(x(at) + 7, height, line + 1, kind="number") for height, line, at in ends]
    told = [
        f"{line + 1}: " + ", ".join(f"{modes[at]} {number(high)}" for at, high in points) for line, points in curves
    ]
    return svg(id_, title, f"By number of the legend: {'; '.join(told)}", parts)


def _table(title: str, words: str, value: Callable[[Row], Any], lines: Lines) -> str:
    order = _modes(lines)
    columns = [("target", False), ("power mode", False), (words, True)]
    data: List[List[Cell]] = [
        [target, mode, (number(value(row)), value(row)) if drawable(value(row)) else "unknown"]
        for target, points in lines.items()
        for mode, row in sorted(points, key=lambda point: order.index(point[0]))
    ]
    return table(title, columns, data)
