"""How the choice depends on the bandwidth: where another candidate becomes the fastest, and where the verdict turns.

A total time is a line over x = 8 / bandwidth: its slope is the size, and it begins at what does not depend on it. So
the fastest is the lower envelope of lines, and every change of it an intersection: solved, not searched.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence


class Line(NamedTuple):
    """A total time over seconds per byte."""

    name: str
    slope: float
    """Bytes."""
    start: float
    """Seconds without the transfer."""

    def at(self, x: float) -> float:
        """Seconds."""
        return self.start + self.slope * x


def flips(lines: Sequence[Line]) -> List[Dict[str, Any]]:
    """Every bandwidth at which the fastest changes, from the highest down.

    Args:
        lines: Of the candidates that may be chosen.

    Returns:
        `mbps`, `above` and `below` (names).
    """
    now = min(lines, key=lambda one: (one.start, one.slope))
    x = 0.0
    found: List[Dict[str, Any]] = []
    while True:
        crossings = [((one.start - now.start) / (now.slope - one.slope), one) for one in lines if one.slope < now.slope]
        if not crossings:
            return found
        # of those that cross at one place the flattest is the fastest beyond it
        nearest, after = min(crossings, key=lambda pair: (max(pair[0], x), pair[1].slope))
        x = max(nearest, x)
        if x > 0:
            found.append({"mbps": _mbps(x), "above": now.name, "below": after.name})
        now = after


def fastest(lines: Sequence[Line], mbps: float) -> Line:
    """Of a bandwidth."""
    return min(lines, key=lambda one: (one.at(8e-6 / mbps), one.slope))


def thresholds(lines: Sequence[Line], baseline: Line, least: float, changes: Sequence[Dict[str, Any]]) -> List[float]:
    """The bandwidths in Mbps, from the highest down, at which the saving passes through `least`.

    Args:
        lines: Of the candidates that may be chosen.
        baseline: That they are held against.
        least: Share of the baseline's time that must be saved.
        changes: Of `flips`: the saving is that of the fastest at each bandwidth.
    """
    named = {one.name: one for one in lines}
    first = changes[0]["above"] if changes else min(lines, key=lambda one: (one.start, one.slope)).name
    members = [named[first], *(named[one["below"]] for one in changes)]
    edges = [0.0, *(_x(one["mbps"]) for one in changes), float("inf")]
    found = []
    for one, low, high in zip(members, edges, edges[1:]):
        x = _crossing(one, baseline, least)
        if x is not None and low < x <= high:
            found.append(_mbps(x))
    return found


def _crossing(one: Line, baseline: Line, least: float) -> Optional[float]:
    """Where one takes (1 - least) of the baseline's time."""
    slope = one.slope - (1 - least) * baseline.slope
    start = (1 - least) * baseline.start - one.start
    if slope == 0:
        return None
    x = start / slope
    return x if x > 0 else None


def _mbps(x: float) -> float:
    return 8e-6 / x


def _x(mbps: float) -> float:
    return 8e-6 / mbps
