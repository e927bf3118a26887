"""Candidates: the rows of run files at one batch, each with its accuracy and with what it costs in every round.

What is unknown stays None and is told; what is known and differs (machines, data sets) cannot stand in one table.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from bench.compare import label, unlike
from engines import fields
from engines.errors import IncompatibleError, UsageError

Row = Dict[str, Any]
Runs = Sequence[Tuple[str, Dict[str, Any]]]
"""Name and run (`optimize.run/1`) of each file."""

_ENVIRONMENT: Dict[str, fields.Check] = {
    "before": fields.null_or(fields.an_object()),
    "packages": fields.null_or(fields.an_object()),
    "gpu": fields.null_or(fields.an_object()),
    "features": fields.null_or(fields.a_list(fields.word)),
}
"""What is read of a run's environment, if it is there; the run file itself leaves it free."""

_TOGETHER = "measure them together: optimize bench ENGINE... --data cifar10 --rounds 10"


class Cost(NamedTuple):
    """What one process paid, seconds; None where it is not known."""

    load_s: Optional[float]
    first_s: Optional[float]
    query_s: Optional[float]
    """Mean of its queries."""


class Candidate(NamedTuple):
    """One model or engine that could run on the device.

    Attributes:
        name: Tells it from the others.
        run: Which of the runs it is from.
        row: As in `optimize.run/1`.
        costs: Of each round by its number, in order; empty where nothing but a summary is known.
        mean: Of all rounds, a query's of all queries, which is what images a second follow: a round of a fixed time has
            fewer of them where they are slow. Of the summary where there are no rounds.
    """

    name: str
    run: int
    row: Row
    costs: Dict[int, Cost]
    mean: Cost

    @property
    def top1(self) -> Optional[float]:
        """Accuracy, a fraction of 1."""
        value: Optional[float] = self.row["top1"]
        return value

    @property
    def size_bytes(self) -> Optional[int]:
        """What is transferred."""
        value: Optional[int] = self.row["size_bytes"]
        return value

    @property
    def joules(self) -> Optional[float]:
        """Energy of an image."""
        value: Optional[float] = (self.row.get("energy") or {}).get("joules_per_image")
        return value

    @property
    def memory_bytes(self) -> Optional[int]:
        """What its process took at most."""
        value: Optional[float] = (self.row.get("usage") or {}).get("peak_rss_bytes")
        return None if value is None else int(value)


def candidates(runs: Runs, batch: Optional[int] = None) -> Tuple[List[Candidate], int]:
    """The candidates of run files at one batch.

    Rows of several queries side by side are none: their times are those under that load.

    Args:
        runs: Of machines in like states.
        batch: None takes the smallest that all targets have.

    Returns:
        The candidates, and the batch.

    Raises:
        UsageError: No row, no such batch, or no batch that all have.
        DamagedError: An environment that is none.
        IncompatibleError: Known to be of different machines, states or data sets.
    """
    rows = [(number, row) for number, (_, run) in enumerate(runs) for row in run["rows"] if not row.get("streams")]
    if not rows:
        raise UsageError("the run files have no row to choose from", "optimize bench TARGET... -o runs.json")
    by_target: Dict[Tuple[int, str], List[int]] = {}
    for number, row in rows:
        by_target.setdefault((number, label({**row, "batch": 0})), []).append(row["batch"])
    common = set.intersection(*(set(batches) for batches in by_target.values()))
    if batch is None and not common:
        raise UsageError("no batch size is in all rows", "optimize bench TARGET... --batch 1, or name one with --batch")
    chosen = min(common) if batch is None else batch
    taken = [(number, row) for number, row in rows if row["batch"] == chosen]
    if not taken:
        there = ", ".join(map(str, sorted({row["batch"] for _, row in rows})))
        raise UsageError(f"--batch {chosen}: the run files have batch {there}")
    for name, run in runs:
        for key, check in _ENVIRONMENT.items():
            check(f"{name}: environment.{key}", run["environment"].get(key))
    _check_machines(runs)
    _check_data(taken)
    found = [Candidate(_name(row), number, row, _costs(row), _mean(row)) for number, row in taken]
    return _distinct(found, [Path(name).stem for name, _ in runs]), chosen


def _name(row: Row) -> str:
    """What `label` tells, without the batch, which all share."""
    return label(row).replace(f", batch {row['batch']}", "")


def _distinct(found: List[Candidate], stems: Sequence[str]) -> List[Candidate]:
    """Names that several have get where they ran (an original's CPU or GPU), then their file's name before them.

    Raises:
        UsageError: The same candidate twice.
    """

    def placed(one: Candidate) -> str:
        return f"{one.name} on {one.row['on']}" if one.row.get("on") else one.name

    def filed(one: Candidate) -> str:
        return f"{stems[one.run]}: {one.name}"

    names = [one.name for one in found]
    for rename in (placed, filed):
        found = [one._replace(name=rename(one)) if names.count(one.name) > 1 else one for one in found]
        names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is there twice: which of the two measurements counts?", "give one run file of it")
    return found


def _costs(row: Row) -> Dict[int, Cost]:
    """Of each round; the place stands for the number where an older file does not tell it."""
    return {
        int(entry["round"] if entry.get("round") is not None else place): Cost(
            _seconds(entry.get("load_ms")),
            _seconds(entry.get("first_ms")),
            sum(entry["samples_ms"]) / len(entry["samples_ms"]) / 1e3,
        )
        for place, entry in enumerate(row["rounds"])
        if entry["samples_ms"]
    }


def _mean(row: Row) -> Cost:
    costs = _costs(row)
    if not costs:
        query = row["mean_ms"] if row["mean_ms"] is not None else row["p50_ms"]
        return Cost(_seconds(row.get("load_ms")), _seconds(row.get("first_ms")), _seconds(query))
    load, first = ([getattr(one, name) for one in costs.values()] for name in ("load_s", "first_s"))
    samples = [ms for entry in row["rounds"] for ms in entry["samples_ms"]]
    return Cost(_average(load), _average(first), sum(samples) / len(samples) / 1e3)


def _average(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _seconds(ms: Optional[float]) -> Optional[float]:
    return None if ms is None else ms / 1e3


def _check_machines(runs: Runs) -> None:
    """Refuse what is known to be different; what one side does not tell is listed elsewhere."""
    for (name, one), (other, run) in itertools.combinations(runs, 2):
        a, b = one["environment"], run["environment"]
        both = [key for key, value in a.items() if value and b.get(key)]
        words = unlike(*({key: about[key] for key in both} for about in (a, b)))
        if words:
            raise IncompatibleError(f"{name} and {other} are of unlike devices: {'; '.join(words)}", _TOGETHER)


def _check_data(rows: Sequence[Tuple[int, Row]]) -> None:
    known = [row for _, row in rows if row["dataset"] and row["top1"] is not None]
    for pair in itertools.combinations(known, 2):
        a, b = (row["dataset"] for row in pair)
        keys = ["sha256"] if a["sha256"] and b["sha256"] else ["name", "n"]
        if any(a[key] != b[key] for key in keys):
            words = " and ".join(
                f"{_name(row)} on {row['dataset']['n']} images of {row['dataset']['name']}" for row in pair
            )
            raise IncompatibleError(f"accuracies of different test sets: {words}", _TOGETHER)


def unknown(found: Sequence[Candidate], runs: Runs) -> List[str]:
    """What the candidates do not tell, in words."""
    told: List[str] = []

    def add(what: str, lacking: Sequence[str], total: int = len(found)) -> None:
        if lacking:
            told.append(f"{what}: {'all' if len(lacking) == total else ', '.join(lacking)}")

    add("accuracy", [one.name for one in found if one.top1 is None])
    add("data set of the accuracy", [one.name for one in found if one.top1 is not None and not one.row["dataset"]])
    add("time", [one.name for one in found if one.mean.query_s is None])
    add("size", [one.name for one in found if one.size_bytes is None])
    add("load time", [one.name for one in found if one.mean.load_s is None])
    add("first inference", [one.name for one in found if one.mean.first_s is None])
    add("replicates", [one.name for one in found if not one.costs])
    environments = [run["environment"] for _, run in runs]
    blank = [name for (name, _), about in zip(runs, environments) if not (about.get("cpu") or about.get("board"))]
    add("device", blank, len(runs))
    add("state of the device", [name for (name, run) in runs if not run["environment"].get("before")], len(runs))
    for flag in dict.fromkeys(flag for one in found for flag in one.row["flags"] if flag.endswith(" unknown")):
        add(flag[: -len(" unknown")], [one.name for one in found if flag in one.row["flags"]])
    warm = [one.name for one in found if one.mean.first_s is not None and _not_first(one, runs[one.run][1]["rows"])]
    add("first inference of a process that ran no smaller batch before", warm)
    return told


def _not_first(one: Candidate, rows: Sequence[Row]) -> bool:
    name, batch = label({**one.row, "batch": 0}), int(one.row["batch"])
    return any(row["batch"] < batch and label({**row, "batch": 0}) == name for row in rows)
