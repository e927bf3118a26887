"""The tail of latencies: how seldom each is exceeded, as far as it was seen and beyond, and what that rests on."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from bench.report.cells import groups, name, number
from bench.report.html.draw import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    axes,
    drawable,
    label,
    legend,
    marker,
    path,
    spread,
    svg,
)
from bench.report.html.elements import Cell, escape, figure, items, table
from bench.tail import words

_SEEN, _FITTED, _BAND = 0, 1, 2
"""Numbers of the legend."""

_POINTS = 150
_FOOT, _WIDE = HEIGHT - BOTTOM, WIDTH - RIGHT

_LEGEND = ((_SEEN, "samples that were slower"), (_FITTED, "fitted tail"), (_BAND, "its interval"))


def section(run: Dict[str, Any]) -> str:
    """For each row whose tail was looked at: words, tests, estimates, the exceedance curve and the thresholds."""
    parts: List[str] = []
    for heading, rows in groups(run):
        for row in rows:
            if row.get("tail"):
                parts.append(_row(f"tail-{len(parts)}", f"{name(row)}, {heading}", row))
    return "".join(parts)


def _row(id_: str, title: str, row: Dict[str, Any]) -> str:
    tail = row["tail"]
    made = [f"<h3>{escape(title)}</h3>", items(words.seen(tail) + words.tested(tail))]
    if tail["estimates"]:
        columns = [("one inference in", True), ("ms", True), ("low", True), ("high", True)]
        columns += [("by block maxima", True), ("beyond the samples", False)]
        data: List[List[Cell]] = [
            [
                (f"{1 / one['p']:,.0f}", 1 / one["p"]),
                *((number(one[key]), one[key]) for key in ("ms", "low_ms", "high_ms")),
                words.by_blocks(tail, one["p"]) or "-",
                words.beyond(one) or "no",
            ]
            for one in tail["estimates"]
        ]
        made.append(table(f"Tail estimates, {title}", columns, data) + f"<p>{escape(words.NOT_SURE)}.</p>")
    drawings = _exceedance(id_, title, row) + _thresholds(id_, title, tail)
    made.append(f'{legend(_LEGEND)}<div class="pair">{drawings}</div>' if drawings else "")
    tests = [("samples", one) for one in tail["tests"]] + [("declustered peaks", one) for one in tail["peak_tests"]]
    if tests:
        columns = [("of", False), ("test", False), ("asks whether they are", False), ("p", True), ("failed", False)]
        lines: List[List[Cell]] = [
            [of, one["name"], one["asks"], (f"{one['p']:.3g}", one["p"]), "yes" if one["failed"] else "no"]
            for of, one in tests
        ]
        made.append(table(f"Tests of the tail's assumptions, {title}", columns, lines))
    if tail["layers"]:
        made.append(_layers(title, tail["layers"]))
    return "".join(made)


def _layers(title: str, found: Dict[str, Any]) -> str:
    columns = [("layer", False), ("median ms", True), ("slowest ms", True), ("share of what they take more %", True)]
    rows: List[List[Cell]] = [
        [
            one["name"],
            *((number(one[key]), one[key]) for key in ("median_ms", "max_ms")),
            "-" if one["share"] is None else (f"{100 * one['share']:.1f}", 100 * one["share"]),
        ]
        for one in words.slow_layers(found)
    ]
    return table(f"Layers of the {found['slow']} slowest of {found['queries']} queries, {title}", columns, rows)


def _exceedance(id_: str, title: str, row: Dict[str, Any]) -> str:
    """The share of queries that take longer, both axes logarithmic."""
    samples = np.sort(np.asarray([value for value in row["samples_ms"] if drawable(value)], np.float64))
    if len(samples) < 2:
        return ""
    seen = _slower(samples)
    curve = [one for one in row["tail"]["curve"] if all(drawable(one[key]) for key in ("p", "ms", "low_ms", "high_ms"))]
    furthest = min((one["p"] for one in curve), default=seen[-1][1])
    ends = [seen[0][0], seen[-1][0], *(one[key] for one in curve for key in ("low_ms", "high_ms"))]
    x = spread(ends, LEFT, _WIDE - 14, log=True)
    y = Scale(min(furthest, seen[-1][1]) / 2, 1.0, _FOOT, TOP + 8, True)
    parts = axes(x, y, "latency, ms (logarithmic)", "share of queries that take longer (logarithmic)")
    parts.append(path([(x(a), y(b)) for a, b in seen], _SEEN))
    if curve:
        parts.append(path([(x(one["ms"]), y(one["p"])) for one in curve], _FITTED))
        for key in ("low_ms", "high_ms"):
            parts.append(path([(x(one[key]), y(one["p"])) for one in curve], _BAND))
    missed = row["tail"].get("deadline")
    if missed and x.low < missed["deadline"] < x.high:
        at = x(missed["deadline"])
        parts.append(f'<path class="round" d="M{at:.1f} {TOP + 8}V{_FOOT}"/>')
        parts.append(label(at + 3, TOP + 18, "deadline"))
    desc = f"Slowest of {len(samples)} queries {number(float(samples[-1]))} ms"
    if curve:
        last = curve[-1]
        desc += f"; at {last['p']:g} the fitted tail is at {number(last['ms'])} ms"
    columns = [("latency ms", True), ("share that takes longer", True)]
    data: List[List[Cell]] = [[(number(a), a), (f"{b:.3g}", b)] for a, b in seen]
    drawing = svg(f"{id_}-e", f"Exceedance, {title}", desc, parts)
    return figure(drawing, f"How seldom a latency is exceeded, {title}.", table(f"Exceedance, {title}", columns, data))


def _slower(samples: Any) -> List[Tuple[float, float]]:
    """Sorted samples and the share of samples as slow or slower, at ranks that are even on a logarithmic scale."""
    count = len(samples)
    ranks = np.unique(np.geomspace(1, count, min(count, _POINTS)).round().astype(int))[::-1]
    return [(float(samples[count - rank]), float(rank / count)) for rank in ranks]


def _thresholds(id_: str, title: str, tail: Dict[str, Any]) -> str:
    """The shape that each threshold gives: stable from the chosen one on, where the theory holds."""
    found = [one for one in tail["candidates"] if drawable(one["ms"]) and abs(one["shape"]) < 5]
    if len(found) < 2:
        return ""
    low, high = ([one["shape"] + sign * 1.96 * one["shape_error"] for one in found] for sign in (-1, 1))
    x = spread([one["peaks"] for one in found], LEFT, _WIDE - 14, log=True)
    y = spread([*low, *high], _FOOT, TOP + 8)
    parts = axes(x, y, "peaks above the threshold (logarithmic)", "shape of the fitted tail")
    for one, below, above in zip(found, low, high):
        at = x(one["peaks"])
        chosen = tail["threshold"] and one["ms"] == tail["threshold"]["ms"]
        parts.append(f'<path class="axis" d="M{at:.1f} {y(below):.1f}V{y(above):.1f}"/>')
        tip = f"{one['peaks']} peaks above {number(one['ms'])} ms: shape {one['shape']:.3f}, fit p {one['p']:.2g}"
        parts.append(marker(at, y(one["shape"]), _FITTED if chosen else _SEEN, tip))
    columns = [
        ("threshold ms", True),
        ("peaks", True),
        ("shape", True),
        ("error", True),
        ("fit p", True),
        ("chosen", False),
    ]
    data: List[List[Cell]] = [
        [
            (number(one["ms"]), one["ms"]),
            (str(one["peaks"]), one["peaks"]),
            *((f"{one[key]:.3f}", one[key]) for key in ("shape", "shape_error")),
            (f"{one['p']:.3g}", one["p"]),
            "yes" if tail["threshold"] and one["ms"] == tail["threshold"]["ms"] else "no",
        ]
        for one in found
    ]
    desc = _range([one["shape"] for one in found])
    caption = (
        f"Threshold stability, {title}: bars are 1.96 standard errors; the square is the threshold that was taken."
    )
    return figure(
        svg(f"{id_}-s", f"Threshold stability, {title}", desc, parts),
        caption,
        table(f"Thresholds, {title}", columns, data),
    )


def _range(shapes: Sequence[float]) -> str:
    return f"Shapes between {min(shapes):.2f} and {max(shapes):.2f} over {len(shapes)} thresholds"
