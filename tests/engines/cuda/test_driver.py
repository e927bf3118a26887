"""The tests' driver itself: it must see what a real one lets pass, or the tests above prove nothing."""

from __future__ import annotations

import ctypes
from typing import Any, List

import numpy as np
import pytest

from engines import cuda

pytestmark = pytest.mark.tensorrt


def test_a_write_past_the_end_is_seen_when_the_buffer_is_freed(
    gpu: cuda.Context, fake: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    buffer = gpu.allocate(10)
    ctypes.memset(buffer.address, 0, 11)
    buffer.free()
    assert fake.left()[-1] == "faults"
    assert "wrote past the end of an allocation of 10 bytes" in capfd.readouterr().err
    gpu.close()
    fake.lib.fakecuda_reset()


def test_freed_memory_is_poisoned(gpu: cuda.Context) -> None:
    buffer = gpu.allocate(4)
    address = buffer.address
    assert ctypes.string_at(address, 4) == b"\xff" * 4
    ctypes.memset(address, 1, 4)
    buffer.free()
    assert ctypes.string_at(address, 4) == b"\xfe" * 4


def test_what_is_not_given_back_is_in_the_ledger(gpu: cuda.Context, fake: Any) -> None:
    address, stream = ctypes.c_void_p(), ctypes.c_void_p()
    assert fake.lib.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(8)) == 0
    assert fake.lib.cuStreamCreate(ctypes.byref(stream), 0) == 0
    gpu.close()
    assert fake.left() == ["live_allocations", "live_streams"]
    fake.lib.fakecuda_reset()


def test_a_copy_at_once_comes_after_all_that_was_queued(gpu: cuda.Context) -> None:
    """As the legacy stream does: it waits for every stream that was not made to be apart from it."""
    source, buffer, target = gpu.host(1, np.float32), gpu.allocate(4), np.zeros(1, np.float32)
    source.array[:] = 6
    gpu.to_device(buffer.address, source.array, gpu.stream())
    gpu.driver.memcpy_dtoh(target, buffer.address)
    assert target[0] == 6


def test_work_of_a_freed_stream_still_runs(gpu: cuda.Context, fake: Any) -> None:
    ran: List[int] = []
    stream = gpu.stream()
    fake.enqueue(stream, lambda: ran.append(1))
    stream.free()
    assert not ran
    gpu.synchronize()
    assert ran == [1]


def test_a_loop_of_polls_comes_to_an_end(gpu: cuda.Context, fake: Any) -> None:
    stream, event = gpu.stream(), gpu.event()
    for _ in range(3):
        fake.enqueue(stream, lambda: None)
    event.record(stream)
    polls = 0
    while not event.raw().query():
        polls += 1
    assert polls == 4
    assert stream.raw().is_done()


def test_streams_wait_for_each_other_in_a_ring(gpu: cuda.Context, fake: Any) -> None:
    """Two slots that hand over to each other for many rounds: in order, whichever end is waited for."""
    streams, order = [gpu.stream() for _ in range(3)], []
    for number in range(300):
        stream, event = streams[number % 3], gpu.event()
        fake.enqueue(stream, lambda number=number: order.append(number))
        event.record(stream)
        streams[(number + 1) % 3].wait(event)
    streams[0].synchronize()
    assert order == list(range(300))


def test_calls_that_it_lacks_say_so(gpu: cuda.Context) -> None:
    with pytest.raises(gpu.driver.LogicError, match="not supported"):
        gpu.driver.module_from_buffer(b"not a module")
