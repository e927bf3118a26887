"""`optimize bench --load`: the standard loads of MLPerf LoadGen, in a pass of their own after the times were taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from bench import loadgen
from bench.rounds import Target, environment
from engines import scratch
from engines.errors import OptimizeError, UsageError
from engines.spec import Progress

_KNOWN = ", ".join(loadgen.SCENARIOS)


class Loads(NamedTuple):
    """What is asked.

    Attributes:
        scenarios: Of `bench.loadgen.SCENARIOS`.
        duration_s, qps, latency_s: See `bench.loadgen.measure`.
    """

    scenarios: Tuple[str, ...]
    duration_s: float = loadgen.DURATION_S
    qps: Optional[float] = None
    latency_s: float = loadgen.LATENCY_S


def loads(words: Iterable[str], duration_s: float, qps: Optional[float], latency_s: float) -> Optional[Loads]:
    """Read what was typed; None where no load is asked for.

    Raises:
        UsageError: An unknown scenario, or a number that is not positive.
    """
    scenarios = tuple(dict.fromkeys(name for word in words for name in word.split(",") if name))
    for name in scenarios:
        if name not in loadgen.SCENARIOS:
            raise UsageError(f"--load {name}: {_KNOWN} are known", "for example --load offline,server")
    if not scenarios:
        return None
    if duration_s <= 0 or latency_s <= 0 or (qps is not None and not 0 < qps < float("inf")):
        raise UsageError("--load-duration, --load-latency and --load-qps must be more than 0")
    return Loads(scenarios, duration_s, qps, latency_s)


def check(asked: Loads, batches: Sequence[int]) -> None:
    """Refuse, before minutes of measuring, what could not be measured after them.

    Raises:
        IncompatibleError: LoadGen is not installed.
        UsageError: A scenario asks single images, and batch 1 is not measured.
    """
    loadgen.require()
    for scenario in asked.scenarios:
        if not _batches(scenario, batches):
            raise UsageError(f"--load {scenario} asks one image at a time", "measure batch 1 too: --batch 1,64")


def _batches(scenario: str, batches: Sequence[int]) -> List[int]:
    """At which of the measured batches a scenario runs: of single images, of several, or of as many as there are."""
    if scenario in ("single-stream", "server"):
        return [batch for batch in batches if batch == 1]
    if scenario == "offline":
        return [max(batches)]
    return [batch for batch in batches if batch > 1] or list(batches)


def add(
    targets: Sequence[Tuple[Target, Sequence[Dict[str, Any]]]],
    asked: Loads,
    out: Optional[Path],
    data: str,
    progress: Progress,
) -> List[Tuple[str, str]]:
    """Put LoadGen's findings under `load` of the rows, in place.

    Args:
        targets: Each with its rows, whose figures tell LoadGen what to expect; it is opened anew for each scenario.
        asked: Scenarios and their settings.
        out: The run file, beside which LoadGen's logs are kept, in `<name>.loadgen`; None keeps none.
        data: Test images to feed, or empty.
        progress: Told the targets done.

    Returns:
        (target, message) of what failed.
    """
    failures: List[Tuple[str, str]] = []
    with scratch.folder() as folder:
        logs = Path(folder) if out is None else out.with_name(f"{out.stem}.loadgen")
        for index, (target, rows) in enumerate(targets):
            progress("standard loads", index, len(targets))
            own = {row["batch"]: row for row in rows}
            for scenario, batch in [(s, b) for s in asked.scenarios for b in (_batches(s, list(own)) if own else ())]:
                label = f"{target.label}, {scenario}"
                where = logs / re.sub(r"[^\w.-]+", "-", f"{label}-{batch}")
                given = (target.spec, scenario, batch, where, own[batch], *asked[1:], data)
                try:
                    found = loadgen.measure(*given, env=environment(target.spec))
                except OptimizeError as error:
                    failures.append((f"{label} batch {batch}", error.message))
                    continue
                found["logs"] = None if out is None else where.relative_to(out.parent).as_posix()
                own[batch].setdefault("load", []).append(found)
        progress("standard loads", len(targets), len(targets))
    return failures
