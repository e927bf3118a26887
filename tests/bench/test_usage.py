"""What targets use: a real engine in a child, and rows of made-up readings."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from bench import report, rounds, runs, usage
from bench.loop import measure
from bench.telemetry.loads import Load
from bench.telemetry.rails import Rail
from engines import child
from engines.errors import DamagedError
from tests.bench.conftest import spec_of

MB = 1 << 20


def readings(**other: Any) -> Dict[str, Any]:
    found = usage.cell(
        [usage.Moment(0, 0), usage.Moment(2_000_000_000, 3_000_000_000)],
        [
            {"rss": 100 * MB, "peak_rss": 100 * MB, "gpu": None},
            {"rss": 150 * MB, "peak_rss": 150 * MB, "gpu": None},
            {"rss": 160 * MB, "peak_rss": 190 * MB, "gpu": None},
        ],
        threads=2,
    )
    return {"usage": {**found, **other}}


def test_a_thread_that_computes_is_one_cpu() -> None:
    marks: List[usage.Moment] = []
    values = np.arange(2000.0)

    def query() -> Dict[str, Any]:
        return {"y": np.sort(values[::-1])}

    measure(query, 0.0, 0.2, 1, usage.noting(marks))
    one = usage.of_row([{"usage": usage.cell(marks, [usage.memory()] * 3, 1)}], None, None)
    assert one is not None and len(marks) == 2
    assert 0 < one["busy"] <= 1.05 and one["busy_by"] == "cpu time"  # other processes may take the CPU


def test_a_thread_that_sleeps_is_none() -> None:
    marks: List[usage.Moment] = []

    def query() -> Dict[str, Any]:
        time.sleep(0.01)
        return {}

    measure(query, 0.0, 0.2, 1, usage.noting(marks))
    one = usage.of_row([{"usage": usage.cell(marks, [usage.memory()] * 3, 1)}], None, None)
    assert one is not None and one["busy"] < 0.3


def test_memory_that_is_touched_is_counted() -> None:
    before = usage.memory()
    held = np.ones(64 * MB, np.uint8)
    during = usage.memory()
    assert before["rss"] and during["rss"] and before["gpu"] is None
    assert 55 * MB < during["rss"] - before["rss"] < 80 * MB
    del held
    after = usage.memory()
    if after["peak_rss"] is not None:  # elsewhere than on Linux it is not told
        assert after["peak_rss"] > during["rss"] - MB and during["rss"] > (
            after["rss"] or 0
        )  # the kernel counts coarsely


def test_the_threads_asked_for_else_those_allowed() -> None:
    assert usage.cpus(3) == 3
    assert 1 <= usage.cpus(0) <= (os.cpu_count() or 1)


def test_a_row_takes_the_median_of_its_rounds_and_the_highest_peak() -> None:
    found = usage.of_row(
        [readings(cpu_s=1.0), readings(cpu_s=3.0, peak_rss_bytes=300 * MB), readings(cpu_s=3.2)], None, None
    )
    assert found is not None
    assert (found["busy"], found["cpus"], found["threads"]) == (0.75, 1.5, 2)
    assert (found["memory_delta_bytes"], found["peak_rss_bytes"]) == (60 * MB, 300 * MB)
    assert found["rss_bound_bytes"] == 150 * MB and found["gpu_bound_bytes"] is None


def test_a_gpu_is_told_by_its_events_and_without_them_by_what_watched_it() -> None:
    device = {"gpu_compute_total_s": 1.2, "host_walltime_s": 1.5}
    by_events = usage.of_row([readings()], device, None)
    assert by_events is not None and (by_events["busy"], by_events["busy_by"]) == (pytest.approx(0.8), "events")
    row = {"usage": usage.of_row([readings()], None, "gpu")}
    assert row["usage"] is not None and row["usage"]["busy"] is None
    usage.add(row, {**usage.UNWATCHED, "sensor": "GPU 0 by NVML", "gpu_utilisation": 0.9})
    assert (row["usage"]["busy"], row["usage"]["busy_by"]) == (0.9, "GPU 0 by NVML")
    events = {"usage": by_events}
    usage.add(events, {**usage.UNWATCHED, "sensor": "GPU 0 by NVML", "gpu_utilisation": 0.9})
    assert events["usage"]["busy_by"] == "events"


def test_rows_that_were_measured_before_have_none() -> None:
    assert usage.of_row([{"samples_ms": [1.0]}], None, None) is None
    row: Dict[str, Any] = {"usage": None}
    usage.add(row, usage.UNWATCHED)
    assert row == {"usage": None}


def test_every_batch_of_a_real_engine_has_its_readings(model: Path, make_run: Any) -> None:
    asked = {"spec": spec_of(model).to_json(), "batches": [1, 8], "warmup_s": 0.0, "duration_s": 0.1, "iterations": 3}
    done = child.call("bench.rounds:measure_target", asked)
    for one in done["cells"]:
        told = one["usage"]
        assert told["threads"] == 1 and 0 < told["cpu_s"] < 2 * told["wall_s"]
        assert told["wall_s"] >= sum(one["samples_ms"]) / 1e3  # the loop is around the queries
        assert told["rss_measured_bytes"] > told["rss_before_bytes"] > MB  # ONNX Runtime was loaded in between
        assert told["gpu_measured_bytes"] is None
    target = rounds.Target("net", "engine", "", "fp32", "onnxruntime", {}, 1, spec_of(model))
    row = runs.row(target, 8, [{**done["cells"][1], "order": 0, "round": 0}], {})
    assert row["usage"]["memory_delta_bytes"] > MB and row["usage"]["busy_by"] == "cpu time"


def test_a_gpu_is_watched_while_a_target_queries(model: Path) -> None:
    begun = time.monotonic()
    idle = Load("GPU 0 by NVML", {"gpu_utilisation": Rail("load", lambda: 0.01, False)})
    rising = Load(
        "GPU 1 by NVML",
        {
            "gpu_utilisation": Rail("load", lambda: min(1.0, 0.5 + (time.monotonic() - begun) / 1e3), False),
            "gpu_used_bytes": Rail("memory", lambda: 2.0 * MB, False),
        },
    )
    threads = threading.active_count()
    found = usage.watch(spec_of(model), [1, 4], [idle, rising], warmup_s=0.0, seconds=0.3, hz=50)
    assert sorted(found) == [1, 4] and threading.active_count() == threads
    for one in found.values():
        assert one["sensor"] == "GPU 1 by NVML" and one["gpu_used_bytes"] == pytest.approx(2 * MB)
        assert 0.5 < one["gpu_utilisation"] < 0.6 and one["gpu_memory_utilisation"] is None
    assert found[4]["gpu_utilisation"] > found[1]["gpu_utilisation"]


def test_reports_show_it_where_it_was_asked(make_run: Any) -> None:
    run = make_run(batches=(1,))
    for row in run["rows"]:
        row["usage"] = usage.of_row([readings()], None, "gpu" if row["role"] == "original" else None)
    assert "usage:" not in report.FORMATS["md"](run)
    heading, first, *_ = report.FORMATS["csv"](run).splitlines()
    values = dict(zip(heading.split(","), first.split(",")))
    assert (values["busy"], values["busy_by"], values["peak_rss_bytes"]) == ("0.75", "cpu time", str(190 * MB))
    for row in run["rows"]:
        usage.add(row, usage.UNWATCHED)
    runs.validate(run)
    text = report.FORMATS["md"](run)
    assert "int8 int8, usage: 75% busy by cpu time, 1.50 of 2 CPUs, memory grew by 63 MB, peak 199 MB" in text
    assert "net.keras \\* predict fp32, usage: busy share unknown" in text
    assert json.loads(report.FORMATS["json"](run))["rows"][0]["usage"]["busy"] == 0.75


def test_a_damaged_usage_is_refused(make_run: Any) -> None:
    run = make_run(batches=(1,))
    run["rows"][0]["usage"] = {"busy": "much"}
    with pytest.raises(DamagedError, match=r"usage\.busy"):
        runs.validate(run)
