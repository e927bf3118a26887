"""A CUDA context by pycuda, and everything made in it: freed in the right order, whatever happens, in any thread.

The primary context is used, because TensorRT uses it too: those who open the same GPU in a thread share it, and close
in any order. One that is still pushed when the interpreter ends makes pycuda abort the process: here it is popped by
`with`, or at exit at the latest.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple, Type, Union

import numpy as np

from engines import cudagraph, cudaprimary
from engines.cudaerrors import HINT, NO_CONTEXT, CudaError, CudaMemoryError, pycuda, translated, unavailable
from engines.cudagraph import Graph
from engines.cudaobjects import Allocation, Event, HostArray, Owned, Stream, page_locked, transferable
from engines.errors import IncompatibleError

__all__ = [
    "HINT",
    "Allocation",
    "Context",
    "CudaError",
    "CudaMemoryError",
    "Event",
    "Graph",
    "HostArray",
    "Stream",
    "unavailable",
]


class Context:
    """The primary context of a GPU, current in the thread that opens it: `with Context(0) as gpu:`.

    Args:
        device: Number of the GPU, as CUDA counts (after CUDA_VISIBLE_DEVICES).
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self.name = ""
        self.compute_capability = ""
        """Such as `8.7`."""
        self.integrated = False
        """It shares the memory of the CPU, as on a Jetson."""
        self.total_bytes = 0
        self.driver: Any = None
        """The module `pycuda.driver`."""
        self._place: Optional[cudaprimary.Place] = None  # on the stack of the thread that opened it
        self._thread = 0
        self._owned: Dict[int, Owned] = {}
        self._sizes: Dict[int, int] = {}  # of device buffers by address, to refuse a copy that does not fit
        self._lock = threading.RLock()  # the garbage collector, which frees things, may run while it is held

    def __enter__(self) -> Context:
        if self._place is not None:
            raise CudaError("this CUDA context is open already", HINT)
        driver = pycuda()
        try:
            self._describe(driver)
            place = cudaprimary.opened(driver, self.device)
        except driver.Error as error:
            raise translated(error, f"opening GPU {self.device}") from error
        self.driver, self._place, self._thread = driver, place, threading.get_ident()
        atexit.register(self._at_exit)
        return self

    def _describe(self, driver: Any) -> None:
        count = int(driver.Device.count())
        if not 0 <= self.device < count:
            raise IncompatibleError(f"there is no GPU {self.device}: the driver has {count}, counted from 0", HINT)
        device = driver.Device(self.device)
        self.name = str(device.name())
        self.compute_capability = ".".join(str(part) for part in device.compute_capability())
        self.integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        self.total_bytes = int(device.total_memory())

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Close; a failure of that, most often a consequence, yields to an exception that is on its way."""
        try:
            self.close()
        except CudaError:
            if error is None:
                raise

    def close(self) -> None:
        """Wait for the device, free everything made here in reverse order, pop and give up the context; once is enough.

        Raises:
            CudaError: Another thread opened it: only that one can close it. Or the device reports that its work failed;
                everything is freed all the same.
        """
        place = self._place
        if place is None:
            return
        if not self.is_closable():
            raise CudaError("a CUDA context must be closed in the thread that opened it", HINT)
        failed: Optional[CudaError] = None
        try:
            with self.current():  # another one may have been pushed since
                for step in self._steps():
                    try:
                        step()
                    except CudaError as error:
                        failed = failed or error
        finally:
            atexit.unregister(self._at_exit)
            self._place = None
            place.leave()
        if failed is not None:
            raise failed

    def is_closable(self) -> bool:
        """Whether this thread opened it, and so may close it."""
        return threading.get_ident() == self._thread

    def _steps(self) -> Iterator[Callable[[], None]]:
        yield self.synchronize
        while self._owned:
            yield self._owned[next(reversed(self._owned))].free

    def _at_exit(self) -> None:
        if self.is_closable():
            with contextlib.suppress(CudaError):  # there is nobody left to tell
                self.close()

    def _opened(self) -> cudaprimary.Primary:
        place = self._place
        if place is None:
            raise CudaError("this CUDA context is closed", HINT)
        return place.primary

    def _required(self) -> None:
        """Raise unless what is made now is made here, not in a context of the caller's own."""
        if not self._opened().is_on_top():
            raise CudaError(f"CUDA does nothing here: {NO_CONTEXT}", HINT)

    def checker(self) -> Callable[[], bool]:
        """What tells, quickly, whether this is still open, and current in the running thread: work that is queued goes
        there. Its callers must keep one another out.

        Raises:
            CudaError: It is closed.
        """
        is_current, place = self._opened().checker(), self._place
        return lambda: self._place is place and is_current()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in the running thread, if it is not, for the length of a `with`.

        Raises:
            CudaError: It is closed, or the driver refuses.
        """
        primary = self._opened()
        try:
            place = primary.enter()
        except self.driver.Error as error:
            raise translated(error, "making the context current") from error
        try:
            yield
        finally:
            place.leave()

    def own(self, thing: Owned) -> None:
        """Take charge of freeing something when the context is closed."""
        with self._lock:
            self._owned[id(thing)] = thing
            if isinstance(thing, Allocation):
                self._sizes[thing.address] = thing.nbytes

    def disown(self, thing: Owned) -> None:
        """Something was freed."""
        with self._lock:
            self._owned.pop(id(thing), None)
            if isinstance(thing, Allocation):
                self._sizes.pop(thing.known_address, None)

    def memory(self) -> Tuple[int, int]:
        """Free and total memory of the device, bytes; on an integrated GPU it is the machine's.

        Raises:
            CudaError: The driver refuses, or the context is closed.
        """
        self._required()
        try:
            free, total = self.driver.mem_get_info()
        except self.driver.Error as error:
            raise translated(error, "asking for the free memory") from error
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Allocation:
        """Device memory of that size; 0 bytes take one.

        Raises:
            CudaMemoryError: There is not that much.
            CudaError: The driver refuses, or the context is closed.
        """
        self._required()
        try:
            raw = self.driver.mem_alloc(max(1, int(nbytes)))
        except self.driver.Error as error:
            raise translated(error, f"allocating {int(nbytes)} bytes on the GPU") from error
        return Allocation(self, raw, int(nbytes))

    def host(self, shape: Union[int, Sequence[int]], dtype: Any, zero_copy: bool = False) -> HostArray:
        """A page-locked array.

        Args:
            shape: Of the array.
            dtype: Of the array; anything that NumPy takes.
            zero_copy: Map it for the device, which then reads and writes it in place.

        Raises:
            CudaMemoryError: There is not that much.
            CudaError: The driver refuses, the type holds Python objects, or the context is closed.
        """
        self._required()
        sizes = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(size) for size in shape)
        flags = int(self.driver.host_alloc_flags.DEVICEMAP) if zero_copy else 0
        try:
            raw, array = page_locked(self.driver, sizes, dtype, flags)
        except self.driver.Error as error:
            raise translated(error, f"allocating page-locked memory for {sizes}") from error
        try:
            address = int(raw.get_device_pointer()) if zero_copy else 0
        except self.driver.Error as error:
            raw.free()
            raise translated(error, "mapping page-locked memory for the GPU") from error
        return HostArray(self, raw, array, address)

    def stream(self) -> Stream:
        """A new stream.

        Raises:
            CudaError: The driver refuses, or the context is closed.
        """
        self._required()
        try:
            return Stream(self, self.driver.Stream())
        except self.driver.Error as error:
            raise translated(error, "making a stream") from error

    def event(self, blocking: bool = False) -> Event:
        """A new event, with times.

        Args:
            blocking: Whoever waits for it sleeps, instead of spinning: less CPU, some tens of us later.

        Raises:
            CudaError: The driver refuses, or the context is closed.
        """
        self._required()
        flags = self.driver.event_flags
        try:
            return Event(self, self.driver.Event(flags.BLOCKING_SYNC if blocking else flags.DEFAULT))
        except self.driver.Error as error:
            raise translated(error, "making an event") from error

    def to_device(self, address: int, array: np.ndarray[Any, Any], stream: Stream) -> None:
        """Queue a copy to the device; a page-locked array must stay as it is until the copy was waited for.

        Args:
            address: Where to.
            array: C-contiguous; page-locked, or the copy may wait for the stream.
            stream: The queue.

        Raises:
            CudaError: It does not fit, the array is not contiguous, something was freed, or the driver refuses.
        """
        self._fits(address, array)
        try:
            self.driver.memcpy_htod_async(address, transferable(array), stream.raw())
        except self.driver.Error as error:
            raise translated(error, "copying to the GPU") from error

    def to_host(self, array: np.ndarray[Any, Any], address: int, stream: Stream) -> None:
        """Queue a copy from the device; what is in the array is undefined until the copy was waited for.

        Args:
            array: Where to: C-contiguous and writable; page-locked, or the copy waits for the stream.
            address: Where from.
            stream: The queue.

        Raises:
            CudaError: It does not fit, the array is not contiguous, something was freed, or the driver refuses.
        """
        self._fits(address, array)
        try:
            self.driver.memcpy_dtoh_async(transferable(array), address, stream.raw())
        except self.driver.Error as error:
            raise translated(error, "copying from the GPU") from error

    def _fits(self, address: int, array: np.ndarray[Any, Any]) -> None:
        self._opened()
        size = self._sizes.get(address)
        if size is not None and array.nbytes > size:
            raise CudaError(f"a copy of {array.nbytes} bytes does not fit a device buffer of {size}", HINT)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Record what `enqueue` puts on a stream as a CUDA graph: see `engines.cudagraph.capture`.

        Raises:
            CudaError: It cannot be captured; the stream is usable all the same.
        """
        self._required()
        return cudagraph.capture(self, stream, enqueue)

    def synchronize(self) -> None:
        """Wait until all work of the device in this context is done.

        Raises:
            CudaError: The work failed, or the context is closed.
        """
        self._required()
        try:
            self.driver.Context.synchronize()
        except self.driver.Error as error:
            raise translated(error, "waiting for the GPU") from error
