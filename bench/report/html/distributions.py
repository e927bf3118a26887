"""How latencies are distributed, and how they went in the order of measurement."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np

from bench import stats
from bench.report.cells import groups, name, number
from bench.report.html import thin
from bench.report.html.draw import (
    ABSURD,
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    drawable,
    label,
    legend,
    path,
    spread,
    svg,
)
from bench.report.html.elements import Cell, figure, table
from bench.report.html.lines import Key, key, numbered, told

LINES = 8
"""Rows of a batch whose distribution is drawn: the fastest; more lines cannot be told apart."""

_POINTS, _ALL_POINTS = 400, 15_000
"""Points of a time series, and of all of the page, which stays small so."""

_QUANTILES = (1, 10, 25, 75, 90, 95, 99)
_FOOT, _WIDE = HEIGHT - BOTTOM, WIDTH - RIGHT


def section(run: Dict[str, Any]) -> str:
    """For each batch all distributions on one chart, then each row's histogram and time series."""
    numbers = numbered(run)
    found = [(heading, [row for row in rows if _drawable(row["samples_ms"])]) for heading, rows in groups(run)]
    drawn = sum(min(len(rows), LINES) for _, rows in found)
    points = max(min(_POINTS, _ALL_POINTS // max(drawn, 1)), 60)
    return "".join(_group(place, *one, numbers, points) for place, one in enumerate(found) if one[1])


def _drawable(samples: List[float]) -> bool:
    """Whether there are samples, and all of them are times that a chart has room for."""
    return bool(samples) and min(samples) >= 0 and max(samples) < ABSURD


def _group(place: int, heading: str, able: List[Dict[str, Any]], numbers: Dict[Key, int], points: int) -> str:
    rows = able[:LINES]
    some = f" Drawn are the {LINES} first rows of {len(able)} of the table." if len(able) > LINES else ""
    names = legend(told([key(row) for row in rows], numbers))
    ranks = [("target", False), ("samples", True), ("min", True), *((_quantile(p), True) for p in _QUANTILES)]
    ranks[5:5] = [("p50", True)]
    data = table(f"Quantiles in ms, {heading}", [*ranks, ("max", True)], [_ranks(row) for row in able])
    caption = f"Share of queries that took at most so long ({heading}).{some}"
    together = figure(_ecdf(f"ecdf-{place}", heading, rows, numbers), caption, data)
    parts = "".join(_row(f"{place}-{at}", heading, row, points) for at, row in enumerate(rows))
    return f'<h3>{heading[0].upper()}{heading[1:]}</h3>{names}{together}<div class="pair">{parts}</div>'


def _quantile(p: int) -> str:
    return f"p{p}"


def _ranks(row: Dict[str, Any]) -> List[Cell]:
    known = {"p50": row["p50_ms"], "p90": row["p90_ms"], "p95": row["p95_ms"], "p99": row["p99_ms"]}
    values = [known.get(_quantile(p), stats.percentile(row["samples_ms"], p)) for p in _QUANTILES]
    values[3:3] = [row["p50_ms"]]
    shown = [row["min_ms"], *values, row["max_ms"]]
    count = len(row["samples_ms"])
    return [name(row), (str(count), count), *((number(value), value) for value in shown)]


def _ecdf(id_: str, heading: str, rows: List[Dict[str, Any]], numbers: Dict[Key, int]) -> str:
    curves = [(numbers[key(row)], thin.distribution(row["samples_ms"], 200)) for row in rows]
    ends = [value for _, points in curves for value in (points[0][0], points[-1][0])]
    x = spread(ends, LEFT, _WIDE, log=min(ends) > 0)
    y = spread([0.0, 1.0], _FOOT, TOP + 8)._replace(low=0.0, high=1.0)
    parts = axes(x, y, "latency, ms" + " (logarithmic)" * x.log, "share of queries")
    for place, (line, points) in enumerate(curves):
        parts.append(path([(x(value), y(share)) for value, share in [(points[0][0], 0.0), *points]], line, steps=True))
        share = 0.5 if len(curves) == 1 else 0.25 + 0.5 * place / (len(curves) - 1)
        at = next(value for value, reached in points if reached >= share)
        parts.append(label(x(at) + 5, y(share) + 4, line + 1, kind="number"))
    desc = "; ".join(f"{name(row)}: median {number(row['p50_ms'])} ms, p99 {number(row['p99_ms'])} ms" for row in rows)
    return svg(id_, f"Distribution functions of latency, {heading}", desc, parts)


def _row(place: str, heading: str, row: Dict[str, Any], points: int) -> str:
    bins = [(_edge(low), _edge(high), count) for low, high, count in thin.histogram(row["samples_ms"])]
    columns = [("from ms", True), ("to ms", True), ("samples", True)]
    cells: List[List[Cell]] = [[(number(low), low), (number(high), high), (str(n), n)] for low, high, n in bins]
    title = f"{name(row)}, {heading}"
    histogram = figure(
        _histogram(f"histogram-{place}", title, row, bins),
        f"{title}: {len(row['samples_ms'])} samples. Line: p50; hatched: all beyond the 99th percentile.",
        table(f"Histogram, {title}", columns, cells),
    )
    rounds = [entry["samples_ms"] for entry in row["rounds"] if entry["samples_ms"]]
    kept = [(entry, entry["samples_ms"]) for entry in row["rounds"] if entry["samples_ms"]]
    if not kept:
        return histogram
    heads = ("round", "started", "samples", "median ms", "median of the first tenth", "min ms", "max ms")
    lines = [_round(at, entry, samples) for at, (entry, samples) in enumerate(kept)]
    drawing, drawn = _series(f"series-{place}", title, row, rounds, points)
    series = figure(
        drawing,
        f"{title}, in the order of measurement. Heavy lines: medians of rounds. {drawn}",
        table(f"Rounds, {title}", [(head, head != "started") for head in heads], lines),
    )
    return histogram + series


def _edge(value: float) -> float:
    """An edge of a bin with as many digits as samples have in a run file."""
    return float(f"{value:.6g}")


def _round(at: int, entry: Dict[str, Any], samples: List[float]) -> List[Cell]:
    first = samples[: max(len(samples) // 10, 1)]
    values = [float(np.median(samples)), float(np.median(first)), min(samples), max(samples)]
    count = len(samples)
    return [(str(at + 1), at + 1), entry["started"], (str(count), count), *((number(v), v) for v in values)]


def _histogram(id_: str, title: str, row: Dict[str, Any], bins: List[Tuple[float, float, int]]) -> str:
    tail = len(bins) > 1 and bins[-1][1] - bins[-1][0] > 1.5 * (bins[0][1] - bins[0][0])
    plain = bins[:-1] if tail else bins
    x = spread([plain[0][0], plain[-1][1]], LEFT, _WIDE - 34 * tail)
    y = spread([0.0, float(max(n for *_, n in bins))], _FOOT, TOP + 8, zero=True)
    parts = axes(x, y, "latency, ms", "samples")
    for low, high, count in plain:
        left, right = (x(low), x(high)) if high > low else (x(low) - 8, x(low) + 8)
        wide = max(right - left - 0.8, 0.8)
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{y(count):.1f}" width="{wide:.1f}" height="{_FOOT - y(count):.1f}"/>'
        )
    if tail:
        count, left = bins[-1][2], _WIDE - 26
        parts.append(
            f'<rect class="bar hatched" x="{left}" y="{y(count):.1f}" width="24" height="{_FOOT - y(count):.1f}"/>'
        )
        parts.append(label(left + 12, y(count) - 4, count, "middle", "value"))
        parts.append(label(_WIDE, _FOOT + 31, "beyond", "end"))
    median = row["p50_ms"]
    if drawable(median) and x.low <= median <= x.high:
        parts.append(f'<path class="median" d="M{x(median):.1f} {TOP + 8}V{_FOOT}"/>')
        parts.append(label(x(median) + 4, TOP + 18, f"p50 {number(median)}", kind="value"))
    words = ("p50", "p99", "min", "max")
    desc = ", ".join(f"{word} {number(row[word + '_ms'])} ms" for word in words)
    return svg(id_, f"Histogram of latency, {title}", desc, parts)


def _series(id_: str, title: str, row: Dict[str, Any], rounds: List[List[float]], points: int) -> Tuple[str, str]:
    values = [value for samples in rounds for value in samples]
    low, high, middle = min(values), max(values), float(np.median(values))
    x = spread([0.0, float(len(values))], LEFT, _WIDE)._replace(low=-0.5, high=len(values) - 0.5 or 0.5)
    y = spread([low, high], _FOOT, TOP + 8, log=low > 0 and high > 3 * middle)
    parts = axes(x, y, "number of the query", "latency, ms" + " (logarithmic)" * y.log)
    first, drawn, medians = 0, 0, []
    for at, samples in enumerate(rounds):
        kept = thin.series(samples, max(points // len(rounds), 4), first)
        drawn += len(kept)
        places = [(x(i), y(value)) for i, value in kept]
        line = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        parts.append(f'<path class="samples" d="{line if len(places) > 1 else line + "h.1"}"/>')
        level, last = y(float(np.median(samples))), first + len(samples) - 1
        medians.append(number(float(np.median(samples))))
        parts.append(f'<path class="median" d="M{x(first):.1f} {level:.1f}H{max(x(last), x(first) + 1):.1f}"/>')
        if at:
            parts.append(f'<path class="round" d="M{x(first - 0.5):.1f} {TOP + 8}V{_FOOT}"/>')
        if len(rounds) <= 12:
            parts.append(label(x((first + last) / 2), TOP + 18, at + 1, "middle", "round-number"))
        first = last + 1
    desc = f"{len(rounds)} rounds with medians of {', '.join(medians)} ms; all samples lie between {number(low)} and "
    some = "" if drawn == len(values) else f"{drawn} of {len(values)} samples, each stretch's extremes."
    return svg(id_, f"Latency over time, {title}", f"{desc}{number(high)} ms", parts), some
