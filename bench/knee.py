"""The knee batch: from which on more images in a query bring little more images a second."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from bench import stats

SHARE = 0.9
"""Of the highest images/s of any batch, which the knee is the smallest batch to reach.

R. W. Hockney and C. R. Jesshope, "Parallel Computers" (Adam Hilger, 1981), describe a pipeline by its asymptotic rate
and the length n_1/2 that reaches half of it; a batch reaches 90% of the rate of such a pipeline at 9 times n_1/2.
"""

LEAST = 4
"""Batches below which a curve has no shape to speak of."""


class Knee(NamedTuple):
    """Where the images/s of a target level off.

    Attributes:
        batch: The knee; None where there is none, or where the rounds do not tell it.
        best: Batch of the highest images/s.
        share: Images/s at the knee as a share of the highest; None without one.
        why: How it was found, or why there is none.
    """

    batch: Optional[int]
    best: int
    share: Optional[float]
    why: str


def knee(rates: Mapping[int, Sequence[float]], level: float = stats.LEVEL) -> Knee:
    """Find the knee of a curve of images/s over the batch.

    It is the smallest batch that reaches `SHARE` of the highest rate. Each round measured all batches in one process,
    so every batch is held against the best one within its round, and the replicate is the round: the interval of the
    share is Student's, of the mean of its logarithms. A batch reaches `SHARE` where its whole interval does, and misses
    it where none of it does; where a batch up to the knee does neither, the rounds do not tell, and there is no knee.

    Args:
        rates: Images/s by batch, of the same rounds in the same order; all positive.
        level: Confidence of the intervals.
    """
    batches = sorted(rates)
    logs = np.log(np.array([list(rates[batch]) for batch in batches], np.float64))
    means = logs.mean(axis=1)
    top = int(means.argmax())
    best, rounds = batches[top], logs.shape[1]

    def none(why: str) -> Knee:
        return Knee(None, best, None, why)

    if len(batches) < LEAST:
        return none(f"fewer than {LEAST} batches")
    if rounds < stats.VERDICT_ROUNDS:
        return none(f"fewer than {stats.VERDICT_ROUNDS} rounds ({rounds})")
    wide = stats.student_quantile((1 + level) / 2, rounds - 1) / math.sqrt(rounds)
    for place, batch in enumerate(batches[: top + 1]):
        shares = logs[place] - logs[top]
        half = wide * float(shares.std(ddof=1))
        low, middle, high = (math.exp(float(shares.mean()) + sign * half) for sign in (-1, 0, 1))
        if high < SHARE:
            continue
        if low < SHARE:
            return none(f"the rounds vary too much: batch {batch} has {low:.0%} to {high:.0%} of the highest images/s")
        if place == 0:
            return none(f"more images in a query bring little: batch {batch} has {middle:.0%} of the highest images/s")
        if place == len(batches) - 1:
            return none(f"images/s still rise at batch {batch}")
        return Knee(batch, best, middle, f"the smallest batch with {SHARE:.0%} of the highest images/s, at {best}")
    raise AssertionError("the best batch reaches its own rate")


def knees(run: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The knee of every target of a run that was measured at `LEAST` batches or more.

    Args:
        run: `optimize.run/1`.

    Returns:
        For each target and number of CPU threads `run` (where several were merged), `target`, `role`, `form`,
        `precision`, `threads`, `batches`, and what `Knee` says: `batch`, `best`, `share`, `why`.
    """
    found: Dict[Tuple[Any, ...], List[Dict[str, Any]]] = {}
    for row in run["rows"]:
        if row["origin"] == "measured":
            found.setdefault(tuple(row.get(name) for name in _TARGET), []).append(row)
    return [
        {
            **{name: value for name, value in zip(_TARGET, key) if name != "run" or value is not None},
            "batches": sorted(row["batch"] for row in rows),
            **knee(_rates(rows))._asdict(),
        }
        for key, rows in found.items()
        if len(rows) >= LEAST
    ]


_TARGET = ("run", "target", "role", "form", "precision", "threads")
"""Fields of a row that are the same in all rows of one target."""


def _rates(rows: Sequence[Dict[str, Any]]) -> Dict[int, List[float]]:
    """Images/s by batch in the rounds that have all batches, as `bench.runs.row` has them for a whole row."""
    by_round = [{entry.get("round", place): entry for place, entry in enumerate(row["rounds"])} for row in rows]
    common = sorted(set.intersection(*(set(entries) for entries in by_round)))
    return {
        row["batch"]: [row["batch"] * 1e3 / float(np.mean(entries[turn]["samples_ms"])) for turn in common]
        for row, entries in zip(rows, by_round)
    }


def notes(run: Dict[str, Any]) -> List[str]:
    """A line for each knee, in words."""
    lines = []
    for one in knees(run):
        form = f" {one['form']}" if one["form"] else ""
        threads = f", {one['threads']} CPU thread{'s' * (one['threads'] > 1)}" if one["threads"] else ""
        place = f"run {one['run'] + 1}, " if "run" in one else ""
        name = f"{place}{one['target']}{form} {one['precision']}{threads}"
        what = "none" if one["batch"] is None else f"{one['batch']} ({one['share']:.0%})"
        lines.append(f"{name}: {what}: {one['why']}")
    return lines
