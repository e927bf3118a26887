from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import spans
from engines.errors import DamagedError, OptimizeError, UsageError

HOW = {"transfers": True, "graph": False, "spin": False, "slots": 2}


class Gpu:
    """A virtual GPU: one queue of computations, a clock in ms that moves only when somebody waits."""

    def __init__(self, compute: Callable[[int], float] = lambda i: 10.0, frozen: bool = False) -> None:
        self.compute, self.frozen = compute, frozen
        self.now = self.free = 0.0
        self.log: List[Tuple[str, int]] = []
        self.queries = 0

    def slots(self, count: int) -> List[FakeSlot]:
        return [FakeSlot(self, n) for n in range(count)]


class FakeSlot:
    """H2D of 1 ms, computation, D2H of 2 ms; the host spends 0.5 ms on each call."""

    def __init__(self, gpu: Gpu, number: int) -> None:
        self.gpu, self.number = gpu, number
        self.times: Tuple[float, ...] = ()
        self.waiting = False

    def start(self) -> float:
        self.gpu.log.append(("start", self.number))
        return self.gpu.now

    def enqueue(self) -> Tuple[int, int]:
        gpu = self.gpu
        assert not self.waiting, "its events would be recorded anew before they were read"
        self.waiting = True
        gpu.log.append(("enqueue", self.number))
        begun = 0.0 if gpu.frozen else max(gpu.now + 1, gpu.free)
        done = 0.0 if gpu.frozen else begun + gpu.compute(gpu.queries)
        self.times = (begun - 1, begun, begun, done, done, done + 2)
        gpu.free = done
        gpu.queries += 1
        return 1_000_000, 1_500_000

    def synchronize(self) -> None:
        self.gpu.log.append(("wait", self.number))
        self.waiting = False
        self.gpu.now = max(self.gpu.now, self.times[5])

    def spans(self, origin: float) -> Tuple[float, ...]:
        assert not self.waiting
        return tuple(time - origin for time in self.times)


def single(value: float) -> float:
    """Rounded to float32."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def transcribed(ordered: List[float], percent: float) -> float:
    """findPercentile of sampleReporting.cpp, an operation a line, each rounded to a C float.

    exclude = static_cast<int>((1 - percentage / 100) * all), then the value at max(all - 1 - exclude, 0).
    """
    ratio = single(single(percent) / single(100))
    left = single(1 - ratio)
    exclude = math.trunc(single(left * single(len(ordered))))
    return ordered[max(len(ordered) - 1 - exclude, 0)]


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=500),
    st.one_of(st.sampled_from(spans.PERCENTILES), st.integers(0, 100)),
)
def test_percentile_is_trtexecs_index_in_float32(values: List[float], percent: int):
    ordered = sorted(values)
    assert spans.percentile(np.array(ordered), percent) == transcribed(ordered, percent)


@pytest.mark.parametrize(
    ("count", "percent", "index"),
    [(1, 99, 0), (10, 90, 8), (10, 99, 9), (100, 90, 89), (100, 95, 94), (100, 99, 99), (1000, 99, 990)],
)
def test_percentiles_worked_by_hand(count: int, percent: int, index: int):
    """1 - 0.9f is 0.100000024 in float32, so exactly a tenth is left out; 1 - 0.99f is 0.00999999, so of 100 none."""
    assert spans.percentile(np.arange(count, dtype=float), percent) == index


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_a_metric_is_sorted_by_itself(values: List[float]):
    found = spans.metric(np.array(values))
    assert found["min"] == min(values) and found["max"] == max(values)
    assert found["median"] == pytest.approx(float(np.median(values)))
    assert found["mean"] == pytest.approx(float(np.mean(values)))
    assert found["min"] <= found["median"] <= found["max"]
    assert found["p90"] <= found["p95"] <= found["p99"] <= found["max"]


def test_the_summary_of_three_queries_worked_by_hand():
    table = np.array(
        [
            # h2d       compute   d2h
            [100, 101, 101, 111, 111, 113],
            [104, 106, 111, 123, 123, 126],  # waits for the first computation: a gap that no span holds
            [112, 113, 123, 131, 131, 132],
        ],
        np.float64,
    )
    found = spans.summary(spans.Trace(8, table, np.array([0.3, 0.1, 0.2]), 4, HOW))
    assert found["mode"] == "trt10" and found["how"] == HOW and found["queries"] == 3
    expected: Dict[str, Tuple[float, ...]] = {  # min, max, mean, median
        "h2d_ms": (1, 2, 4 / 3, 1),
        "compute_ms": (8, 12, 10, 10),
        "d2h_ms": (1, 3, 2, 2),
        "latency_ms": (10, 17, 40 / 3, 13),
        "enqueue_ms": (0.1, 0.3, 0.2, 0.2),
    }
    for name, (least, most, mean, median) in expected.items():
        one = found[name]
        assert (one["min"], one["max"], one["median"]) == (least, most, median)
        assert one["mean"] == pytest.approx(mean)
        assert one["p90"] == one["p95"] == one["p99"] == most  # 10% of 3 leaves none out
    assert found["host_walltime_s"] == pytest.approx(0.032)
    assert found["throughput_qps"] == pytest.approx(3 / 0.032)
    assert found["images_per_s"] == pytest.approx(24 / 0.032)
    assert found["gpu_compute_total_s"] == pytest.approx(0.030)
    assert found["variation_percent"] == pytest.approx((8 / 3) ** 0.5 / 10 * 100)
    assert len(found["warnings"]) == 1 and "unstable" in found["warnings"][0] and "16.33%" in found["warnings"][0]
    assert found["flags"] == []
    json.dumps(found)


def test_without_transfers_the_wall_time_is_that_of_the_computations():
    table = np.array([[5, 5, 5, 7, 7, 7], [7, 7, 7, 9, 9, 9]], np.float64)
    found = spans.summary(spans.Trace(1, table, np.array([0.1, 0.1]), 0, {**HOW, "transfers": False}))
    assert found["h2d_ms"]["max"] == found["d2h_ms"]["max"] == 0
    assert found["latency_ms"] == found["compute_ms"]
    assert found["host_walltime_s"] == pytest.approx(0.004)
    assert found["warnings"] == []


def test_a_summary_of_nothing_is_refused_and_of_no_time_has_no_throughput():
    with pytest.raises(OptimizeError, match="no query came after the warm-up"):
        spans.summary(spans.Trace(1, np.empty((0, 6)), np.empty(0), 3, HOW))
    found = spans.summary(spans.Trace(1, np.zeros((2, 6)), np.zeros(2), 0, HOW))
    assert found["throughput_qps"] is None and found["images_per_s"] is None and found["variation_percent"] == 0


def test_with_two_slots_the_next_query_is_queued_before_the_last_is_waited_for():
    gpu = Gpu()
    trace = spans.measure(gpu.slots(2), 4, warmup_ms=0, duration_s=0, iterations=5, how=HOW)
    assert gpu.log == [
        ("start", 0),
        *[("enqueue", 0), ("enqueue", 1), ("wait", 0), ("enqueue", 0), ("wait", 1), ("enqueue", 1), ("wait", 0)],
        *[("enqueue", 0), ("wait", 1), ("wait", 0)],
    ]
    assert trace.spans.shape == (5, 6) and trace.warmup == 0 and trace.batch == 4 and trace.how == HOW
    np.testing.assert_array_equal(trace.spans[:, 3] - trace.spans[:, 2], 10)
    np.testing.assert_array_equal(np.diff(trace.spans[:, 2]), 10)  # the GPU never idles
    np.testing.assert_array_equal(trace.enqueue, 0.5)


def test_with_one_slot_each_query_is_waited_for():
    gpu = Gpu()
    trace = spans.measure(gpu.slots(1), 1, warmup_ms=0, duration_s=0, iterations=3)
    assert gpu.log == [("start", 0), *[("enqueue", 0), ("wait", 0)] * 3]
    np.testing.assert_array_equal(np.diff(trace.spans[:, 2]), 13)  # copies are not hidden


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_goes_on_until_the_gpus_clock_passed_duration_and_warm_up(count: int):
    gpu = Gpu()
    trace = spans.measure(gpu.slots(count), 1, warmup_ms=50, duration_s=0.1, iterations=1)
    starts = np.concatenate([[0.0], trace.spans[:, 2]])
    assert trace.spans[0, 2] >= 50
    late = int((starts >= 150).sum())
    assert 1 <= late <= count  # what was in flight when the loop ended is kept, as in trtexec
    assert len(trace.spans) + trace.warmup == gpu.queries
    assert (trace.spans[:, 2] >= 50).all()


def test_warm_up_counts_extra_to_the_iterations():
    gpu = Gpu()
    trace = spans.measure(gpu.slots(1), 1, warmup_ms=100, duration_s=0, iterations=10)
    dropped = sum(1 + 13 * n < 100 for n in range(gpu.queries))
    assert trace.warmup == dropped == 8
    assert len(trace.spans) == gpu.queries - dropped
    assert len(trace.spans) >= 10


def test_a_query_that_began_at_the_end_of_the_warm_up_is_kept():
    gpu = Gpu()
    trace = spans.measure(gpu.slots(1), 1, warmup_ms=14, duration_s=0, iterations=1)
    assert trace.spans[0, 2] == 14 and trace.warmup == 1


def test_enqueue_times_stay_with_their_queries():
    gpu = Gpu()
    slots = gpu.slots(2)
    cost = iter(range(1, 1000))
    for slot in slots:
        inner = slot.enqueue

        def enqueue(inner: Any = inner) -> Tuple[int, int]:
            inner()
            return 0, next(cost) * 1_000_000

        slot.enqueue = enqueue  # type: ignore[method-assign]
    trace = spans.measure(slots, 1, warmup_ms=25, duration_s=0, iterations=4)
    assert trace.warmup == 3  # began at 1, 11 and 21
    np.testing.assert_array_equal(trace.enqueue, np.arange(4, 4 + len(trace.enqueue)))


def test_idle_time_is_slept_after_the_warm_up_only(monkeypatch: pytest.MonkeyPatch):
    slept: List[float] = []
    monkeypatch.setattr(spans.time, "sleep", slept.append)
    gpu = Gpu()
    spans.measure(gpu.slots(1), 1, warmup_ms=20, duration_s=0, iterations=2, idle_ms=3)
    starts = [1 + 13 * n for n in range(gpu.queries)]
    assert slept == [0.003] * sum(start >= 20 for start in starts)


def test_a_clock_that_stands_still_ends_in_an_error():
    host = iter(range(0, 10**14, 10**9))  # a second each time
    gpu = Gpu(frozen=True)
    with pytest.raises(OptimizeError, match="clock stands still"):
        spans.measure(gpu.slots(2), 1, clock=lambda: next(host))
    assert 60 <= gpu.queries < 200


def test_a_query_that_fails_is_the_loops_failure():
    gpu = Gpu()
    slots = gpu.slots(2)

    def fail() -> None:
        raise OptimizeError("the device fell over")

    slots[1].synchronize = fail  # type: ignore[method-assign]
    with pytest.raises(OptimizeError, match="fell over"):
        spans.measure(slots, 1)


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"warmup_ms": -1}, {"duration_s": -0.1}, {"idle_ms": -1}, {"slots": []}]
)
def test_a_loop_that_makes_no_sense_is_refused(wrong: Dict[str, Any]):
    with pytest.raises(UsageError):
        spans.measure(**{"slots": Gpu().slots(2), "batch": 1, **wrong})


def medians(**values: float) -> Dict[str, Dict[str, float]]:
    base = {"latency_ms": 12.0, "enqueue_ms": 1.0, "h2d_ms": 1.0, "compute_ms": 10.0, "d2h_ms": 1.0}
    return {name: {"median": values.get(name, value)} for name, value in base.items()}


@pytest.mark.parametrize(
    ("values", "variation", "words"),
    [
        ({}, 0.0, []),
        ({"enqueue_ms": 8.0}, 0.0, []),  # more than 0.8, not as much
        ({"enqueue_ms": 8.001}, 0.0, ["enqueue"]),
        ({"h2d_ms": 9.999}, 0.0, []),
        ({"h2d_ms": 10.0}, 0.0, ["host to device"]),  # as much is enough here
        ({"d2h_ms": 9.999}, 0.0, []),
        ({"d2h_ms": 10.0}, 0.0, ["device to host"]),
        ({}, 0.999, []),
        ({}, 1.0, ["unstable"]),
        ({"enqueue_ms": 20.0, "h2d_ms": 20.0, "d2h_ms": 20.0}, 5.0, ["enqueue", "host to", "device to", "unstable"]),
    ],
)
def test_warnings_at_trtexecs_thresholds(values: Dict[str, float], variation: float, words: List[str]):
    found = spans.warnings(medians(**values), variation, HOW)
    assert len(found) == len(words)
    for word, line in zip(words, found):
        assert word in line


def test_no_warning_of_copies_that_are_not_measured():
    assert spans.warnings(medians(h2d_ms=0, d2h_ms=0, compute_ms=0, enqueue_ms=0), 0, {"transfers": False}) == []


@pytest.mark.parametrize(
    ("how", "mode", "flags"),
    [
        ({}, "trt10", []),
        (HOW, "trt10", []),
        ({**HOW, "slots": 1}, "trt10", ["--exposeDMA"]),
        (
            {"transfers": False, "graph": True, "spin": True, "slots": 2},
            "trt11",
            ["--noDataTransfers", "--useCudaGraph", "--useSpinWait"],
        ),
        ({**HOW, "graph": True}, "other", ["--useCudaGraph"]),
        ({**HOW, "spin": True}, "other", ["--useSpinWait"]),
        ({**HOW, "transfers": False}, "other", ["--noDataTransfers"]),
        ({**HOW, "tensorrt": "8.5.2.2"}, "trt10", []),
        ({**HOW, "tensorrt": "11.4.0.106"}, "trt10", ["--includeDataTransfers", "--noCudaGraph", "--noSpinWait"]),
        ({"transfers": False, "graph": True, "spin": True, "tensorrt": "11.4"}, "trt11", []),
    ],
)
def test_modes_and_trtexecs_words(how: Dict[str, Any], mode: str, flags: List[str]):
    assert spans.mode(how) == mode
    assert spans.equivalent_flags(how) == flags


@pytest.mark.parametrize(("version", "percent"), [("8.5.2.2", 1.0), (None, 1.0), ("10.16.1", 2.5), ("11.4", 2.5)])
def test_unstable_is_what_the_same_trtexec_calls_unstable(version: Any, percent: float):
    usual = medians(h2d_ms=0, d2h_ms=0, compute_ms=9, enqueue_ms=0)
    assert spans.warnings(usual, percent - 0.01, {"tensorrt": version}) == []
    assert "unstable" in spans.warnings(usual, percent, {"tensorrt": version})[0]


def exported(count: int = 3) -> List[Dict[str, float]]:
    """As trtexec writes it; numbers are printed with six digits."""
    out = []
    for n in range(count):
        at = 10.0 * n
        out.append(
            {
                **{"startEnqMs": at + 1.0, "endEnqMs": at + 1.25, "startH2dMs": at, "endH2dMs": at + 1},
                **{"startComputeMs": at + 1, "endComputeMs": at + 8, "startD2hMs": at + 8, "endD2hMs": at + 9},
                **{"h2dMs": 1.0, "computeMs": 7.0, "d2hMs": 1.0, "latencyMs": 9.0},
            }
        )
    return out


def test_times_that_trtexec_exported_give_its_summary(tmp_path: Path):
    path = tmp_path / "times.json"
    path.write_text(json.dumps(exported()), encoding="utf-8")
    trace = spans.read_export(path, 16)
    assert trace.batch == 16 and trace.warmup == 0 and trace.how == {"imported": True}
    found = spans.summary(trace)
    assert found["latency_ms"]["median"] == 9 and found["compute_ms"]["mean"] == 7
    assert found["enqueue_ms"]["median"] == pytest.approx(0.25)
    assert found["host_walltime_s"] == pytest.approx(0.029)
    assert found["images_per_s"] == pytest.approx(48 / 0.029)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[1, 2]",
        "7",
        "null",
        '[{"startH2dMs": 1}]',
        json.dumps(exported())[:-20],
        json.dumps([{**exported()[0], "endComputeMs": "soon"}]),
        json.dumps([{**exported()[0], "endComputeMs": None}]),
        json.dumps([{**exported()[0], "endD2hMs": float("nan")}]),
        json.dumps([{**exported()[0], "endEnqMs": float("inf")}]),
        "\ud800".encode("utf-8", "surrogatepass"),
        '["startH2dMs"]',
        "[" * 100_000,
        json.dumps([dict.fromkeys(exported()[0], 10**400)]),
    ],
)
def test_a_damaged_export_is_refused(text: Any, tmp_path: Path):
    path = tmp_path / "times.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(DamagedError, match=r"times\.json"):
        spans.read_export(path)


def test_an_export_that_is_not_there_is_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        spans.read_export(tmp_path / "none.json")
