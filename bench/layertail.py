"""Which layers carry the spread between a usual query and a slow one.

Layers are told apart in queries of their own, slower than those that are timed as a whole: what is compared is how far
each grows in the slowest of them.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List

import numpy as np
import numpy.typing as npt

from bench import stats
from bench.rounds import environment
from engines import child
from engines.errors import UsageError
from engines.spec import Progress, RunnerSpec, quiet

QUERIES, MOST = 2000, 100_000
"""By default, of which twenty are the slowest 1%, and at most: each keeps a number for each layer."""

SLOWEST = 0.01
"""Share of the queries that are the slow ones."""

_WARM = 50
"""Queries before those that count."""

_P999 = 1000
"""Queries from which on a p99.9 is told: with fewer it is the maximum."""


def measure(
    spec: RunnerSpec,
    batch: int,
    queries: int = QUERIES,
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Time each layer of an engine in each of many queries, in a fresh process.

    Args:
        spec: How to open it.
        batch: Images in a query.
        queries: How many.
        data, seed: See `bench.inputs.feeds`.
        progress: Told what happens.

    Returns:
        `batch` and what `carried` returns; its layers have `name`, `type` and `precision` too.

    Raises:
        UsageError: What runs it does not tell its layers in each query; or fewer than 2 queries, or too many.
        OptimizeError: The target cannot be opened, or has died.
    """
    if not 2 <= queries <= MOST:
        raise UsageError(f"layers of {queries} queries: 2 to {MOST} are possible", f"{QUERIES} are usual")
    ask = {"spec": spec.to_json(), "batch": batch, "queries": queries, "data": data, "seed": seed}
    found: Dict[str, Any] = child.call("bench.layertail:drive", ask, progress, environment(spec))
    return found


def drive(
    spec: Dict[str, Any], batch: int, queries: int, data: str = "", seed: int = 0, progress: Progress = quiet
) -> Dict[str, Any]:
    """The child's part of `measure`."""
    import engines
    from bench.inputs import feeds
    from bench.loop import uncollected

    with engines.open(RunnerSpec.from_json(spec)) as runner:
        given = feeds(runner, batch, data, seed)
        progress("layers of slow queries", 0, queries)
        with uncollected():
            times = runner.layer_times(given, _WARM + queries)
        progress("layers of slow queries", queries, queries)
    found = carried(times.ms[_WARM:], times.wall_ms[_WARM:])
    layers = [{**about, **figures} for about, figures in zip(times.layers, found["layers"])]
    return {"batch": batch, **found, "layers": layers}


def carried(ms: npt.NDArray[Any], wall_ms: npt.NDArray[Any], slowest: float = SLOWEST) -> Dict[str, Any]:
    """What each layer adds to the slowest queries.

    Of layer l with times t, and of what is outside the layers (the wall time less their sum), the excess is the mean of
    t - median(t) over the slowest queries by wall time, and the share is the excess over the sum of all excesses. A
    layer that is quicker in slow queries has a negative share.

    Args:
        ms: float64, shape (queries, layers).
        wall_ms: float64, shape (queries,).
        slowest: Share of the queries, at least one of them.

    Returns:
        `queries`, `slow` (how many are the slowest), `wall`, `outside` and `layers`, which are in the order given. Each
        has `median_ms`, `p999_ms` (as of `bench.stats`; None with fewer than 1000 queries), `max_ms`, `excess_ms`, and,
        all but `wall`, `share`, which add up to 1 (None where no query is slower than another). The excess of `wall` is
        that over its own median; since medians do not add up, it is near the sum of the others and not the same.
    """
    queries, count = len(wall_ms), max(math.ceil(slowest * len(wall_ms)), 1)
    slow = np.argsort(wall_ms, kind="stable")[-count:]
    columns = np.column_stack([ms, wall_ms - ms.sum(axis=1)])
    excess = (columns[slow] - np.median(columns, axis=0)).mean(axis=0)
    total = float(excess.sum())
    spread = bool(wall_ms.max() > wall_ms.min()) and total > 0
    found: List[Dict[str, Any]] = [
        {**_figures(column), "excess_ms": more, "share": more / total if spread else None}
        for column, more in zip(columns.T, excess.tolist())
    ]
    wall = {**_figures(wall_ms), "excess_ms": float((wall_ms[slow] - np.median(wall_ms)).mean())}
    return {"queries": queries, "slow": count, "wall": wall, "outside": found[-1], "layers": found[:-1]}


def _figures(values: npt.NDArray[Any]) -> Dict[str, Any]:
    high = stats.percentile(values, 99.9) if len(values) >= _P999 else None
    return {"median_ms": float(np.median(values)), "p999_ms": high, "max_ms": float(values.max())}
