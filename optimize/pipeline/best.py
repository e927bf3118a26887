"""`--precision best`: the fastest built candidate that passes the gate, by measuring on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from engines import child
from engines.device import DeviceKey
from engines.errors import GateError
from engines.spec import Progress, RunnerSpec
from optimize.pipeline import engine
from optimize.pipeline.build import Built
from optimize.pipeline.options import CANDIDATES, BuildOptions

_ROUNDS = 3
"""Fresh processes per candidate, alternating: enough to order candidates that differ by more than noise."""


def make_best(
    make: Callable[[str, Path], Built], options: BuildOptions, key: DeviceKey, out: Path, progress: Progress
) -> Built:
    """Build the candidates, drop those that fail their gate, measure the rest at each batch and keep the fastest.

    The fastest has the smallest geometric mean over the batches of its median latency. INT8 is a candidate only where
    data was given.

    Raises:
        GateError: No candidate passes.
    """
    names = [c for c in CANDIDATES if c != "int8" or options.data]
    built = [make(name, out) for name in names]
    passing = [b for b in built if b.manifest["gate"] is None or b.manifest["gate"]["passed"]]
    if not passing:
        raise GateError("no candidate of `best` passes the gate", "a wider --max-drop")
    times: Dict[str, List[float]] = {b.precision: [] for b in passing}
    for turn in range(_ROUNDS):
        for one in passing if turn % 2 == 0 else passing[::-1]:
            progress(f"measuring {one.precision}", turn, _ROUNDS)
            times[one.precision].append(_latency(one, options.batches, turn))
    chosen = min(passing, key=lambda b: sorted(times[b.precision])[_ROUNDS // 2])
    about = {
        **chosen.manifest,
        "precision": "best",
        "name": chosen.manifest["name"].rsplit("-", 1)[0] + "-best",
        "chosen": {"precision": chosen.precision, "log_ms": {k: sorted(v)[_ROUNDS // 2] for k, v in times.items()}},
    }
    bundle = out / engine.bundle_name("best", key.backend, key.version, key.compute_capability)
    engine.publish(chosen.path, [f["path"] for f in about["files"]], about, bundle)
    return Built(bundle, "best", about, False)


def _latency(one: Built, batches: Tuple[int, ...], seed: int) -> float:
    """Mean over the batches of log(median latency / ms), in a fresh process."""
    import math

    from bench.stats import summary

    spec = RunnerSpec(path=str(one.path), kind="bundle")
    arguments: Dict[str, Any] = {
        "spec": spec.to_json(),
        "batches": list(batches),
        "warmup_s": 0.2,
        "duration_s": 0.5,
        "iterations": 10,
        "seed": seed,
    }
    cells = child.call("bench.rounds:measure_target", arguments)["cells"]
    return sum(math.log(summary(c["samples_ms"])["p50_ms"]) for c in cells) / len(cells)
