"""Energy of a target's queries: a pass of its own, since reading a board's sensors disturbs what is timed.

The machine is watched while it idles and while a child process queries without a pause; the child tells the moments
between which it did. What it draws above idle is what the queries cost.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Optional, Sequence

from bench.telemetry.rails import Rail, whole
from bench.telemetry.sampling import HZ, Sampler, joules
from engines import child
from engines.errors import IncompatibleError
from engines.spec import Progress, RunnerSpec, quiet

IDLE_S = 2.0
"""Seconds of watching the idle machine before each target."""

SECONDS = 5.0
"""Of queries of each batch: long beside the period of the samples."""


def drive(
    spec: Dict[str, Any],
    batches: Sequence[int],
    warmup_s: float,
    seconds: float,
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
) -> List[Dict[str, Any]]:
    """Query a target at each batch without a pause: the child's part.

    Returns:
        For each batch `batch`, `start` and `end` (by `time.monotonic`) and `queries`.

    Raises:
        OptimizeError: The target cannot be opened.
    """
    import engines
    from bench.inputs import feeds

    found = []
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        for batch in batches:
            query = runner.bind(feeds(runner, batch, data, seed))
            ready = time.monotonic() + warmup_s
            query()
            while time.monotonic() < ready:
                query()
            start, queries = time.monotonic(), 0
            end = start
            while end - start < seconds:
                query()
                queries += 1
                end = time.monotonic()
            found.append({"batch": batch, "start": start, "end": end, "queries": queries})
    return found


def require(rails: Sequence[Rail]) -> List[Rail]:
    """The rails that tell what the machine draws.

    Raises:
        IncompatibleError: None does, and what to do.
    """
    able = whole(rails)
    if able:
        return able
    names = ", ".join(rail.name for rail in rails)
    if names:
        raise IncompatibleError(
            f"energy cannot be measured: {names} cannot be read",
            "run as root, or: sudo chmod -R a+r /sys/class/powercap/intel-rapl:*/energy_uj",
        )
    raise IncompatibleError(
        "energy cannot be measured: this machine has no power sensor that is known here",
        "leave --energy out; on a desktop GPU: pip install nvidia-ml-py",
    )


def measure(
    spec: RunnerSpec,
    batches: Sequence[int],
    rails: Sequence[Rail],
    warmup_s: float = 0.2,
    seconds: float = SECONDS,
    idle_s: float = IDLE_S,
    data: str = "",
    seed: int = 0,
    env: Optional[Dict[str, str]] = None,
    hz: float = HZ,
) -> Dict[int, Dict[str, Any]]:
    """Energy of one target at each batch.

    Args:
        spec: How to open it.
        batches: Images in a query.
        rails: All of the machine; those that are `whole` are added up.
        warmup_s, seconds: Of queries of each batch, not counted and counted.
        idle_s: Of watching the idle machine.
        data, seed: See `bench.inputs.feeds`.
        env: Environment variables of the child.
        hz: Samples a second.

    Returns:
        By batch: `rail` (names of those added up), `watts`, `idle_watts`, `joules_per_image` and
        `joules_above_idle_per_image`, `images_per_joule` (of the whole draw), `rails` (watts of every rail that told
        them), `seconds`, `images`, `hz`. The numbers are None where a rail vanished meanwhile.

    Raises:
        IncompatibleError: No rail can be read.
        OptimizeError: The target cannot be opened.
    """
    able = require(rails)
    with Sampler(rails, hz) as idle:
        time.sleep(idle_s)
    with Sampler(rails, hz) as sampler:
        ask = {"spec": spec.to_json(), "batches": list(batches), "warmup_s": warmup_s, "seconds": seconds}
        done = child.call("bench.energy:drive", {**ask, "data": data, "seed": seed}, env=env)
    quiet_watts = [_mean(rail, idle.samples[rail.name]) for rail in able]
    found = {}
    for one in done:
        start, end, images = one["start"], one["end"], one["batch"] * one["queries"]
        drawn = {rail.name: joules(rail, sampler.samples[rail.name], start, end) for rail in rails}
        total = _sum([drawn[rail.name] for rail in able])
        base = _sum(quiet_watts)
        above = None if total is None or base is None else total - base * (end - start)
        found[int(one["batch"])] = {
            "rail": " + ".join(rail.name for rail in able),
            "watts": None if total is None else total / (end - start),
            "idle_watts": base,
            "joules_per_image": None if total is None else total / images,
            "joules_above_idle_per_image": None if above is None else above / images,
            "images_per_joule": images / total if total else None,
            "rails": {name: value / (end - start) for name, value in drawn.items() if value is not None},
            "seconds": end - start,
            "images": images,
            "hz": hz,
        }
    return found


def _mean(rail: Rail, samples: Sequence[Any]) -> Optional[float]:
    """Watts over all samples."""
    if len(samples) < 2:
        return None
    start, end = samples[0][0], samples[-1][0]
    total = joules(rail, samples, start, end)
    return None if total is None else total / (end - start)


def _sum(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
