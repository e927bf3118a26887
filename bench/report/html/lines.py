"""Which number, and so which colour, dashes and marker, a target has on every chart of the page."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from bench.report.cells import groups, name

Key = Tuple[int, str]
"""Of a run among those merged: a target in one form and precision, at any batch and number of threads."""


def key(row: Dict[str, Any]) -> Key:
    """What a row is of."""
    return row.get("run", 0), name(row)


def numbered(run: Dict[str, Any]) -> Dict[Key, int]:
    """Numbers from 0, in the order of the tables."""
    found = dict.fromkeys(key(row) for _, rows in groups(run) for row in rows)
    return {one: number for number, one in enumerate(found)}


def told(keys: Sequence[Key], numbers: Dict[Key, int]) -> List[Tuple[int, str]]:
    """Numbers and names for a legend."""
    several = len({run for run, _ in numbers}) > 1
    return [(numbers[one], f"run {one[0] + 1}: {one[1]}" if several else one[1]) for one in keys]
