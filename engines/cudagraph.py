"""CUDA graphs: work of a stream recorded once and launched as one call. pycuda has none, so by ctypes on the driver."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable

from engines.cudaerrors import HINT, CudaError, check, library
from engines.cudaobjects import Owned, Stream

if TYPE_CHECKING:
    from engines.cuda import Context

# CUstreamCaptureMode of cuda.h: only this thread is kept from calls that a capture forbids, so others go on working.
_THREAD_LOCAL = 1


class Graph(Owned):
    """Recorded work, ready to launch. The buffers that it names must live as long as it does."""

    kind = "graph"

    def __init__(self, gpu: Context, executable: ctypes.c_void_p) -> None:
        self._launch: Any = library().cuGraphLaunch
        super().__init__(gpu, executable)

    def launch(self, stream: Stream) -> None:
        """Queue all of the recorded work on a stream; returns at once.

        Raises:
            CudaError: The graph or the stream was freed, or the driver refuses.
        """
        code = self._launch(self.raw(), ctypes.c_void_p(stream.handle))
        if code:
            check(code, "launching a CUDA graph")

    def _release(self, raw: Any) -> None:
        check(library().cuGraphExecDestroy(raw), "freeing a CUDA graph")


def _instantiate(graph: ctypes.c_void_p) -> ctypes.c_void_p:
    driver, executable = library(), ctypes.c_void_p()
    if hasattr(driver, "cuGraphInstantiateWithFlags"):  # from CUDA 11.4
        code = driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    else:
        code = driver.cuGraphInstantiate_v2(ctypes.byref(executable), graph, None, None, ctypes.c_size_t(0))
    check(code, "instantiating a CUDA graph")
    return executable


def capture(gpu: Context, stream: Stream, enqueue: Callable[[], None]) -> Graph:
    """Record what `enqueue` puts on a stream, without running it.

    Whatever happens, the stream is out of capture afterwards and can be used.

    Args:
        gpu: The context that will own the graph.
        stream: Where `enqueue` queues its work, or where work that it forks to other streams comes back to.
        enqueue: Run once. It must have run outside of a capture before (libraries allocate on first use), and it may
            neither wait nor allocate.

    Raises:
        CudaError: The work cannot be captured; what `enqueue` raised, if it did, is its cause.
        OptimizeError: What `enqueue` raised, where that is not about CUDA.
    """
    driver, handle, graph = library(), ctypes.c_void_p(stream.handle), ctypes.c_void_p()
    check(driver.cuStreamBeginCapture_v2(handle, ctypes.c_int(_THREAD_LOCAL)), "beginning a capture")
    try:
        enqueue()
    except BaseException as error:
        driver.cuStreamEndCapture(handle, ctypes.byref(graph))  # its own failure only repeats this one
        if graph.value:
            driver.cuGraphDestroy(graph)
        if isinstance(error, gpu.driver.Error):
            reason = " ".join(str(error).split())
            raise CudaError(f"this work cannot be captured as a CUDA graph: {reason}", HINT) from error
        raise
    try:
        check(driver.cuStreamEndCapture(handle, ctypes.byref(graph)), "ending a capture")
        executable = _instantiate(graph)
    finally:
        if graph.value:
            driver.cuGraphDestroy(graph)
    return Graph(gpu, executable)
