"""The CUDA driver for tests: device memory is host memory, and work on a stream waits until something waits for it."""

from __future__ import annotations

import ctypes
import itertools
import sys
from typing import Any, Callable, Dict, Tuple

_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_queued: Dict[int, Callable[[], None]] = {}
"""What was queued, by its number. Kept while its context lives: a captured graph calls it again at every replay."""

_numbers: Dict[Any, int] = {}
_count = itertools.count(1)
_ILLEGAL_ADDRESS = 700


def library() -> Any:
    """The driver for tests; the loader finds the one that is loaded already.

    Raises:
        RuntimeError: It is missing, or it is a real driver: the double computes on the CPU.
    """
    try:
        loaded = ctypes.CDLL("libcuda.so.1")
        loaded.fakecuda_enqueue_host.argtypes = [ctypes.c_void_p, _HostFunction, ctypes.c_void_p]
    except (OSError, AttributeError) as error:
        raise RuntimeError(f"the TensorRT double needs the CUDA driver for tests: {error}") from error
    return loaded


def compute_capability() -> Tuple[int, int]:
    """Of the current device, or of device 0."""
    driver = library()
    device, found = ctypes.c_int(0), []
    if driver.cuCtxGetDevice(ctypes.byref(device)):
        driver.cuInit(0)
        device = ctypes.c_int(0)
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        value = ctypes.c_int(0)
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            raise RuntimeError("the CUDA driver for tests gives no compute capability")
        found.append(value.value)
    return found[0], found[1]


def has_context() -> bool:
    """Whether this thread has a current context."""
    current = ctypes.c_void_p()
    return library().cuCtxGetCurrent(ctypes.byref(current)) == 0 and bool(current.value)


def allocate(nbytes: int) -> int:
    """Device memory for the library's own use; 0 where there is not enough."""
    address = ctypes.c_uint64(0)
    failed = library().cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
    return 0 if failed else int(address.value)


def free(address: int) -> None:
    """Give memory back, in the primary context where none is current: the CUDA runtime does so for TensorRT."""
    driver, context = library(), ctypes.c_void_p()
    if not holds(address, 1):
        return  # it went with its context
    if has_context():
        driver.cuMemFree_v2(ctypes.c_uint64(address))
        return
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0:
        driver.cuCtxPushCurrent_v2(context)
        driver.cuMemFree_v2(ctypes.c_uint64(address))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
        driver.cuDevicePrimaryCtxRelease_v2(0)


def holds(address: int, nbytes: int) -> bool:
    """Whether the device may use all of these bytes."""
    driver = library()
    return bool(driver.fakecuda_device_range(ctypes.c_uint64(address), ctypes.c_size_t(nbytes)))


def read(address: int, nbytes: int) -> bytes:
    """Memory of the device as it is now: nothing is waited for."""
    return ctypes.string_at(address, nbytes)


def write(address: int, content: bytes) -> None:
    """Put bytes into the device's memory, now."""
    ctypes.memmove(address, content, len(content))


def synchronize(stream: int) -> bool:
    """Wait for a stream; False where that is not possible, as while it is being captured."""
    return library().cuStreamSynchronize(ctypes.c_void_p(stream)) == 0


def is_capturing(stream: int) -> bool:
    """Whether a stream is being captured into a graph."""
    status = ctypes.c_int(0)
    return library().cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status)) == 0 and status.value != 0


def enqueue(stream: int, key: Any, work: Callable[[], None]) -> bool:
    """Queue work on a stream.

    Args:
        stream: Its handle; 0 is the default stream.
        key: Says which work it is: the same key is the same work, so that a loop does not grow the table.
        work: Called when the stream gets there, from whichever thread waits.
    """
    if key not in _numbers:
        _numbers[key] = next(_count)
        _queued[_numbers[key]] = work
    return library().fakecuda_enqueue_host(ctypes.c_void_p(stream), _call, ctypes.c_void_p(_numbers[key])) == 0


def forget(owner: int) -> None:
    """Drop the work of a context that is being destroyed.

    Args:
        owner: The first part of its keys.
    """
    for key in [key for key in _numbers if key[0] == owner]:
        _queued.pop(_numbers.pop(key), None)


@_HostFunction
def _call(number: int) -> None:
    try:
        if number not in _queued:
            raise RuntimeError("the execution context was destroyed before its work was done")
        _queued[number]()
    except Exception as error:
        print(f"[TensorRT double] the work on a stream failed: {type(error).__name__}: {error}", file=sys.stderr)
        library().fakecuda_raise(_ILLEGAL_ADDRESS)
