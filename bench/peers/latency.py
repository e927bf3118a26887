"""Latencies of what the quantisers wrote: all of them in one run, then the fastest of the others against ours alone.

Of seven graphs that are equally fast one comes out ahead by luck. So that choosing does not decide the ratio, the one
chosen is measured again beside ours, and only those rounds speak of it. In each of them both processes are there at
once and run in slices of time (`bench.peers.slices`), so that a machine whose speed changes changes it for both.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

import engines
from bench import loop, stats
from bench.inputs import feeds
from bench.peers import slices
from bench.peers.contenders import Settings
from bench.rounds import Target, run
from engines.errors import OptimizeError
from engines.spec import Progress, RunnerSpec, quiet

Row = Dict[str, Any]

STAGE = "bench.peers.latency:queries"

_WARM_S = 0.2


def measure(rows: Sequence[Row], layout: str, precision: str, settings: Settings, progress: Progress) -> None:
    """Give each row `latency`: medians by round at every batch; and `latency_failed` where one could not be measured.

    Args:
        rows: With `name`, `ir` (OpenVINO IR) and `ir_bytes`.
        layout: Of the input.
        precision: Of the layers that are not INT8.
        settings: Rounds, seconds and batches.
        progress: Told what is measured.
    """
    if not rows:
        return
    done = run(
        [_target(row, layout, precision) for row in rows],
        settings.batches,
        settings.rounds,
        0.2,
        settings.seconds,
        seed=settings.seed,
        progress=progress,
    )
    for row in rows:
        row["latency"] = {
            str(one["batch"]): {
                "medians_ms": _medians(one),
                "p50_ms": one["p50_ms"],
                "p99_ms": one["p99_ms"],
                "achieved": one["achieved"],
                "flags": one["flags"],
            }
            for one in done.rows
            if one["target"] == row["name"]
        }
        said = [message for name, message in done.failures if name.startswith(row["name"])]
        if said:
            row["latency_failed"] = said[0]


def again(ours: Row, rows: Sequence[Row], layout: str, precision: str, settings: Settings, progress: Progress) -> None:
    """Measure ours and the fastest of the others once more, at each batch; that row gets `again` {batch: `ratio`}.

    Args:
        ours: Our row.
        rows: Those of the others, with `ratios`.
        layout, precision, settings, progress: See `measure`.
    """
    for batch in settings.batches:
        name = f"latency_b{batch}"
        known = [row for row in rows if name in row.get("ratios", {})]
        if not known:
            continue
        best = min(known, key=lambda row: float(row["ratios"][name]["ratio"]))
        calls = [
            (STAGE, {"spec": _spec(row, layout, precision).to_json(), "batch": batch, "seconds": settings.seconds})
            for row in (best, ours)  # each waits half of the time: processes differ by more than their queries do
        ]
        pairs: List[List[float]] = []
        try:
            for number in range(settings.again):
                progress(f"{best['name']} beside ours, batch {batch}: rounds", number, settings.again)
                turn = 1 if number % 2 == 0 else -1
                pairs.append(slices.measure(calls[::turn])[::turn])
        except OptimizeError as error:
            best["latency_failed"] = error.message
            continue
        best.setdefault("again", {})[str(batch)] = {
            **slices.ratio(*zip(*pairs)),
            "range": [min(a / b for a, b in pairs), max(a / b for a, b in pairs)],
            "rounds": len(pairs),
            "pairs": pairs,
        }


def queries(spec: Dict[str, Any], batch: int, seconds: float, progress: Progress = quiet) -> float:
    """Time an engine in `slices.measure`: a child's part of `again`.

    Returns:
        Median wall time of a query, in ms.
    """
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        query = runner.bind(feeds(runner, batch))
        warm = loop.measure(query, _WARM_S, 0.0)
        slices.ready(float(np.median(warm)) / 1e6, progress)
        return float(np.median(loop.measure(query, 0.0, seconds))) / 1e6


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Dict[str, Any]:
    """Ratio of medians with its 90% interval (None with few rounds), the range of the single pairs, and the pairs."""
    pairs = list(zip(theirs, ours))
    found = stats.ratio_interval([[a] for a, _ in pairs], [[b] for _, b in pairs], paired=True)
    single = [a / b for a, b in pairs]
    interval = None if found.low is None else [found.low, found.high]
    ends = {"interval": interval, "range": [min(single), max(single)]}
    return {"ratio": found.ratio, **ends, "rounds": len(pairs), "pairs": [list(pair) for pair in pairs]}


def _target(row: Row, layout: str, precision: str) -> Target:
    spec = _spec(row, layout, precision)
    return Target(row["name"], "engine", "", "int8", "openvino", {}, row["ir_bytes"], spec)


def _spec(row: Row, layout: str, precision: str) -> RunnerSpec:
    options = {"inference_precision": precision}
    return RunnerSpec(row["ir"], "onnx", layout=layout, backend="openvino", options=options)


def _medians(one: Row) -> List[float]:
    return [float(np.median(entry["samples_ms"])) for entry in one["rounds"]]
