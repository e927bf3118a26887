"""Buffers, streams and events: what runs only when waited for, what is freed, what is refused."""

from __future__ import annotations

import threading
from typing import Any, Callable, List

import numpy as np
import pytest

from engines import cuda

pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.bool_, np.int64, np.dtype([("a", "f4")])])
def test_a_round_trip_keeps_the_bytes(gpu: cuda.Context, dtype: Any) -> None:
    source, target = gpu.host((3, 5), dtype), gpu.host([3, 5], dtype)
    source.array.view(np.uint8)[:] = np.arange(source.array.nbytes).reshape(3, -1) % 2
    buffer, stream = gpu.allocate(source.array.nbytes), gpu.stream()
    gpu.to_device(buffer.address, source.array, stream)
    gpu.to_host(target.array, buffer.address, stream)
    stream.synchronize()
    assert target.array.dtype == np.dtype(dtype)
    assert target.array.tobytes() == source.array.tobytes()


@pytest.mark.parametrize("shape", [(), 0, (0, 3), 7, np.int64(2)])
def test_any_shape_can_be_page_locked(gpu: cuda.Context, shape: Any) -> None:
    assert gpu.host(shape, np.float32).array.shape == np.empty(shape).shape


def test_nothing_happens_before_somebody_waits(gpu: cuda.Context, fake: Any) -> None:
    source, target = gpu.host(4, np.float32), gpu.host(4, np.float32)
    source.array[:] = [1, 2, 3, 4]
    buffer, stream = gpu.allocate(16), gpu.stream()
    assert np.isnan(fake.floats(buffer)).all()
    gpu.to_device(buffer.address, source.array, stream)
    gpu.to_host(target.array, buffer.address, stream)
    assert fake.lib.fakecuda_pending() == 2
    assert np.isnan(target.array).all()  # what a missing synchronize would have given
    stream.synchronize()
    assert target.array.tolist() == [1, 2, 3, 4]


def test_a_page_locked_source_is_read_when_the_copy_runs_and_a_pageable_one_at_once(gpu: cuda.Context) -> None:
    for source, seen in ((gpu.host(2, np.float32).array, 9), (np.empty(2, np.float32), 1)):
        buffer, stream, target = gpu.allocate(8), gpu.stream(), gpu.host(2, np.float32)
        source[:] = 1
        gpu.to_device(buffer.address, source, stream)
        source[:] = 9
        gpu.to_host(target.array, buffer.address, stream)
        stream.synchronize()
        assert target.array.tolist() == [seen, seen]


@pytest.mark.parametrize("waits", [True, False])
def test_a_stream_sees_another_ones_work_only_if_it_waits_for_it(gpu: cuda.Context, waits: bool) -> None:
    source, target = gpu.host(2, np.float32), gpu.host(2, np.float32)
    source.array[:] = 5
    buffer, first, second, done = gpu.allocate(8), gpu.stream(), gpu.stream(), gpu.event()
    gpu.to_device(buffer.address, source.array, first)
    done.record(first)
    if waits:
        second.wait(done)
    gpu.to_host(target.array, buffer.address, second)
    second.synchronize()
    assert (target.array.tolist() == [5, 5]) is waits


def test_events_take_the_time_at_which_the_work_runs(gpu: cuda.Context, fake: Any) -> None:
    stream, begin, end = gpu.stream(), gpu.event(), gpu.event(blocking=True)
    begin.record(stream)
    fake.enqueue(stream, lambda: threading.Event().wait(0.005))
    end.record(stream)
    with pytest.raises(cuda.CudaError, match="synchronize first"):
        end.milliseconds_since(begin)
    end.synchronize()
    assert end.milliseconds_since(begin) >= 5
    with pytest.raises(cuda.CudaError):
        end.milliseconds_since(gpu.event())


def test_blocking_is_what_the_driver_is_told(gpu: cuda.Context, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: List[int] = []
    make = gpu.driver.Event
    monkeypatch.setattr(gpu.driver, "Event", lambda flags: (seen.append(int(flags)), make(flags))[1])
    gpu.event()
    gpu.event(blocking=True)
    assert seen == [0, 1]


def test_zero_copy_memory_has_an_address_for_the_device(gpu: cuda.Context, fake: Any) -> None:
    plain, mapped = gpu.host(4, np.float32), gpu.host(4, np.float32, zero_copy=True)
    assert plain.address == 0
    assert fake.lib.fakecuda_device_range(mapped.address, 16) == 1
    assert fake.lib.fakecuda_device_range(plain.array.ctypes.data, 16) == 0


@pytest.mark.parametrize("nth", range(1, 7))
def test_running_out_of_memory_at_any_allocation_leaks_nothing(fake: Any, nth: int) -> None:
    with pytest.raises(cuda.CudaMemoryError, match="out of memory") as raised, cuda.Context(0) as gpu:
        fake.lib.fakecuda_set_oom(nth, -1)
        for _ in range(3):
            gpu.allocate(64)
            gpu.host(8, np.float32, zero_copy=True)
    assert "--batch" in raised.value.hint
    assert raised.value.exit_code == 1
    assert fake.left() == []


def test_running_out_of_the_memory_there_is(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECUDA_TOTAL_BYTES", "1000")
    fake.lib.fakecuda_configure()
    with cuda.Context(0) as gpu:
        gpu.allocate(900)
        with pytest.raises(cuda.CudaMemoryError):
            gpu.allocate(101)
        gpu.allocate(100)


def test_freeing_twice_is_harmless_and_use_afterwards_is_told(gpu: cuda.Context) -> None:
    buffer, host, stream, event = gpu.allocate(4), gpu.host(1, np.float32), gpu.stream(), gpu.event()
    graph = gpu.capture(stream, lambda: None)
    other, array = gpu.stream(), np.zeros(1, np.float32)
    for thing in (buffer, host, stream, event, graph):
        thing.free()
        thing.free()
    uses: List[Callable[[], Any]] = [
        lambda: buffer.address,
        lambda: host.array,
        lambda: host.address,
        lambda: stream.handle,
        stream.synchronize,
        event.synchronize,
        lambda: event.record(other),
        lambda: other.wait(event),
        lambda: graph.launch(other),
        lambda: gpu.to_host(array, 4096, stream),
    ]
    for use in uses:
        with pytest.raises(cuda.CudaError, match="was freed"):
            use()


def test_a_copy_that_does_not_fit_is_refused(gpu: cuda.Context) -> None:
    buffer, stream = gpu.allocate(8), gpu.stream()
    with pytest.raises(cuda.CudaError, match="12 bytes does not fit a device buffer of 8"):
        gpu.to_device(buffer.address, np.zeros(3, np.float32), stream)
    with pytest.raises(cuda.CudaError, match="C-contiguous"):
        gpu.to_host(np.zeros((2, 2), np.int8).T, buffer.address, stream)
    with pytest.raises(cuda.CudaError, match="invalid argument"):
        gpu.to_device(buffer.address + 4, np.zeros(2, np.float32), stream)


def test_freeing_before_waiting_is_an_error_that_shows(fake: Any) -> None:
    with pytest.raises(cuda.CudaError, match="illegal memory access"), cuda.Context(0) as gpu:
        buffer, host, stream = gpu.allocate(8), gpu.host(2, np.float32), gpu.stream()
        gpu.to_device(buffer.address, host.array, stream)
        buffer.free()
        stream.synchronize()


def test_memory_that_cannot_be_mapped_is_given_back(
    gpu: cuda.Context, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKECUDA_CANNOT_MAP", "1")
    with pytest.raises(cuda.CudaError, match="mapping") as raised:
        gpu.host(4, np.float32, zero_copy=True)
    assert raised.traceback  # though its frames are still here
    assert fake.lib.fakecuda_live_host() == 0


@pytest.mark.parametrize(("shape", "dtype"), [((2, -1), np.float32), (3, object)])
def test_arrays_that_cannot_be_page_locked(gpu: cuda.Context, shape: Any, dtype: Any) -> None:
    with pytest.raises(cuda.CudaError, match="no page-locked memory for an array of shape"):
        gpu.host(shape, dtype)
