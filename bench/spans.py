"""trtexec's loop and quantities: spans of the copies and of the computation by events, for a backend that has them.

Definitions are those of TensorRT's samples/common/sampleInference.cpp and sampleReporting.cpp, 8.5 to 10. The wall time
of `bench.loop` is another quantity and stands beside it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Protocol, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from engines import jsonfile
from engines.errors import DamagedError, OptimizeError, UsageError

_UNSTABLE_PERCENT = (((10, 16), 2.5), ((0, 0), 1.0))
"""Coefficient of variation of the compute time from which trtexec calls it unstable: from 10.16 on, and before."""

_TRTEXEC = {
    "transfers": (True, "--noDataTransfers", False, "--includeDataTransfers"),
    "graph": (False, "--useCudaGraph", True, "--noCudaGraph"),
    "spin": (False, "--useSpinWait", True, "--noSpinWait"),
}
"""How trtexec measures unless told, and the word that tells it otherwise: of 8 to 10, then of 11."""

ENQUEUE_SHARE = 0.8
"""Median enqueue over median compute from which trtexec says that throughput is bound by the enqueue time."""

METRICS = ("latency_ms", "enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms")

PERCENTILES = (90, 95, 99)


class Spans(NamedTuple):
    """When a query's parts began and ended, ms after the loop's start on the GPU's clock.

    Without transfers the ends of the copies lie on those of the computation, as in trtexec.
    """

    h2d_start: float
    h2d_end: float
    compute_start: float
    compute_end: float
    d2h_start: float
    d2h_end: float


class Slot(Protocol):
    """One query in flight: its events; two slots share the buffers and the streams."""

    def start(self) -> Any:
        """Note the loop's start on the GPU; `spans` counts from it."""
        ...

    def enqueue(self) -> Tuple[int, int]:
        """Queue copies and computation; host times in ns around the computation's call."""
        ...

    def synchronize(self) -> None:
        """Wait until the query is done."""
        ...

    def spans(self, origin: Any) -> Tuple[float, ...]:
        """The times of the query that was waited for, in the order of `Spans`."""
        ...


@dataclass(frozen=True)
class Trace:
    """What a loop measured after its warm-up.

    Attributes:
        batch: Images of a query.
        spans: float64, shape (queries, 6), columns as in `Spans`, ms.
        enqueue: float64, shape (queries,), ms of host time.
        warmup: Queries that were dropped.
        how: `transfers`, `graph`, `spin` and `slots`; `tensorrt` is the version that ran, where there is one.
    """

    batch: int
    spans: npt.NDArray[Any]
    enqueue: npt.NDArray[Any]
    warmup: int
    how: Dict[str, Any]


def measure(
    slots: Sequence[Slot],
    batch: int,
    warmup_ms: float = 200,
    duration_s: float = 3,
    iterations: int = 10,
    idle_ms: float = 0,
    how: Dict[str, Any] = {},  # noqa: B006  (read only)
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Trace:
    """Run trtexec's loop: query i + 1 is queued before query i is waited for, where there are two slots.

    It goes on while fewer than `iterations` queries came after the warm-up, or the GPU's clock is below
    `duration_s` plus the warm-up. Queries whose computation began during the warm-up are dropped.

    Args:
        slots: One or more.
        batch: Images of a query.
        warmup_ms: On the GPU's clock.
        duration_s: After the warm-up.
        iterations: At least.
        idle_ms: Sleep between queries.
        how: Kept in the trace.
        clock: Host time, ns; for a loop that never ends by the GPU's clock.

    Raises:
        UsageError: No slot, no iteration, or a negative time.
        OptimizeError: The GPU's clock stands still.
    """
    if not slots or iterations < 1 or warmup_ms < 0 or duration_s < 0 or idle_ms < 0:
        raise UsageError("a slot, an iteration and times of 0 or more are needed")
    limit = 1e3 * duration_s + warmup_ms
    deadline = clock() + int(1e9 * (60 + 10 * (duration_s + warmup_ms / 1e3)))
    origin = slots[0].start()
    found: List[Spans] = []
    enqueue: List[float] = []
    flight: List[Tuple[Slot, float]] = []
    elapsed, count, skipped = 0.0, 0, 0

    def finish() -> float:
        slot, cost = flight.pop(0)
        slot.synchronize()
        times = Spans(*slot.spans(origin))
        found.append(times)
        enqueue.append(cost)
        return times.compute_start

    while count < iterations + skipped or elapsed < limit:
        slot = slots[count % len(slots)]
        begun, ended = slot.enqueue()
        flight.append((slot, (ended - begun) / 1e6))
        if len(flight) == len(slots):
            elapsed = max(elapsed, finish())
        if elapsed < warmup_ms:
            skipped += 1
        if idle_ms and elapsed >= warmup_ms:
            time.sleep(idle_ms / 1e3)
        count += 1
        if clock() > deadline:
            raise OptimizeError("the events of the GPU do not advance: its clock stands still")
    while flight:
        finish()
    spans = np.array(found, np.float64)
    kept = spans[:, 2] >= warmup_ms
    return Trace(batch, spans[kept], np.array(enqueue, np.float64)[kept], int((~kept).sum()), dict(how))


def percentile(ordered: npt.NDArray[Any], percent: float) -> float:
    """trtexec's: an index into sorted values, computed in float32, not interpolated."""
    count = len(ordered)
    excluded = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    return float(ordered[max(count - 1 - excluded, 0)])


def metric(values: npt.NDArray[Any]) -> Dict[str, float]:
    """min, max, mean, median (mean of the middle two) and the percentiles of one quantity, sorted by itself; ms."""
    ordered = np.sort(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
        "mean": float(ordered.mean()),
        "median": float(median),
        **{f"p{p}": percentile(ordered, p) for p in PERCENTILES},
    }


def summary(trace: Trace) -> Dict[str, Any]:
    """The quantities of trtexec's performance summary: the `device` of a run's row.

    Returns:
        `mode` (trt10: transfers and no graph; trt11: its defaults; else other), `how`, `queries`, each of `METRICS` as
        `metric` gives it, `throughput_qps`, `images_per_s`, `host_walltime_s` (by GPU events, despite trtexec's name),
        `gpu_compute_total_s`, `variation_percent` of the compute time, `warnings`, `flags` (those of the same trtexec).

    Raises:
        OptimizeError: No query came after the warm-up.
    """
    if not len(trace.spans):
        raise OptimizeError("no query came after the warm-up", "a longer --duration")
    spans = trace.spans
    parts = {"h2d_ms": spans[:, 1] - spans[:, 0], "compute_ms": spans[:, 3] - spans[:, 2]}
    parts["d2h_ms"] = spans[:, 5] - spans[:, 4]
    parts["latency_ms"] = parts["h2d_ms"] + parts["compute_ms"] + parts["d2h_ms"]
    parts["enqueue_ms"] = trace.enqueue
    found = {name: metric(parts[name]) for name in METRICS}
    wall_s = float(spans[-1, 5] - spans[0, 0]) / 1e3
    compute = parts["compute_ms"]
    variation = float(compute.std() / compute.mean() * 100) if compute.mean() > 0 else 0.0
    return {
        "mode": mode(trace.how),
        "how": dict(trace.how),
        "queries": len(spans),
        **found,
        "throughput_qps": len(spans) / wall_s if wall_s > 0 else None,
        "images_per_s": len(spans) * trace.batch / wall_s if wall_s > 0 else None,
        "host_walltime_s": wall_s,
        "gpu_compute_total_s": found["compute_ms"]["mean"] * len(spans) / 1e3,
        "variation_percent": variation,
        "warnings": warnings(found, variation, trace.how),
        "flags": equivalent_flags(trace.how),
    }


def mode(how: Dict[str, Any]) -> str:
    """`trt10` where a loop ran as trtexec 8 to 10 does by default, `trt11` as 11 does, else `other`."""
    asked = (bool(how.get("transfers", True)), bool(how.get("graph", False)), bool(how.get("spin", False)))
    return {(True, False, False): "trt10", (False, True, True): "trt11"}.get(asked, "other")


def warnings(found: Dict[str, Dict[str, float]], variation: float, how: Dict[str, Any]) -> List[str]:
    """trtexec's warnings: bound by the enqueue, by a copy, or an unstable compute time."""
    median = {name: found[name]["median"] for name in METRICS}
    out = []
    if median["enqueue_ms"] > ENQUEUE_SHARE * median["compute_ms"]:
        out.append("throughput may be bound by the enqueue time: try --cuda-graph")
    if how.get("transfers", True):
        for name, words in (("h2d_ms", "host to device"), ("d2h_ms", "device to host")):
            if median[name] >= median["compute_ms"]:
                out.append(f"throughput may be bound by the copy from {words}")
    if unstable(variation, how):
        out.append(f"the compute time is unstable, its coefficient of variation is {variation:.4g}%: lock the clocks")
    return out


def unstable(variation_percent: float, how: Dict[str, Any]) -> bool:
    """Whether the trtexec of the same version calls a compute time unstable that varies so much."""
    return variation_percent >= next(percent for since, percent in _UNSTABLE_PERCENT if version(how) >= since)


def version(how: Dict[str, Any]) -> Tuple[int, int]:
    """Major and minor version of the TensorRT that ran a loop; 10.3 where it is not known."""
    found = re.match(r"(\d+)\.(\d+)", str(how.get("tensorrt") or "10.3"))
    return (int(found.group(1)), int(found.group(2))) if found else (10, 3)


def equivalent_flags(how: Dict[str, Any]) -> List[str]:
    """The words with which the trtexec of the same version measures the same."""
    out = []
    for name, (before, word, since, other) in _TRTEXEC.items():
        usual, flag = (since, other) if version(how) >= (11, 0) else (before, word)
        out += [flag] if bool(how.get(name, before)) != usual else []
    return out + (["--exposeDMA"] if how.get("slots", 2) == 1 else [])


_EXPORT = ("startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs", "endD2hMs")
_EXPORT_8_2 = ("startInMs", "endInMs", "startComputeMs", "endComputeMs", "startOutMs", "endOutMs")
"""Up to 8.2 the copies have other names, and the file begins with the queries of the warm-up."""


def read_export(path: Path, batch: int = 1, warmup_ms: float = 0.0) -> Trace:
    """Read the JSON of `trtexec --exportTimes`.

    Args:
        path: The file.
        batch: Images of a query; trtexec does not tell.
        warmup_ms: As trtexec was given it: queries that began before are dropped from the files that have them, those
            of TensorRT 8.2 and older.

    Raises:
        DamagedError: It is not such a file, or nothing came after the warm-up.
        FileNotFoundError: No such file.
    """
    try:
        entries = jsonfile.loads(Path(path).read_text(encoding="utf-8"))
        old = bool(entries) and _EXPORT_8_2[0] in entries[0]
        keys = _EXPORT_8_2 if old else _EXPORT
        spans = np.array([[float(one[key]) for key in keys] for one in entries], np.float64)
        enqueue = np.array([float(one["endEnqMs"]) - float(one["startEnqMs"]) for one in entries], np.float64)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DamagedError(
            f"{path}: not the times of trtexec --exportTimes ({type(error).__name__}: {error})"
        ) from None
    if not len(spans) or not np.isfinite(spans).all() or not np.isfinite(enqueue).all():
        raise DamagedError(f"{path}: no times in it")
    kept = spans[:, 2] >= (warmup_ms if old else -np.inf)
    if not kept.any():
        raise DamagedError(f"{path}: no query began after the warm-up of {warmup_ms:g} ms")
    return Trace(batch, spans[kept], enqueue[kept], int((~kept).sum()), {"imported": True})
