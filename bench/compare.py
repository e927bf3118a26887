"""Runs beside a reference: which cells became faster or slower, by how much, and whether the machines were alike.

A cell is one target at one batch. Cells are matched by name, and by what they are where a bundle's name changed (its
backend's version is part of it). Rounds of two runs lie minutes or months apart, so they are not paired.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

from bench import stats
from bench.telemetry import state
from engines.errors import IncompatibleError, UsageError

SCHEMA = "optimize.compare/1"

_MACHINE = {"cpu": "processor", "cores": "cores", "arch": "architecture", "board": "board", "gpu": "GPU"}
"""What two machines must have in common."""

_LEAST_MS = 1e-9
"""A median below a femtosecond is a damaged or empty measurement, not a time that another can be divided by."""

_WHAT = ("role", "form", "precision", "backend")

Row = Dict[str, Any]


def compare(
    reference: Dict[str, Any],
    others: Sequence[Tuple[str, Dict[str, Any]]],
    force: bool = False,
    level: float = stats.LEVEL,
    seed: int = 0,
) -> Dict[str, Any]:
    """Compare runs with a reference.

    Args:
        reference: A run (`optimize.run/1`).
        others: Name and run of each that is compared with it.
        force: Compare unlike machines, states, models and data all the same; the result says what is unlike.
        level: Confidence of the intervals.
        seed: Of the bootstrap.

    Returns:
        `schema`, `level`, and `runs`, one for each of `others`: `name`, `unlike` (in words), `cells`, `lacking` (cells
        of the reference that it has not), `added` (those that the reference has not), `geomean` (of the ratios, with
        an `interval`; None without a cell). A cell has `target`, `before` (name in the reference), `form`, `precision`,
        `backend`, `batch`, `threads`, `streams`, `reference_ms` and `ms` (medians), `ratio` (reference / this: above 1
        is faster), `interval`, `verdict` (see `bench.stats.Ratio`), `top1_change` (points of 100, None where
        unmeasured), `flags`.

    Raises:
        IncompatibleError: Unlike machines, states, models or data, without `force`.
        UsageError: No cell is in both.
    """
    return {
        "schema": SCHEMA,
        "level": level,
        "runs": [_one(reference, name, run, force, level, seed) for name, run in others],
    }


def unlike(a: Dict[str, Any], b: Dict[str, Any]) -> List[str]:
    """In which ways the machines of two environments, or their states before a run, are not alike, in words."""
    machine = [
        f"{words}: {a.get(key) or 'unknown'} and {b.get(key) or 'unknown'}"
        for key, words in _MACHINE.items()
        if (a.get(key) or "") != (b.get(key) or "")
    ]
    return machine + state.unlike(a.get("before") or {}, b.get("before") or {})


def _one(
    reference: Dict[str, Any], name: str, run: Dict[str, Any], force: bool, level: float, seed: int
) -> Dict[str, Any]:
    pairs, lacking, added = match(reference["rows"], run["rows"])
    if not pairs:
        what = "target of the same name, form, precision and batch"
        twice = [row for row in run["rows"] if sum(_named(row) == _named(one) for one in run["rows"]) > 1]
        if twice:
            raise UsageError(
                f"{name}: {label(twice[0])} is there twice: which of the two counts?", "one run file of it"
            )
        raise UsageError(f"{name} has no cell of the reference: no {what}")
    found = unlike(reference["environment"], run["environment"])
    found += list(dict.fromkeys(text for pair in pairs for text in _another(*pair)))
    if found and not force:
        raise IncompatibleError(f"{name} and the reference are unlike: {'; '.join(found)}", "--force compares them")
    cells = [_cell(before, after, level, seed) for before, after in pairs]
    return {
        "name": name,
        "unlike": found,
        "cells": cells,
        "lacking": [label(row) for row in lacking],
        "added": [label(row) for row in added],
        "geomean": _geomean(cells),
    }


def match(before: Sequence[Row], after: Sequence[Row]) -> Tuple[List[Tuple[Row, Row]], List[Row], List[Row]]:
    """Rows of the same cell, and what is left on either side.

    First by the target's name, then, of what is left, by role, form, precision, backend and batch where that is unique.
    """
    pairs: List[Tuple[Row, Row]] = []
    left, right = list(before), list(after)
    for key in (_named, _kind):
        for row in list(left):
            same = [[one for one in side if key(one) == key(row)] for side in (left, right)]
            if all(len(side) == 1 for side in same):
                pairs.append((row, same[1][0]))
                left.remove(row)
                right.remove(same[1][0])
    order = {id(row): place for place, row in enumerate(before)}
    return sorted(pairs, key=lambda pair: order[id(pair[0])]), left, right


def _kind(row: Row) -> Tuple[Any, ...]:
    beside = (row.get("interference") or {}).get("kinds")
    return (*(row[name] for name in _WHAT), row["batch"], row.get("threads"), row.get("streams"), beside)


def _named(row: Row) -> Tuple[Any, ...]:
    return (row["target"], *_kind(row))


def label(row: Row) -> str:
    """A cell in words: `int8-openvino2026.4.1, batch 64`."""
    words = [row["target"], *(row[name] for name in ("form",) if row[name])]
    if row["role"] == "original" and row["precision"] != "fp32":
        words.append(row["precision"])
    threads, streams = (
        f", {row[name]} {name[:-1]}{'s' * (row[name] > 1)}" if row.get(name) else "" for name in ("threads", "streams")
    )
    beside = f", beside {row['interference']['kinds']}" if row.get("interference") else ""
    return f"{' '.join(filter(None, words))}, batch {row['batch']}{threads}{streams}{beside}"


def _another(before: Row, after: Row) -> List[str]:
    """Whether two rows are of different models or of different data."""
    found = []
    models = [row.get("model_sha256") for row in (before, after)]
    if all(models) and models[0] != models[1]:
        found.append(f"{label(before)}: another model")
    data = [(row.get("dataset") or {}).get("sha256") for row in (before, after)]
    if all(data) and data[0] != data[1]:
        found.append(f"{label(before)}: accuracy on other images")
    return found


def _cell(before: Row, after: Row, level: float, seed: int) -> Dict[str, Any]:
    rounds = [[entry["samples_ms"] for entry in row["rounds"] if entry["samples_ms"]] for row in (before, after)]
    ratio = interval = None
    verdict = "imported: no samples"
    if any(row["p50_ms"] is not None and row["p50_ms"] < _LEAST_MS for row in (before, after)):
        verdict = "no ratio: a median of zero"
    elif all(rounds):
        found = stats.ratio_interval(rounds[0], rounds[1], level, seed)
        ratio, verdict = found.ratio, found.verdict
        interval = None if found.low is None or found.high is None else [found.low, found.high]
    elif before["p50_ms"] and after["p50_ms"]:
        ratio = before["p50_ms"] / after["p50_ms"]
    top1 = [row["top1"] for row in (before, after)]
    return {
        "target": after["target"],
        "before": before["target"],
        **{name: after[name] for name in ("form", "precision", "backend", "batch")},
        "threads": after.get("threads"),
        "streams": after.get("streams"),
        "reference_ms": before["p50_ms"],
        "ms": after["p50_ms"],
        "ratio": ratio,
        "interval": interval,
        "verdict": verdict,
        "top1_change": None if None in top1 else 100 * (top1[1] - top1[0]),
        "flags": list(dict.fromkeys([*before["flags"], *after["flags"]])),
    }


def _geomean(cells: Sequence[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """Geometric mean of the ratios. Its interval is the widest there can be: as if all cells erred together, since
    cells of one run share its machine and its moment."""
    ratios = [cell["ratio"] for cell in cells if cell["ratio"]]
    if not ratios:
        return None
    intervals = [cell["interval"] for cell in cells if cell["ratio"]]
    ends = [_mean(end) for end in zip(*intervals)] if all(intervals) else None
    return {"ratio": _mean(ratios), "interval": ends, "cells": len(ratios)}


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def failures(run: Dict[str, Any], slower: Optional[float], drop: Optional[float]) -> List[str]:
    """Cells of a compared run that break a limit, in words.

    Args:
        run: One of `runs`.
        slower: A cell may take so much longer, as a share (0.05). One whose interval reaches the reference's time is
            not called slower: it may be an accident.
        drop: Points of top-1 that may be lost; an unmeasured accuracy breaks this limit too.

    With any limit a cell of the reference that the run lacks breaks it: what was not measured met nothing.
    """
    limited = slower is not None or drop is not None
    found = [f"{name}: not in this run" for name in run["lacking"] if limited]
    for cell in run["cells"]:
        name = label({**cell, "role": ""})
        longer = 0.0 if cell["ratio"] is None else 1 / cell["ratio"] - 1
        certain = cell["interval"] is None or cell["interval"][1] < 1
        if slower is not None and longer > slower and certain:
            found.append(f"{name}: {100 * longer:.1f}% slower, {100 * slower:g}% are allowed")
        if drop is not None and (cell["top1_change"] is None or -cell["top1_change"] > drop):
            lost = "unmeasured" if cell["top1_change"] is None else f"{-cell['top1_change']:.2f} points lower"
            found.append(f"{name}: top-1 {lost}, {drop:g} are allowed")
    return found
