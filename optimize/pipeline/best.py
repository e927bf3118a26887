"""`--precision best`: the fastest built candidate that passes the gate, by measuring on this machine."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Mapping

from engines import child
from engines.errors import GateError, OptimizeError
from engines.spec import Progress, RunnerSpec, quiet
from optimize.pipeline import engine
from optimize.pipeline.options import CANDIDATES, BuildOptions
from optimize.pipeline.results import Built, unchanged
from optimize.pipeline.stages import Workspace

_ROUNDS = 3
"""Fresh processes per candidate, alternating: enough to order candidates that differ by more than noise."""


def make_best(make: Callable[[str], Built], options: BuildOptions, space: Workspace, progress: Progress) -> Built:
    """Build the candidates, drop those that fail to build or to pass their gate, and keep the fastest of the rest.

    The fastest has the smallest geometric mean over the batches of its median latency. INT8 is a candidate only where
    data or a calibration cache was given. What was measured is kept like any stage: a second run chooses the same.

    Raises:
        GateError: No candidate passes.
        OptimizeError: None could be built.
    """
    built: List[Built] = []
    failed: List[OptimizeError] = []
    untried: Dict[str, str] = {}
    for name in CANDIDATES:
        if name == "int8" and not (options.data or options.calibration_cache):
            untried[name] = "not tried, it needs --data"
            continue
        try:
            built.append(make(name))
        except OptimizeError as error:
            failed.append(error)
            untried[name] = f"could not be built ({error.message})"
    if not built:
        raise failed[0]
    passing = [b for b in built if b.manifest["gate"] is None or b.manifest["gate"]["passed"]]
    if not passing:
        raise GateError("no candidate of `best` passes the gate", "a wider --max-drop")
    times = rank(
        space,
        "best",
        {b.precision: RunnerSpec(path=str(b.path), kind="bundle") for b in passing},
        {b.precision: [b.manifest["build_key"], b.manifest["files"]] for b in passing},
        options,
        progress,
    )
    chosen = min(passing, key=lambda b: times[b.precision])
    about = {
        **chosen.manifest,
        "precision": "best",
        "name": chosen.manifest["name"].rsplit("-", 1)[0] + "-best",
        "chosen": {
            "precision": chosen.precision,
            "log_ms": times,
            "reformats": {b.precision: b.manifest["options"].get("reformats") for b in passing},
            "qdq": {b.precision: b.manifest["options"].get("qdq") for b in passing},
            "failed": [b.precision for b in built if b not in passing],
            "untried": untried,
        },
    }
    bundle = chosen.path.with_name("best" + chosen.path.name[len(chosen.precision) :])
    reused = unchanged(bundle, about)
    if not reused:
        engine.publish(chosen.path, [f["path"] for f in about["files"]], about, bundle)
    return Built(bundle, "best", about, reused)


def rank(
    space: Workspace,
    name: str,
    specs: Mapping[str, RunnerSpec],
    engines: Mapping[str, Any],
    options: BuildOptions,
    progress: Progress,
) -> Dict[str, float]:
    """How fast candidates are, by name, the smaller the faster: measured once for these engines (see `measure`).

    Args:
        space: Keeps what was measured.
        name: Of the stage.
        specs: How each is opened.
        engines: Files and hashes of each.
        options: Batches, and whether to measure again.
        progress: Told what happens.
    """
    found: Dict[str, float] = space.run(
        name,
        "optimize.pipeline.best:measure",
        {"specs": {key: spec.to_json() for key, spec in specs.items()}, "batches": list(options.batches)},
        {"engines": dict(engines), "batches": list(options.batches)},
        progress,
        force=options.force,
    )["log_ms"]
    return found


def measure(specs: Dict[str, Dict[str, Any]], batches: List[int], progress: Progress = quiet) -> Dict[str, Any]:
    """Time candidates in fresh processes, in turns: a stage for a child process.

    Returns:
        `log_ms`: by name the median over rounds of the mean over batches of log(median latency / ms).
    """
    times: Dict[str, List[float]] = {name: [] for name in specs}
    for turn in range(_ROUNDS):
        for name in list(specs) if turn % 2 == 0 else list(specs)[::-1]:
            progress("measuring the candidates", sum(map(len, times.values())), _ROUNDS * len(specs))
            times[name].append(_latency(specs[name], batches, turn))
    return {"log_ms": {name: sorted(values)[_ROUNDS // 2] for name, values in times.items()}}


def _latency(spec: Dict[str, Any], batches: List[int], seed: int) -> float:
    from bench.stats import summary

    arguments: Dict[str, Any] = {
        "spec": spec,
        "batches": batches,
        "warmup_s": 0.2,
        "duration_s": 0.5,
        "iterations": 10,
        "seed": seed,
    }
    done = child.call("bench.rounds:measure_target", arguments)
    if done["failed"]:
        raise OptimizeError(f"{spec['path']}: {done['failed'][0]['message']}")
    return sum(math.log(summary(c["samples_ms"])["p50_ms"]) for c in done["cells"]) / len(done["cells"])
