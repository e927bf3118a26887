"""What a target uses of the machine at each batch: how busy it keeps what computes, and the memory it takes.

CPU time and memory are read in the child before and after the timed loop, never during it. How busy a GPU says it is
can only be sampled, which is done in a pass of its own.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from bench.telemetry.loads import Load
from bench.telemetry.sampling import HZ, Sampler, joules
from engines import child
from engines.spec import RunnerSpec

SECONDS = 5.0
"""Of queries of each batch while a GPU is watched: NVML's own samples are up to a second long."""


class Moment(NamedTuple):
    """Wall clock and CPU time of this process, of all its threads, in nanoseconds."""

    wall: int
    cpu: int


def noting(moments: List[Moment]) -> Callable[[], None]:
    """What adds the moment of its call to a list."""
    return lambda: moments.append(Moment(time.perf_counter_ns(), time.process_time_ns()))


def memory(gpu: bool = False) -> Dict[str, Optional[int]]:
    """Memory of this process in bytes.

    Args:
        gpu: Ask NVIDIA's library too.

    Returns:
        `rss`, `peak_rss` (highest so far; None elsewhere than on Linux) and `gpu` (None where it is not told).

    The peak is /proc/self/status' VmHWM: getrusage(2)'s ru_maxrss starts at what the parent had when it forked.
    """
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", _text("/proc/self/status"), re.MULTILINE))
    rss = int(found["VmRSS"]) * 1024 if "VmRSS" in found else None
    if rss is None:
        import psutil

        rss = int(psutil.Process().memory_info().rss)
    from bench.telemetry import nvml

    return {
        "rss": rss,
        "peak_rss": int(found["VmHWM"]) * 1024 if "VmHWM" in found else None,
        "gpu": nvml.own_bytes(nvml.gpus()) if gpu else None,
    }


def cpus(threads: int) -> int:
    """CPUs that may compute at once: the threads asked for, else as many as this process may run on."""
    return threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def cell(
    marks: Sequence[Moment],
    memories: Sequence[Mapping[str, Optional[int]]],
    threads: int,
) -> Dict[str, Any]:
    """The raw readings of one batch in one round.

    Args:
        marks: Start and end of the timed loop.
        memories: Of `memory`, before the model was opened, when the batch was bound, after it was measured.
        threads: See `cpus`.
    """
    start, end = marks
    before, bound, after = memories
    return {
        "wall_s": (end.wall - start.wall) / 1e9,
        "cpu_s": (end.cpu - start.cpu) / 1e9,
        "threads": cpus(threads),
        "rss_before_bytes": before["rss"],
        "rss_bound_bytes": bound["rss"],
        "rss_measured_bytes": after["rss"],
        "peak_rss_bytes": after["peak_rss"],
        "gpu_bound_bytes": bound["gpu"],
        "gpu_measured_bytes": after["gpu"],
    }


_BYTES = ("rss_before_bytes", "rss_bound_bytes", "rss_measured_bytes", "gpu_bound_bytes", "gpu_measured_bytes")


def of_row(
    rounds: Sequence[Mapping[str, Any]], device: Optional[Mapping[str, Any]], on: Optional[str]
) -> Optional[Dict[str, Any]]:
    """What a row used, of the readings of its rounds; None where there are none.

    Args:
        rounds: Of a row, with what `cell` gave as `usage`.
        device: The row's quantities by events.
        on: Where an original ran; None for an engine.

    Returns:
        `busy`: sum of the compute times over the wall time, and `busy_by`, whose: `events` of the GPU in trtexec's
        pass, else `cpu time` over `threads`, which counts threads that spin as well; None where a GPU computes and has
        no events. `cpus`: CPUs kept busy on average. Bytes are medians over the rounds, the peak is the highest;
        `memory_delta_bytes` is what the process has grown by, from before opening to after measuring.
    """
    found = [entry["usage"] for entry in rounds if entry.get("usage")]
    if not found:
        return None
    busy_cpus = statistics.median(one["cpu_s"] / one["wall_s"] for one in found)
    threads = found[-1]["threads"]
    busy: Optional[float] = None if on == "gpu" else busy_cpus / threads
    by = None if on == "gpu" else "cpu time"
    if device is not None:
        wall = device["host_walltime_s"]
        busy, by = (device["gpu_compute_total_s"] / wall if wall > 0 else None), "events"
    sizes = {name: _median([one[name] for one in found]) for name in _BYTES}
    grown = [
        one["rss_measured_bytes"] - one["rss_before_bytes"]
        for one in found
        if None not in (one["rss_measured_bytes"], one["rss_before_bytes"])
    ]
    return {
        "busy": busy,
        "busy_by": by,
        "cpus": busy_cpus,
        "threads": threads,
        **sizes,
        "memory_delta_bytes": _median(grown),
        "peak_rss_bytes": max((one["peak_rss_bytes"] for one in found if one["peak_rss_bytes"]), default=None),
    }


def watch(
    spec: RunnerSpec,
    batches: Sequence[int],
    gpus: Sequence[Load],
    warmup_s: float = 0.2,
    seconds: float = SECONDS,
    data: str = "",
    seed: int = 0,
    env: Optional[Mapping[str, str]] = None,
    hz: float = HZ,
) -> Dict[int, Dict[str, Any]]:
    """Watch the GPUs while a target queries without a pause at each batch.

    Args:
        spec: How to open it.
        batches: Images in a query.
        gpus: Of this machine.
        warmup_s, seconds: Of queries of each batch, not counted and counted.
        data, seed: See `bench.inputs.feeds`.
        env: Environment variables of the child.
        hz: Samples a second.

    Returns:
        By batch, of the GPU that was the busiest: `sensor`, `gpu_utilisation`, `gpu_memory_utilisation`,
        `gpu_used_bytes`, `gpu_limited` (means over the time; None where it was not told all the time).

    Raises:
        OptimizeError: The target cannot be opened.
    """
    rails = {f"{place} {name}": rail for place, one in enumerate(gpus) for name, rail in one.gauges.items()}
    with Sampler([rail._replace(name=name) for name, rail in rails.items()], hz) as sampler:
        ask = {"spec": spec.to_json(), "batches": list(batches), "warmup_s": warmup_s, "seconds": seconds}
        done = child.call("bench.energy:drive", {**ask, "data": data, "seed": seed}, env=env)
    found = {}
    for one in done:
        start, end = one["start"], one["end"]
        # the integral of a gauge over time, as of a power, by the time is its mean
        total = {name: joules(rail, sampler.samples[name], start, end) for name, rail in rails.items()}
        means = {name: None if value is None else value / (end - start) for name, value in total.items()}
        told = [
            {"sensor": load.name, **{gauge: means.get(f"{place} {gauge}") for gauge in GAUGES}}
            for place, load in enumerate(gpus)
        ]
        found[int(one["batch"])] = max(told, key=lambda one: one["gpu_utilisation"] or 0.0)
    return found


GAUGES = ("gpu_utilisation", "gpu_memory_utilisation", "gpu_used_bytes", "gpu_limited")

UNWATCHED: Dict[str, Any] = dict.fromkeys(("sensor", *GAUGES))
"""Of a row whose target does not compute on a GPU that tells how busy it is."""


def add(row: Dict[str, Any], watched: Mapping[str, Any]) -> None:
    """Put what was watched into a row's `usage`, in place: it tells how busy a GPU was that has no events."""
    usage = row["usage"]
    if usage is None:  # a run that an earlier version began
        return
    usage.update(watched)
    if usage["busy"] is None and watched["gpu_utilisation"] is not None:
        usage.update(busy=watched["gpu_utilisation"], busy_by=watched["sensor"])


def _median(values: Sequence[Optional[int]]) -> Optional[int]:
    known: List[int] = [value for value in values if value is not None]
    return int(statistics.median(known)) if known else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
