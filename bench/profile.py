"""Where a model's time goes: each layer's, beside that of a whole query, and a trace of it for Perfetto."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np

from engines.spec import Progress, RunnerSpec, quiet


def measure(
    spec: Dict[str, Any],
    batch: int,
    queries: int = 50,
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Time the layers of an engine or original: a stage for a child process.

    Args:
        spec: RunnerSpec as JSON.
        batch: Images in a query.
        queries: Queries that tell their layers; as many are timed as a whole, without that.
        data, seed: See `bench.inputs.feeds`.
        progress: Told what is measured.

    Returns:
        `batch`, `queries`, `query_ms` (median of a whole query that tells nothing), `layers_ms` (sum of the layers),
        `statistic` (of their times: `median` or `mean`), and `layers` in the order they run: `name`, `type`,
        `precision`, `ms`, `share` of their sum.

    Raises:
        UsageError: The model does not tell its layers, or takes another batch only.
    """
    import engines
    from bench import loop
    from bench.inputs import feeds

    with engines.open(RunnerSpec.from_json(spec)) as runner:
        given = feeds(runner, batch, data, seed)
        progress("whole queries", 0, 2)
        query = runner.bind(given)
        whole = float(np.median(loop.measure(query, 0.2, 0.0, queries))) / 1e6
        del query
        progress("single layers", 1, 2)
        layers, statistic = runner.profile(given, queries), runner.profiled
        progress("single layers", 2, 2)
    total = sum(layer["ms"] for layer in layers)
    shares = [{**layer, "share": layer["ms"] / total if total else 0.0} for layer in layers]
    about = {"batch": batch, "queries": queries, "query_ms": whole, "layers_ms": total}
    return {**about, "statistic": statistic, "layers": shares}


def trace(found: Dict[str, Any]) -> Dict[str, Any]:
    """What `measure` found, as a trace that Perfetto and chrome://tracing open.

    Backends tell how long a layer takes and not when it begins: one query is laid out layer behind layer.
    Source: "Trace Event Format" (complete events, `ph` X; times in microseconds).
    """
    events: List[Dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": str(found["name"])}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": f"layers, batch {found['batch']}"}},
    ]
    start = 0.0
    for layer in found["layers"]:
        about = {"type": layer["type"], "precision": layer["precision"], "share": round(layer["share"], 6)}
        us = 1e3 * layer["ms"]
        kind = layer["type"] or "layer"
        events.append(
            {"ph": "X", "pid": 1, "tid": 1, "name": layer["name"], "cat": kind, "ts": start, "dur": us, "args": about}
        )
        start += us
    told = {key: found[key] for key in ("name", "backend", "batch", "queries", "query_ms", "layers_ms")}
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {**told, "note": f"{found['statistic']}s over the queries, laid out layer behind layer"},
    }
