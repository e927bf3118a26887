"""Our loop and a peer's on one model, in fresh processes that take turns: ours first in even rounds, last in odd."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

from bench import stats
from bench.rounds import Target, run
from engines import child
from engines.errors import OptimizeError
from engines.spec import Progress, quiet

SAME, DIFFERENT, OPEN = "the same", "different", "inconclusive"


def measure(
    target: Target,
    batch: int,
    stage: str,
    arguments: Dict[str, Any],
    rounds: int,
    seconds: float,
    env: Optional[Dict[str, str]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Measure a model with both.

    Args:
        target: How we open it.
        batch: Images in a query.
        stage: The peer: a function for `engines.child.call` that returns `median_ms` and `mean_ms` of a query.
        arguments: Of the peer.
        rounds: Fresh processes of each.
        seconds: Of each round.
        env: Environment variables of the peer.
        progress: Told the rounds done.

    Returns:
        `rounds`, `ours_ms` and `theirs_ms` (medians by round), `ours_mean_ms` and `theirs_mean_ms`, `ratio` of the
        medians (ours to theirs: below 1 ours is the faster) with its `interval` (90%; None with fewer than five
        rounds), and `mean` ({`ratio`, `interval`} of the mean times of a query, which is what images a second follow).

    Raises:
        OptimizeError: Either cannot run it.
    """
    ours: List[Dict[str, float]] = []
    theirs: List[Dict[str, float]] = []
    for turn in range(rounds):
        progress("rounds", turn, rounds)
        for side in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
            if side == "theirs":
                theirs.append(child.call(stage, arguments, env=env))
                continue
            done = run([target], [batch], 1, 0.2, seconds)
            if done.failures:
                raise OptimizeError(done.failures[0][1])
            row = done.rows[0]
            ours.append({"median_ms": row["p50_ms"], "mean_ms": 1e3 * batch / float(row["images_per_s"])})
    progress("rounds", rounds, rounds)
    medians, means = ([[one[name] for one in side] for side in (ours, theirs)] for name in ("median_ms", "mean_ms"))
    return {
        "rounds": rounds,
        "ours_ms": medians[0],
        "theirs_ms": medians[1],
        "ours_mean_ms": means[0],
        "theirs_mean_ms": means[1],
        **ratio(*medians),
        "mean": ratio(*means),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Dict[str, Any]:
    """`ratio` of the medians over rounds that took turns, and its `interval`."""
    found = stats.ratio_interval([[v] for v in ours], [[v] for v in theirs], paired=True)
    return {"ratio": found.ratio, "interval": None if found.low is None else [found.low, found.high]}


def verdict(found: Dict[str, Any], low: float, high: float) -> str:
    """Whether the interval of a ratio (without one the ratio) lies within two limits, apart from them, or neither."""
    least, most = found["interval"] or (found["ratio"], found["ratio"])
    if low <= least and most <= high:
        return SAME
    return DIFFERENT if most < low or least > high else OPEN
