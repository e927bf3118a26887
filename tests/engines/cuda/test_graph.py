"""Work of a stream recorded and launched again."""

from __future__ import annotations

from typing import Any, List

import numpy as np
import pytest

from engines import cuda
from engines.errors import OptimizeError

pytestmark = pytest.mark.tensorrt


def test_a_graph_runs_the_recorded_work_again(gpu: cuda.Context, fake: Any) -> None:
    source, target, buffer, stream = gpu.host(2, np.float32), gpu.host(2, np.float32), gpu.allocate(8), gpu.stream()

    def work() -> None:
        gpu.to_device(buffer.address, source.array, stream)
        fake.enqueue(stream, lambda: fake.floats(buffer).__imul__(2))
        gpu.to_host(target.array, buffer.address, stream)

    graph = gpu.capture(stream, work)
    assert fake.lib.fakecuda_pending() == 0  # recorded, not queued
    for value in (1.0, 7.0):
        source.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert target.array.tolist() == [2 * value] * 2


def test_a_graph_takes_in_work_forked_to_another_stream(gpu: cuda.Context, fake: Any) -> None:
    main, side, fork, join = gpu.stream(), gpu.stream(), gpu.event(), gpu.event()
    order: List[str] = []

    def work(joins: bool = True) -> None:
        fork.record(main)
        side.wait(fork)
        fake.enqueue(side, lambda: order.append("side"))
        if joins:
            join.record(side)
            main.wait(join)
        fake.enqueue(main, lambda: order.append("main"))

    graph = gpu.capture(main, work)
    graph.launch(main)
    main.synchronize()
    assert order == ["side", "main"]
    with pytest.raises(cuda.CudaError, match="unjoined"):
        gpu.capture(main, lambda: work(joins=False))
    side.synchronize()  # neither stream is left in capture
    main.synchronize()


@pytest.mark.parametrize("forbidden", ["allocate", "synchronize", "wait", "pageable", "raise"])
def test_work_that_cannot_be_captured_leaves_the_stream_usable(gpu: cuda.Context, fake: Any, forbidden: str) -> None:
    stream, host, buffer = gpu.stream(), gpu.host(1, np.float32), gpu.allocate(4)

    def work() -> None:
        gpu.to_device(buffer.address, host.array, stream)
        if forbidden == "allocate":
            gpu.allocate(4)
        elif forbidden == "synchronize":
            stream.synchronize()
        elif forbidden == "wait":
            gpu.synchronize()
        elif forbidden == "pageable":
            gpu.to_device(buffer.address, np.zeros(1, np.float32), stream)
        else:
            raise OptimizeError("no such layer")

    with pytest.raises(OptimizeError, match="no such layer" if forbidden == "raise" else "captur"):
        gpu.capture(stream, work)
    host.array[:] = 3
    gpu.to_device(buffer.address, host.array, stream)
    stream.synchronize()
    assert fake.floats(buffer)[0] == 3


@pytest.mark.parametrize("where", ["begin", "end", "instantiate"])
def test_a_driver_that_cannot_capture(gpu: cuda.Context, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", where)
    stream = gpu.stream()
    with pytest.raises(cuda.CudaError):
        gpu.capture(stream, lambda: None)
    stream.synchronize()


def test_a_graph_that_does_not_launch(gpu: cuda.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = gpu.stream()
    graph = gpu.capture(stream, lambda: None)
    monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", "launch")
    with pytest.raises(cuda.CudaError, match="not supported"):
        graph.launch(stream)
