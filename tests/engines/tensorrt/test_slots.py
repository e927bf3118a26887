from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest

from bench import spans
from engines.cuda import Event
from engines.errors import OptimizeError, UsageError
from tests.engines.tensorrt.plans import close, expected, images, opened, plan

pytestmark = pytest.mark.tensorrt


@pytest.fixture
def onnx_file(graph_file: Callable[..., Path]) -> Path:
    return graph_file()


@pytest.fixture
def folder(trt: Any, surface: str, onnx_file: Path, tmp_path: Path) -> Path:
    """Holds `model.plan`, which serves batch 1 and 4."""
    plan(surface, onnx_file, tmp_path)
    return tmp_path


def results(slot: Any) -> Dict[str, np.ndarray]:
    """What the slots' last query left on the host, or on the device where nothing was copied."""
    binding = slot._binding
    return {tensor.name: host.array for tensor, host in zip(binding.plan.outputs, binding.outputs)}


@pytest.mark.parametrize("graph", [False, True], ids=["calls", "graph"])
@pytest.mark.parametrize("spin", [False, True], ids=["sleep", "spin"])
@pytest.mark.parametrize("io", ["copy", "zero-copy"])
def test_a_query_gives_ordered_spans_and_the_right_answer(
    folder: Path, onnx_file: Path, io: str, graph: bool, spin: bool
):
    feeds = images(4)
    with opened(folder, io=io) as runner:
        slots = runner.slots(feeds, graph=graph, spin=spin)
        assert len(slots) == 2 and runner.flags == []
        origin = slots[0].start()
        for host in slots[0]._binding.outputs:
            host.array[:] = np.nan
        for slot in slots:
            begun, ended = slot.enqueue()
            assert begun <= ended
        for slot in slots:
            slot.synchronize()
            times = slot.spans(origin)
            assert len(times) == 6 and list(times) == sorted(times) and times[0] >= 0
        close(results(slots[0]), expected(onnx_file, feeds))


def test_queries_are_in_the_order_of_their_queueing(folder: Path):
    with opened(folder) as runner:
        first, second = runner.slots(images(4))
        origin = first.start()
        first.enqueue()
        second.enqueue()
        first.synchronize()
        second.synchronize()
        one, two = spans.Spans(*first.spans(origin)), spans.Spans(*second.spans(origin))
        assert one.compute_end <= two.compute_start and one.d2h_end <= two.d2h_start


@pytest.mark.parametrize("graph", [False, True], ids=["calls", "graph"])
def test_without_transfers_the_copies_ends_lie_on_the_computations(folder: Path, onnx_file: Path, graph: bool):
    feeds = images(1)
    with opened(folder) as runner:
        (slot,) = runner.slots(feeds, count=1, transfers=False, graph=graph)
        origin = slot.start()
        for host in slot._binding.outputs:
            host.array[:] = -1
        slot.enqueue()
        slot.synchronize()
        times = spans.Spans(*slot.spans(origin))
        assert times.h2d_start == times.h2d_end == times.compute_start <= times.compute_end
        assert times.d2h_start == times.d2h_end == times.compute_end
        assert (results(slot)["scores"] == -1).all()  # nothing was copied
        slot._binding.copy_out(slot._binding.stream)
        slot._binding.stream.synchronize()
        close(results(slot), expected(onnx_file, feeds))  # and yet it was computed


def test_nothing_is_copied_where_the_device_reads_in_place(folder: Path):
    with opened(folder, io="zero-copy") as runner:
        (slot,) = runner.slots(images(1), count=1)
        origin = slot.start()
        slot.enqueue()
        slot.synchronize()
        times = spans.Spans(*slot.spans(origin))
        assert times.h2d_start == times.compute_start and times.compute_end == times.d2h_end


@pytest.mark.parametrize("graph", [False, True], ids=["calls", "graph"])
def test_slots_and_queries_of_one_batch_do_not_mix(folder: Path, onnx_file: Path, graph: bool):
    """They share an execution context, and each has buffers of its own."""
    mine, other = images(4, 1), images(4, 2)
    with opened(folder) as runner:
        (slot,) = runner.slots(mine, count=1, graph=graph)
        query = runner.bind(other)
        origin = slot.start()
        for seed in (3, 4):
            close(query(), expected(onnx_file, other))
            slot._binding.inputs[0].array[:] = images(4, seed)["image"]
            slot.enqueue()
            slot.synchronize()
            assert slot.spans(origin)[5] > 0
            close(results(slot), expected(onnx_file, images(4, seed)))


def test_without_the_wait_spans_cannot_be_read_and_the_answer_is_missing(
    folder: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
):
    with opened(folder) as runner:
        (slot,) = runner.slots(images(1), count=1)
        origin = slot.start()
        for host in slot._binding.outputs:
            host.array[:] = np.nan
        monkeypatch.setattr(Event, "synchronize", lambda self: None)
        slot.enqueue()
        slot.synchronize()
        with pytest.raises(OptimizeError):
            slot.spans(origin)
        assert np.isnan(results(slot)["scores"]).all()


@pytest.mark.parametrize("missing", ["compute", "target"])
def test_streams_that_do_not_wait_for_each_other_give_a_wrong_answer(
    folder: Path, onnx_file: Path, missing: str, monkeypatch: pytest.MonkeyPatch
):
    feeds = images(4)
    with opened(folder) as runner:
        (slot,) = runner.slots(feeds, count=1)
        binding, streams = slot._binding, slot._streams
        slot.start()
        binding.inputs[0].array[:] = images(4, 7)["image"]  # what a query that waits would compute on
        for host in binding.outputs:
            host.array[:] = np.nan
        broken = streams[1 if missing == "compute" else 2]
        wait = type(broken).wait
        monkeypatch.setattr(type(broken), "wait", lambda self, event: None if self is broken else wait(self, event))
        slot.enqueue()
        if missing == "compute":  # the computation is ready first
            streams[1].synchronize()
        streams[2].synchronize()
        got = results(slot)["scores"].copy()
        runner.gpu.synchronize()
        assert not np.allclose(got, expected(onnx_file, images(4, 7))["scores"])


@pytest.mark.parametrize("where", ["begin", "end", "instantiate"])
def test_what_cannot_be_captured_is_called(folder: Path, onnx_file: Path, where: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", where)
    with opened(folder) as runner:
        (slot,) = runner.slots(images(1), count=1, graph=True)
        assert runner.flags == ["no-cuda-graph"]
        slot.start()
        slot.enqueue()
        slot.synchronize()
        close(results(slot), expected(onnx_file, images(1)))


@pytest.mark.parametrize("how", [{}, {"transfers": False, "graph": True, "spin": True}], ids=["trt10", "trt11"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_loop_measures_them(folder: Path, onnx_file: Path, how: Dict[str, bool], count: int):
    feeds = images(4)
    with opened(folder) as runner:
        slots = runner.slots(feeds, count=count, **how)
        trace = spans.measure(slots, 4, warmup_ms=2, duration_s=0.01, iterations=5, how={**how, "slots": count})
        found = spans.summary(trace)
        assert found["queries"] >= 5 and found["mode"] == ("trt11" if how else "trt10")
        assert (np.diff(trace.spans, axis=1) >= 0).all()
        assert (np.diff(trace.spans[:, 2]) >= 0).all()
        assert found["images_per_s"] == pytest.approx(4 * found["throughput_qps"])
        again = spans.measure(slots, 4, warmup_ms=0, duration_s=0, iterations=3)
        assert len(again.spans) >= 3


def test_no_slot_is_refused(folder: Path):
    with opened(folder) as runner, pytest.raises(UsageError, match="0 slots"):
        runner.slots(images(1), count=0)
