"""Very many queries of one target, for the tail of its times: one fresh process, every sample and when it began.

The samples come back as a binary file: as JSON lines of a child they would cost more than the measuring.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from bench.rounds import Target, environment
from engines import child, scratch
from engines.errors import UsageError
from engines.spec import Progress, RunnerSpec, quiet

if TYPE_CHECKING:
    from bench.usage import Moment

SAMPLES, MOST = 100_000, 5_000_000
"""Samples by default, and at most: a run file takes 50 bytes for each, and is read up to `engines.jsonfile.LIMIT`."""

WARMUP_S = 1.0
"""Seconds of queries before the first that is kept: longer than for medians, since what settles late is in the tail."""

_LOOK_S = 0.2
"""Seconds of looking at the machine before and after."""


class Long(NamedTuple):
    """Result of `measure_many`.

    Attributes:
        load_ms: Opening the model and binding the batch.
        first_ms: The first query of the process, cold.
        samples_ns: Wall time of each query after the warm-up, int64, shape (samples,), in order.
        starts_ns: When each began, after the first of them, int64, shape (samples,), rising. Once a second there is a
            gap (see `bench.loop.measure_many`).
        started: UTC, when the target was opened.
        achieved: Layers by precision.
        usage: See `bench.usage.cell`.
        flags: Of the runner and of the machine meanwhile, in words.
        on: cpu or gpu, where an original ran; else empty.
        before, after: State of the machine.
    """

    load_ms: float
    first_ms: float
    samples_ns: npt.NDArray[Any]
    starts_ns: npt.NDArray[Any]
    started: str
    achieved: Dict[str, int]
    usage: Dict[str, Any]
    flags: List[str]
    on: str
    before: Dict[str, Any]
    after: Dict[str, Any]


def measure_many(
    spec: RunnerSpec,
    batch: int,
    samples: int = SAMPLES,
    warmup_s: float = WARMUP_S,
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
) -> Long:
    """Query a target in a fresh process, one query at a time.

    Interrupted, it leaves nothing: a tail pieced together from two processes is that of neither.

    Args:
        spec: How to open it.
        batch: Images in a query.
        samples: Queries that are kept.
        warmup_s: Seconds of queries before them.
        data, seed: See `bench.inputs.feeds`.
        progress: Told once a second, between queries.

    Raises:
        UsageError: More samples than a run file holds, or several streams.
        OptimizeError: The target cannot be opened, or has died.
    """
    from bench.telemetry import state as machine

    if not 1 <= samples <= MOST:
        raise UsageError(f"--samples {samples}: 1 to {MOST} are possible", f"for example --samples {SAMPLES}")
    if int(spec.options.get("streams", 1)) > 1:
        raise UsageError(f"{spec.path}: the tail is that of one query at a time", "leave --streams out")
    with scratch.folder() as folder:
        out = Path(folder, "samples.npy")
        ask = {"spec": spec.to_json(), "batch": batch, "samples": samples, "warmup_s": warmup_s, "out": str(out)}
        before = machine.state(sample_s=_LOOK_S)
        done = child.call("bench.longrun:drive", {**ask, "data": data, "seed": seed}, progress, environment(spec))
        after = machine.state(sample_s=_LOOK_S)
        times, starts = np.load(str(out), allow_pickle=False)
    flags = list(dict.fromkeys([*machine.flags(before, after), *done["flags"]]))
    return Long(
        done["load_ns"] / 1e6,
        done["first_ns"] / 1e6,
        times,
        starts,
        done["started"],
        done["achieved"],
        done["usage"],
        flags,
        done["on"],
        before,
        after,
    )


def drive(
    spec: Dict[str, Any],
    batch: int,
    samples: int,
    warmup_s: float,
    out: str,
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Open a target, measure it, and write the samples and their starts to `out` as `.npy`: the child's part.

    Returns:
        `load_ns`, `first_ns`, `started`, `achieved`, `usage`, `flags`, `on`: see `Long`.

    Raises:
        OptimizeError: The target cannot be opened.
    """
    import engines
    from bench import loop, usage
    from bench.inputs import feeds

    asked = RunnerSpec.from_json(spec)
    marks: List[Moment] = []
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    empty = usage.memory()
    clock = time.perf_counter_ns
    begun = clock()
    with engines.open(asked) as runner:
        opened = clock() - begun
        given = feeds(runner, batch, data, seed)
        begun = clock()
        query = runner.bind(given)
        load = opened + clock() - begun
        bound = usage.memory()
        progress("queries", 0, samples)
        found = loop.measure_many(
            query, samples, warmup_s, usage.noting(marks), lambda done: progress("queries", done, samples)
        )
        progress("queries", samples, samples)
        used = usage.cell(marks, (empty, bound, usage.memory()), asked.threads)
        del query
        flags, on, achieved = list(getattr(runner, "flags", ())), runner.device, runner.achieved()
    np.save(out, np.stack([found.samples, found.starts]))
    return {
        "load_ns": load,
        "first_ns": found.first,
        "started": started,
        "achieved": achieved,
        "usage": used,
        "flags": flags,
        "on": on,
    }


def row(target: Target, batch: int, found: Long, interference: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """A row of a run (`bench.runs.row`), with `first_ms`, `interference` and, in its one round, `starts_ms`.

    Args:
        target: What was measured.
        batch: Images in a query.
        found: What `measure_many` has measured of it.
        interference: What ran beside it (`bench.interference.interfering`). The machine was busy with that then, and
            is not flagged for it.
    """
    from bench import runs

    entry = {
        "order": 0,
        "round": 0,
        "started": found.started,
        "load_ms": found.load_ms,
        "first_ms": found.first_ms,
        "samples_ms": runs.milliseconds(found.samples_ns),
        "starts_ms": [round(value / 1e6, 3) for value in found.starts_ns.tolist()],
        "device": None,
        "usage": found.usage,
        "flags": [flag for flag in found.flags if flag != "busy" or not interference],
        "on": found.on,
    }
    one = runs.row(target, batch, [entry], found.achieved or target.achieved)
    return {**one, "first_ms": found.first_ms, "interference": interference}
