"""The page of a choice (`optimize.choice/1`): the verdict, what was chosen from, and what would change the choice."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from bench.report.cells import number
from bench.report.html.curves import front
from bench.report.html.draw import (
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
    marker,
    path,
    spread,
    svg,
)
from bench.report.html.elements import Cell, escape, figure, items, table
from bench.report.html.page import document

TERMS = (("transfer_s", "transfer"), ("load_s", "load"), ("first_s", "first inference"), ("inference_s", "inference"))
"""Fields of a candidate's times, in the order in which they are paid, and in words."""

_BAR, _ROOM = 40, 80
_LINES = 12
_FOOT, _WIDE = HEIGHT - BOTTOM, WIDTH - RIGHT


def text(choice: Dict[str, Any]) -> str:
    """The HTML file of a choice that has been checked."""
    made = [
        ("verdict", "Verdict", _verdict(choice)),
        ("candidates", "Candidates", _candidates(choice)),
        ("accuracy", "Accuracy against time", _accuracy(choice)),
        ("time", "Where the time goes", _stack(choice)),
        ("bandwidth", "What the bandwidth changes", _sensitivity(choice)),
        ("rejected", "Why the others were not chosen", _rejected(choice)),
        ("unknown", "Unknown", items(choice["unknown"])),
    ]
    return document(f"Choice: {choice['verdict']}", "Choice of a model", choice["scope"], made)


def _percent(value: Any) -> str:
    return "unknown" if value is None else f"{100 * value:.1f}%"


def _points(value: Any) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _verdict(choice: Dict[str, Any]) -> str:
    asked, ends = choice["asked"], choice["interval"]
    limit = asked["max_drop"]
    unit = "points" if limit["unit"] == "points" else "of the baseline's accuracy, relative"
    value = f"{limit['value']:g}" if limit["unit"] == "points" else _percent(limit["value"])
    interval = "none: no replicates" if ends is None else f"{_percent(ends[0])} to {_percent(ends[1])}"
    rows: List[List[Cell]] = [
        ["baseline, the most accurate", str(choice["baseline"])],
        [f"chosen by the policy {asked['policy']}", str(choice["chosen"])],
        ["time saved, mean of ratios", _percent(choice["saving"])],
        [f"its {100 * choice['level']:g}% interval over {choice['rounds']} rounds", interval],
        ["time saved, ratio of means", _percent(choice["saving_of_means"])],
        ["least that must be saved", _percent(asked["min_saving"])],
        ["accuracy lost, points", _points(choice["drop_points"])],
        ["that may be lost", f"{value} {unit}"],
        ["scope", choice["scope"]],
    ]
    head = f'<p class="lead"><strong>{escape(choice["verdict"])}</strong>: {escape(choice["why"])}</p>'
    return head + table("Verdict", [("what", False), ("value", False)], rows)


def _candidates(choice: Dict[str, Any]) -> str:
    columns = [("target", False), ("precision", False), ("top-1 %", True), ("drop points", True)]
    columns += [("ms an image", True), ("size MB", True), ("mJ an image", True), ("total s", True), ("front", False)]
    rows: List[List[Cell]] = [
        [
            one["target"],
            one["precision"] or "-",
            _scaled(one["top1"], 100),
            _scaled(one["drop_points"], 1),
            _scaled(one["ms_per_image"], 1),
            _scaled(one["size_bytes"], 1e-6),
            _scaled(one["joules_per_image"], 1e3),
            _scaled(one["times"]["total_s"], 1),
            "yes" if one["front"] else "no",
        ]
        for one in choice["candidates"]
    ]
    return table("Candidates", columns, rows)


def _scaled(value: Any, factor: float) -> Cell:
    return "unknown" if value is None else (number(factor * value), factor * value)


def _accuracy(choice: Dict[str, Any]) -> str:
    """Accuracy against the time of an image, with the front of these two."""
    able = [one for one in choice["candidates"] if one["top1"] is not None and drawable(one["ms_per_image"])]
    if len(able) < 2:
        return ""
    points = [(float(one["ms_per_image"]), 100 * float(one["top1"])) for one in able]
    best = front(points)
    x = spread([a for a, _ in points], LEFT, _WIDE - 14, log=True)
    y = spread([b for _, b in points], _FOOT, TOP + 8)
    parts = axes(x, y, "ms an image (logarithmic): left is faster", "top-1, %: up is better")
    at = [(x(a), y(b)) for a, b in points]
    steps = "".join(f"H{at[i][0]:.1f}V{at[i][1]:.1f}" for i in best[1:])
    parts.append(f'<path class="front" d="M{at[best[0]][0]:.1f} {at[best[0]][1]:.1f}{steps}H{x.end:.1f}"/>')
    for place, one in enumerate(able):
        words = {choice["chosen"]: "chosen", choice["baseline"]: "baseline"}.get(one["target"], "")
        parts.append(
            marker(*at[place], place, f"{one['target']}: {number(points[place][0])} ms, {points[place][1]:.2f}%")
        )
        right = at[place][0] > 0.7 * WIDTH  # words would be cut off there
        aside = (at[place][0] - 7, "end") if right else (at[place][0] + 7, "start")
        parts.append(label(aside[0], at[place][1] - 5, f"{place + 1} {words}".strip(), aside[1], "number"))
    desc = f"On the front, the fastest first: {'; '.join(able[i]['target'] for i in best)}"
    names = legend([(place, one["target"]) for place, one in enumerate(able)])
    caption = "Accuracy against the time of an image. The dashed line is the Pareto front of these two."
    return figure(svg("front", "Accuracy against time", desc, parts) + names, caption)


def _stack(choice: Dict[str, Any]) -> str:
    """A bar a candidate, of the terms of its time that are known."""
    able = [one for one in choice["candidates"] if any(drawable(one["times"][field]) for field, _ in TERMS)]
    if not able:
        return ""
    sums = [sum(one["times"][field] or 0.0 for field, _ in TERMS) for one in able]
    longest, parts = max(sums), []
    for place, (one, whole) in enumerate(zip(able, sums)):
        top, x = place * _BAR + 4, 6.0
        parts.append(label(6, top + 11, one["target"] if len(one["target"]) <= 58 else one["target"][:57] + "…"))
        for term, (field, words) in enumerate(TERMS):
            wide = (one["times"][field] or 0.0) / longest * (WIDTH - 6 - _ROOM)
            if wide <= 0:
                continue
            tip = f"<title>{escape(words)}: {number(one['times'][field])} s</title>"
            parts.append(
                f'<rect class="stack s{term}" x="{x:.1f}" y="{top + 16}" width="{wide:.1f}" height="15">{tip}</rect>'
            )
            if wide > 14:
                parts.append(label(x + wide / 2, top + 28, term + 1, "middle", "number"))
            x += wide
        parts.append(label(x + 5, top + 28, f"{number(whole)} s", kind="value"))
    desc = "; ".join(f"{one['target']} {number(whole)} s" for one, whole in zip(able, sums))
    drawing = svg("stack", "Terms of the total time", desc, parts, len(able) * _BAR + 6)
    columns = [("target", False), *((f"{words} s", True) for _, words in TERMS), ("from", False)]
    rows: List[List[Cell]] = [
        [
            one["target"],
            *(_scaled(one["times"][field], 1) for field, _ in TERMS),
            ", ".join(f"{words} {one['times']['sources'][field[:-2]]}" for field, words in TERMS),
        ]
        for one in able
    ]
    names = legend([(term, words) for term, (_, words) in enumerate(TERMS)])
    caption = "Terms of the total time, in the order in which they are paid; what is unknown has no length."
    return figure(drawing + names, caption, table("Terms of the total time", columns, rows))


def _sensitivity(choice: Dict[str, Any]) -> str:
    """Total time over the bandwidth, and where the choice flips."""
    found = choice["sensitivity"]
    lines = [one for one in (found or {}).get("lines", ()) if drawable(one["start_s"]) and drawable(one["size_bytes"])]
    if not lines:
        return ""
    turns = [flip["mbps"] for flip in found["flips"] if drawable(flip["mbps"])]
    turns += [value for value in found["verdict_mbps"] if drawable(value)]
    asked = choice["asked"]["bandwidth_mbps"]
    low, high = _around([*turns, *([asked] if drawable(asked) else [])])
    at = [low * (high / low) ** (step / 40) for step in range(41)]
    drawn = lines[:_LINES]
    curves = [[8e-6 / mbps * one["size_bytes"] + one["start_s"] for mbps in at] for one in drawn]
    x = spread([low, high], LEFT, _WIDE - 14, log=True)
    y = spread([value for curve in curves for value in curve], _FOOT, TOP + 8, log=True)
    parts = axes(x, y, "bandwidth, Mbit/s (logarithmic)", "total time, s (logarithmic)")
    parts += [path([(x(a), y(b)) for a, b in zip(at, curve)], place) for place, curve in enumerate(curves)]
    for value in turns:
        parts.append(f'<path class="round" d="M{x(value):.1f} {TOP + 8}V{_FOOT}"/>')
    said = [
        f"{one['above']} is the fastest above {one['mbps']:.4g} Mbit/s, {one['below']} below" for one in found["flips"]
    ]
    said = said or [f"{found['highest']} is the one to choose at every bandwidth"]
    said += [f"the saving passes through the limit at {value:.4g} Mbit/s" for value in found["verdict_mbps"]]
    names = legend([(place, one["target"]) for place, one in enumerate(drawn)])
    drawing = svg("bandwidth-c", "Total time over the bandwidth", "; ".join(said), parts) + names
    return items(said) + figure(drawing, "Total time of a cold start over the bandwidth; dashed where something flips.")


def _around(values: List[float]) -> Tuple[float, float]:
    """A range of bandwidths that shows these: 1 to 1000 Mbit/s, wider where they need it."""
    return min([1.0, *(value / 3 for value in values)]), max([1000.0, *(3 * value for value in values)])


def _rejected(choice: Dict[str, Any]) -> str:
    rows: List[List[Cell]] = [[one["target"], one["reason"]] for one in choice["rejected"]]
    return table("Rejected", [("target", False), ("reason", False)], rows) if rows else ""
