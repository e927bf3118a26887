"""Where energy and time go: joules per image, and layers where rows tell them."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from bench.report.cells import groups, name, number
from bench.report.html.draw import drawable
from bench.report.html.elements import Cell, figure, table
from bench.report.html.results import bar_chart

_LAYERS = 20
"""Layers on a chart; the table has all."""

_ENERGY = (
    ("power W", "watts", 1.0),
    ("idle W", "idle_watts", 1.0),
    ("mJ an image", "joules_per_image", 1e3),
    ("mJ above idle", "joules_above_idle_per_image", 1e3),
    ("images/J", "images_per_joule", 1.0),
)
"""Heading, field of a row's `energy`, factor."""


def energy(run: Dict[str, Any]) -> str:
    """Energy of rows that have it, with the rail's name."""
    parts = []
    for place, (heading, rows) in enumerate(groups(run)):
        able = [row for row in rows if row.get("energy")]
        if not able:
            continue
        columns = [("target", False), ("rail", False), *((title, True) for title, _, _ in _ENERGY)]
        lines: List[List[Cell]] = [
            [name(row), row["energy"]["rail"], *(_cell(row["energy"].get(f), k) for _, f, k in _ENERGY)] for row in able
        ]
        data = table(f"Energy, {heading}", columns, lines)
        drawn = [row for row in able if drawable(row["energy"].get("joules_per_image"))]
        bars = [
            (name(row), 1e3 * row["energy"]["joules_per_image"], number(1e3 * row["energy"]["joules_per_image"], 3))
            for row in drawn
        ]
        title = f"Energy of an image in mJ, {heading}"
        parts.append(f"<h3>{heading[0].upper()}{heading[1:]}</h3>{data}")
        if bars:
            drawing = bar_chart(
                f"energy-{place}",
                title,
                "; ".join(f"{words} {text} mJ" for words, _, text in bars),
                [(*bar, row["role"] == "original") for bar, row in zip(bars, drawn)],
            )
            parts.append(figure(drawing, f"{title}: shorter is better; the idle machine's share is part of it."))
    return "".join(parts)


def _cell(value: Any, factor: float) -> Cell:
    known = drawable(value) or (isinstance(value, (int, float)) and -1e15 < value <= 0)
    full: Optional[float] = factor * value if known else None
    return (number(full, 3), full) if full is not None else "unknown"


def layers(run: Dict[str, Any]) -> str:
    """Layers of rows that tell them; the slowest on a chart."""
    parts = []
    for place, row in enumerate(row for _, rows in groups(run) for row in rows):
        told = row.get("layers")
        told = told if isinstance(told, list) else []
        found = [one for one in told if isinstance(one, dict) and drawable(one.get("ms"))]
        if not found:
            continue
        found.sort(key=lambda one: -float(one["ms"]))
        whole = sum(float(one["ms"]) for one in found)
        title = f"Layers of {name(row)}, batch {row['batch']}"
        columns = [("layer", False), ("type", False), ("precision", False), ("ms", True), ("share", True)]
        lines: List[List[Cell]] = [
            [
                *(str(one.get(field, "")) for field in ("name", "type", "precision")),
                (number(one["ms"]), one["ms"]),
                (f"{100 * one['ms'] / whole:.1f}%", one["ms"] / whole),
            ]
            for one in found
        ]
        slowest = found[:_LAYERS]
        bars = [(str(one.get("name", "")), float(one["ms"]), f"{number(one['ms'])} ms", False) for one in slowest]
        desc = "; ".join(f"{words} {text}" for words, _, text, _ in bars)
        caption = f"{title}: the {len(slowest)} slowest of {len(found)}."
        parts.append(figure(bar_chart(f"layers-{place}", title, desc, bars), caption, table(title, columns, lines)))
    return f'<div class="pair">{"".join(parts)}</div>' if parts else ""
