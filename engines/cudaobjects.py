"""What lives in a CUDA context: device memory, page-locked arrays, streams, events; each is freed once."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, List, Tuple

import numpy as np

from engines.cudaerrors import HINT, CudaError, translated

if TYPE_CHECKING:
    from engines.cuda import Context


class Owned:
    """Something that a context owns: it frees it, in reverse order of making, when it is closed."""

    kind = "object"

    def __init__(self, gpu: Context, raw: Any) -> None:
        self._gpu = gpu
        self._raw = raw
        self._lock = threading.RLock()  # the garbage collector, which frees things, may run while it is held
        gpu.own(self)

    def raw(self) -> Any:
        """What pycuda, or the driver, knows it by.

        Keep it in no variable: the traceback of an exception would keep it alive beyond its context.

        Raises:
            CudaError: It was freed.
        """
        raw = self._raw
        if raw is None:
            raise CudaError(f"this {self.kind} was freed, or its CUDA context is closed", HINT)
        return raw

    def free(self) -> None:
        """Give it back; once more does nothing. Work that uses it must have been waited for. Any thread may do it.

        Raises:
            CudaError: The driver refuses.
        """
        with self._lock:
            raw, self._raw = self._raw, None
        if raw is None:
            return
        self._gpu.disown(self)
        with self._gpu.current():
            try:
                self._release(raw)
            except self._gpu.driver.Error as error:
                raise translated(error, f"freeing a {self.kind}") from error
            finally:
                del raw  # pycuda frees streams and events when nothing names them: here, where the context is current

    def _release(self, raw: Any) -> None:
        """Free it where pycuda does not do that by itself with the last reference."""


class Allocation(Owned):
    """Device memory. Its content is undefined until something is copied there."""

    kind = "device buffer"

    def __init__(self, gpu: Context, raw: Any, nbytes: int) -> None:
        self.known_address = int(raw)
        self.nbytes = nbytes
        super().__init__(gpu, raw)

    @property
    def address(self) -> int:
        """Where it is, as the device counts.

        Raises:
            CudaError: It was freed.
        """
        self.raw()
        return self.known_address

    def _release(self, raw: Any) -> None:
        raw.free()


class HostArray(Owned):
    """A page-locked array: copies from and to it run beside the CPU. Do not keep views of it beyond its life."""

    kind = "page-locked buffer"

    def __init__(self, gpu: Context, raw: Any, array: np.ndarray[Any, Any], address: int) -> None:
        self._array = array
        self._address = address
        super().__init__(gpu, raw)

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The memory, C-contiguous.

        Raises:
            CudaError: It was freed.
        """
        self.raw()
        return self._array

    @property
    def address(self) -> int:
        """Where the device sees it, if it was made with `zero_copy`; otherwise 0.

        Raises:
            CudaError: It was freed.
        """
        self.raw()
        return self._address

    def when_unseen(self, free: Callable[[List[Owned]], None]) -> None:
        """Let go of the array, and have `free` called with this in a list once nothing looks at the memory any longer.

        NumPy makes every view, also one of a view, keep alive the array that was laid over the memory first.

        Raises:
            CudaError: It was freed.
        """
        array, self._array = self.array, np.empty(0, self._array.dtype)
        weakref.finalize(array.base, free, [self]).atexit = False

    def _release(self, raw: Any) -> None:
        self._array = np.empty(0, self._array.dtype)
        raw.free()


class Stream(Owned):
    """A queue of work of the device."""

    kind = "stream"

    def __init__(self, gpu: Context, raw: Any) -> None:
        self._handle = int(raw.handle)
        super().__init__(gpu, raw)

    @property
    def handle(self) -> int:
        """What TensorRT and the driver take.

        Raises:
            CudaError: It was freed.
        """
        self.raw()
        return self._handle

    def synchronize(self) -> None:
        """Wait until all of its work is done; other Python threads run meanwhile.

        Raises:
            CudaError: The work failed, or the stream was freed.
        """
        try:
            self.raw().synchronize()
        except self._gpu.driver.Error as error:
            raise translated(error, "waiting for a stream") from error

    def wait(self, event: Event) -> None:
        """Let what is queued from here on wait for an event; returns at once.

        Raises:
            CudaError: One of them was freed, or the driver refuses.
        """
        try:
            self.raw().wait_for_event(event.raw())
        except self._gpu.driver.Error as error:
            raise translated(error, "letting a stream wait for an event") from error


class Event(Owned):
    """A point in a stream's work, with its time on the GPU's clock (resolution about 0.5 us)."""

    kind = "event"

    def record(self, stream: Stream) -> None:
        """Mark this point of a stream; once more moves the mark.

        Raises:
            CudaError: One of them was freed, or the driver refuses.
        """
        try:
            self.raw().record(stream.raw())
        except self._gpu.driver.Error as error:
            raise translated(error, "recording an event") from error

    def synchronize(self) -> None:
        """Wait until the work before the mark is done; other Python threads run meanwhile.

        Raises:
            CudaError: The work failed, or the event was freed.
        """
        try:
            self.raw().synchronize()
        except self._gpu.driver.Error as error:
            raise translated(error, "waiting for an event") from error

    def milliseconds_since(self, earlier: Event) -> float:
        """Time from one mark to this one, in ms; both must have happened.

        Raises:
            CudaError: One has not happened yet, was never recorded, or was freed.
        """
        try:
            return float(self.raw().time_since(earlier.raw()))
        except self._gpu.driver.Error as error:
            raise translated(error, "reading the time of an event") from error


def transferable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as the bytes that a copy takes: types that the buffer protocol lacks, such as bfloat16, go as uint8.

    Raises:
        CudaError: It is not C-contiguous.
    """
    if not array.flags.c_contiguous:
        raise CudaError("only a C-contiguous array can be copied to or from the GPU", "use numpy.ascontiguousarray")
    return array if array.dtype.kind in "biuf" else array.reshape(-1).view(np.uint8)


def page_locked(driver: Any, shape: Tuple[int, ...], dtype: Any, flags: int) -> Tuple[Any, np.ndarray[Any, Any]]:
    """pycuda's allocation and an array of any shape and type over it; an empty one takes a byte, since 0 is refused.

    Raises:
        CudaError: The shape is negative, or the type holds Python objects.
    """
    kind = np.dtype(dtype)
    if kind.hasobject or any(size < 0 for size in shape):
        raise CudaError(f"no page-locked memory for an array of shape {shape} and type {kind}", HINT)
    count = 1
    for size in shape:
        count *= int(size)
    flat = driver.pagelocked_empty((max(1, count * kind.itemsize),), np.uint8, mem_flags=flags)
    array: np.ndarray[Any, Any] = flat[: count * kind.itemsize].view(kind).reshape(shape)
    return flat.base, array
