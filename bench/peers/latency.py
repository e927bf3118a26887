"""Latencies of what the quantisers wrote: all of them in one run, then the fastest of the others against ours alone.

Of seven graphs that are equally fast one comes out ahead by luck. So that choosing does not decide the ratio, the one
chosen is measured again beside ours, and only those rounds speak of it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from bench import stats
from bench.peers.contenders import Settings
from bench.rounds import Target, run
from engines.spec import Progress, RunnerSpec

Row = Dict[str, Any]


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
        pair = [_target(row, layout, precision) for row in (best, ours)]
        done = run(pair, [batch], settings.again, 0.2, settings.seconds, seed=settings.seed, progress=progress)
        medians = {one["target"]: _medians(one) for one in done.rows}
        if len(medians) == 2:
            best.setdefault("again", {})[str(batch)] = ratio(medians[best["name"]], medians[ours["name"]])


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Dict[str, Any]:
    """Ratio of medians with its 90% interval (None with few rounds), the range of the single pairs, and the pairs."""
    pairs = list(zip(theirs, ours))
    found = stats.ratio_interval([[a] for a, _ in pairs], [[b] for _, b in pairs], paired=True)
    single = [a / b for a, b in pairs]
    interval = None if found.low is None else [found.low, found.high]
    ends = {"interval": interval, "range": [min(single), max(single)]}
    return {"ratio": found.ratio, **ends, "rounds": len(pairs), "pairs": [list(pair) for pair in pairs]}


def _target(row: Row, layout: str, precision: str) -> Target:
    options = {"inference_precision": precision}
    spec = RunnerSpec(row["ir"], "onnx", layout=layout, backend="openvino", options=options)
    return Target(row["name"], "engine", "", "int8", "openvino", {}, row["ir_bytes"], spec)


def _medians(one: Row) -> List[float]:
    return [float(np.median(entry["samples_ms"])) for entry in one["rounds"]]
