"""Charts as SVG, small enough for a phone: scales, axes and marks that are told apart without colour.

Colours are classes of page.css (Okabe and Ito's, for light and dark); each line also has its dashes, its marker and the
number under which the legend names it.
"""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from bench.report.html.elements import escape

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
"""Margins of the plot, where numbers and titles of the axes stand."""

COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2")
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.5 -3.5H3.5V3.5H-3.5Z",
    "M0 -4.6L4.3 3.4H-4.3Z",
    "M0 -5L5 0L0 5L-5 0Z",
    "M0 4.6L4.3 -3.4H-4.3Z",
    "M-4 -1.3H-1.3V-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4Z",
)
"""Circle, square, triangle, diamond, triangle upside down, plus. With colours and dashes 210 lines are unlike."""

ABSURD = 1e15
"""Numbers from here on, of a damaged file, are not drawn."""

Point = Tuple[float, float]


def drawable(value: Any) -> bool:
    """Whether a value of a run file can stand on a scale: a number above 0, and not an absurd one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < ABSURD


class Scale(NamedTuple):
    """Where a value stands on the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Place of a value, in the picture's units."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> List[float]:
        """Round values within the scale, seven at most."""
        if self.log and self.high / self.low >= 3:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1,) if last - first > 3 else (1, 2, 5)
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            found = [value for value in found if self.low <= value <= self.high]
            return found[:: math.ceil(len(found) / 7)]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 5))
        step = next(step * m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [value for value in (step * (first + i) for i in range(8)) if value <= self.high * (1 + 1e-9)]


def spread(values: Sequence[float], start: float, end: float, log: bool = False, zero: bool = False) -> Scale:
    """A scale on which all values have room; from zero where lengths are compared."""
    low, high = min(values), max(values)
    if log and low > 0:
        low, high = low / 1.05, high * 1.05
        return Scale(low, high, start, end, True)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(0.0 if zero else low - room, high + room, start, end)


def short(value: float) -> str:
    """A number on an axis."""
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.0f}" if abs(value) < 1e9 else f"{value:.2g}"


def svg(name: str, title: str, desc: str, parts: Sequence[str], height: float = HEIGHT, width: float = WIDTH) -> str:
    """A picture that screen readers tell: what it is, and what is to be seen on it.

    Args:
        name: Of its parts on the page: letters, digits and dashes of our own.
    """
    return (
        f'<svg role="img" aria-labelledby="{name}-t {name}-d" viewBox="0 0 {width:g} {height:g}">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(desc)}</desc>{"".join(parts)}</svg>'
    )


def label(x: float, y: float, words: Any, anchor: str = "start", kind: str = "") -> str:
    """Words on a picture."""
    about = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{about}>{escape(words)}</text>'


def axes(x: Scale, y: Scale, across: str, up: str, at: Optional[Sequence[float]] = None) -> List[str]:
    """Grid, numbers and titles of both axes.

    Args:
        x, y: Scales.
        across, up: What they show, with the unit.
        at: Values on the x axis to number; round ones unless told.
    """
    right, top, bottom = x.end, y.end, y.start
    grid = "".join(f"M{x.start:.1f} {y(v):.1f}H{right:.1f}" for v in y.ticks())
    grid += "".join(f"M{x(v):.1f} {top:.1f}V{bottom:.1f}" for v in (x.ticks() if at is None else at))
    parts = [f'<path class="grid" d="{grid}"/>', f'<path class="axis" d="M{x.start} {top}V{bottom}H{right}"/>']
    parts += [label(x.start - 5, y(v) + 4, short(v), "end") for v in y.ticks()]
    parts += [label(x(v), bottom + 15, short(v), "middle") for v in (x.ticks() if at is None else at)]
    parts.append(label((x.start + right) / 2, bottom + 33, across, "middle", "what"))
    parts.append(label(4, top - 8, up, "start", "what"))
    return parts


def path(points: Sequence[Point], number: int, steps: bool = False) -> str:
    """The line of a legend's number through points on the picture; `steps` rise where the next point stands."""
    (x, y), *rest = points
    drawn = f"M{x:.1f} {y:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" if steps else f"L{a:.1f} {b:.1f}" for a, b in rest)
    dashes = DASHES[number % len(DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path class="line s{number % COLOURS}" d="{drawn}"{dashed}/>'


def apart(heights: Sequence[float], gap: float = 12) -> List[float]:
    """Heights for labels that would lie upon each other: in the same order, `gap` apart, and not below the axis."""
    found = list(heights)
    above = float("-inf")
    for i in sorted(range(len(found)), key=lambda i: found[i]):
        found[i] = above = max(found[i], above + gap)
    below = HEIGHT - BOTTOM + gap
    for i in sorted(range(len(found)), key=lambda i: -found[i]):
        found[i] = below = min(found[i], below - gap)
    return found


def marker(x: float, y: float, number: int, words: str = "") -> str:
    """The marker of a legend's number; `words` show where a mouse rests on it."""
    told = f"<title>{escape(words)}</title>" if words else ""
    shape = MARKERS[number % len(MARKERS)]
    return f'<path class="mark s{number % COLOURS}" transform="translate({x:.1f} {y:.1f})" d="{shape}">{told}</path>'


def legend(names: Sequence[Tuple[int, str]]) -> str:
    """Which number, dashes and marker stand for what."""
    shown = [
        f'<li><svg aria-hidden="true" viewBox="0 0 44 14">{path([(2, 7), (42, 7)], number)}'
        f"{marker(22, 7, number)}</svg><b>{number + 1}</b> <span>{escape(name)}</span></li>"
        for number, name in names
    ]
    return f'<ul class="legend">{"".join(shown)}</ul>'
