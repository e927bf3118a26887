"""A run as a picture for slides and papers, by matplotlib: medians, throughput and distributions of each batch."""

from __future__ import annotations

import io
from typing import Any, Dict, List

from bench.report.cells import groups, name, number
from bench.report.html import thin
from bench.report.html.draw import drawable
from engines.errors import IncompatibleError, UsageError
from engines.text import plain

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, Color Universal Design (2008)."""

_DASHES = ("-", "--", ":", "-.")
_GROUPS, _ROWS = 12, 24
"""Batches on the picture, and rows of each."""


def image(run: Dict[str, Any]) -> bytes:
    """Draw a run.

    Args:
        run: `optimize.run/1`.

    Returns:
        A PNG file.

    Raises:
        IncompatibleError: matplotlib is missing.
        UsageError: No row has a latency to draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise IncompatibleError(
            f"-f png needs matplotlib: {error}", "pip install 'optimize-trt[report]', or: -f html, which needs nothing"
        ) from None
    able = [(heading, [row for row in rows if drawable(row["p50_ms"])][:_ROWS]) for heading, rows in groups(run)]
    able = [one for one in able if one[1]][:_GROUPS]
    if not able:
        raise UsageError("-f png: no row of these runs has a latency to draw", "optimize bench TARGET... -o runs.json")
    heights = [0.9 + 0.32 * max(len(rows), 4) for _, rows in able]
    figure = Figure(figsize=(13, sum(heights)), dpi=120, layout="constrained")
    places = figure.subplots(len(able), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (heading, rows), (times, rates, shares) in zip(able, places):
        _bars(times, rows, "p50_ms", f"p50, ms, {heading}", named=True)
        _bars(rates, rows, "images_per_s", f"images/s, {heading}", named=False)
        _shares(shares, rows, heading)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _words(row: Dict[str, Any]) -> str:
    """A row's name, of which matplotlib reads nothing as mathematics."""
    return plain(name(row))[:60].replace("$", r"\$")


def _named(rows: List[Dict[str, Any]]) -> List[str]:
    return [f"{_words(row)}  {place + 1}" for place, row in enumerate(rows)]


def _bars(axes: Any, rows: List[Dict[str, Any]], field: str, title: str, named: bool) -> None:
    values = [float(row[field]) if drawable(row[field]) else 0.0 for row in rows]
    bars = axes.barh(range(len(rows)), values, color=_COLOURS[0])
    for bar, row, value in zip(bars, rows, values):
        if row["role"] == "original":
            bar.set(facecolor="white", edgecolor=_COLOURS[4], hatch="////")
        axes.annotate(
            number(row[field]), (value, bar.get_y() + 0.4), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(rows)), _named(rows) if named else [str(n + 1) for n in range(len(rows))], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)


def _shares(axes: Any, rows: List[Dict[str, Any]], heading: str) -> None:
    able = [(place, row) for place, row in enumerate(rows) if row["samples_ms"]]
    for place, row in able:
        points = thin.distribution(row["samples_ms"], 500)
        style = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _DASHES[place % len(_DASHES)]}
        axes.step([a for a, _ in points], [b for _, b in points], where="post", label=str(place + 1), **style)
    if axes.lines:
        axes.set_xscale("log" if all(min(row["samples_ms"]) > 0 for _, row in able) else "linear")
        axes.legend(fontsize=6)
    axes.set_title(f"distribution of latency, ms, {heading}", fontsize=9)
