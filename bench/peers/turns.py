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
    also: Optional[str] = None,
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
        also: A function for `engines.child.call` that runs our engine in a process of its own in each round, given
            `spec`, `batch` and `seconds`, and returns `median_ms` of the quantity that the peer's `median_ms` is, where
            that is not the wall time of a query.

    Returns:
        `rounds`, `ours_ms` and `theirs_ms` (medians by round), `ours_mean_ms` and `theirs_mean_ms`, `ratio` of the
        medians (ours to theirs: below 1 ours is the faster) with its `interval` (90%; None with fewer than five
        rounds), and `mean` ({`ratio`, `interval`} of the mean times of a query, which is what images a second follow).
        With `also`, `ours_alike_ms`, and `alike` ({`ratio`, `interval`} of its medians to the peer's).

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
            if also:
                asked = {"spec": target.spec.to_json(), "batch": batch, "seconds": seconds}
                ours[-1]["alike_ms"] = child.call(also, asked)["median_ms"]
    progress("rounds", rounds, rounds)
    return _result(*({name: [one[name] for one in side] for name in side[0]} for side in (ours, theirs)))


def joined(first: Dict[str, Any], second: Dict[str, Any]) -> Dict[str, Any]:
    """Two results of `measure` on the same as one, of all their rounds."""
    sides = []
    for side in ("ours", "theirs"):
        names = {"median_ms": f"{side}_ms", "mean_ms": f"{side}_mean_ms", "alike_ms": f"{side}_alike_ms"}
        sides.append({name: [*first[key], *second[key]] for name, key in names.items() if key in first})
    return _result(*sides)


def _result(ours: Dict[str, List[float]], theirs: Dict[str, List[float]]) -> Dict[str, Any]:
    alike: Dict[str, Any] = {}
    if "alike_ms" in ours:
        alike = {"ours_alike_ms": ours["alike_ms"], "alike": ratio(ours["alike_ms"], theirs["median_ms"])}
    return {
        "rounds": len(ours["median_ms"]),
        "ours_ms": ours["median_ms"],
        "theirs_ms": theirs["median_ms"],
        "ours_mean_ms": ours["mean_ms"],
        "theirs_mean_ms": theirs["mean_ms"],
        **ratio(ours["median_ms"], theirs["median_ms"]),
        "mean": ratio(ours["mean_ms"], theirs["mean_ms"]),
        **alike,
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
