"""Buffers for one batch of a plan, on the host and the device, and who may use the execution context meanwhile."""

from __future__ import annotations

import threading
from typing import Any, Dict, List, Optional, Tuple

from engines.cuda import Context, HostArray, Stream
from engines.cudaobjects import Owned
from engines.errors import OptimizeError
from engines.tensorrt.plan import Plan


class Binding:
    """Buffers of one batch, on both sides, and how a query moves them."""

    def __init__(self, gpu: Context, plan: Plan, batch: int, zero_copy: bool, one: threading.RLock) -> None:
        self.gpu, self.plan, self.batch = gpu, plan, batch
        self.one = one
        self.stream: Stream = gpu.stream()
        self.context: Any = None
        self.inputs: List[HostArray] = []
        self.outputs: List[HostArray] = []
        self.device: List[Tuple[HostArray, Any, bool]] = []
        self.addresses: Dict[str, int] = {}
        try:
            self._allocate(zero_copy)
        except BaseException:
            self.free()
            raise

    def _allocate(self, zero_copy: bool) -> None:
        gpu, plan, batch = self.gpu, self.plan, self.batch
        self.context = plan.context(batch, self.stream)
        shapes: List[Tuple[Tuple[Any, ...], Any, bool]] = [((batch, *t.shape[1:]), t, True) for t in plan.inputs]
        shapes += [(plan.shape(self.context, t), t, False) for t in plan.outputs]
        for shape, tensor, is_input in shapes:
            host = gpu.host(shape, tensor.dtype, zero_copy)
            (self.inputs if is_input else self.outputs).append(host)
            if zero_copy:
                self.addresses[tensor.name] = host.address
            else:
                memory = gpu.allocate(host.array.nbytes)
                self.device.append((host, memory, is_input))
                self.addresses[tensor.name] = memory.address

    def copy_in(self, stream: Stream) -> None:
        """Queue the copies to the device."""
        for host, memory, is_input in self.device:
            if is_input:
                self.gpu.to_device(memory.address, host.array, stream)

    def copy_out(self, stream: Stream) -> None:
        """Queue the copies from the device."""
        for host, memory, is_input in self.device:
            if not is_input:
                self.gpu.to_host(host.array, memory.address, stream)

    def claim(self, stream: Optional[Stream] = None) -> None:
        """Wait for what others have queued on the execution context, which has scratch memory for one query only.

        Args:
            stream: Where work of this binding is queued next that nobody waits for at once.

        Raises:
            CudaError: The work failed.
        """
        busy = self.plan.busy
        other = busy.pop(self.batch, None)
        if other is not None and other is not stream:
            other.synchronize()
        if stream is not None:
            busy[self.batch] = stream

    def execute(self, stream: Stream) -> None:
        """Queue the computation, on this binding's buffers: the context is shared by all bindings of the batch.

        Raises:
            OptimizeError: TensorRT refuses.
        """
        if self.plan.bound.get(self.batch) is not self:
            self.plan.bound.pop(self.batch, None)
            self.plan.bind(self.context, self.addresses)
            self.plan.bound[self.batch] = self
        if not self.context.execute_async_v3(stream.handle):
            raise OptimizeError(f"TensorRT does not execute batch {self.batch} ({self.plan.said()})")

    def free(self) -> None:
        """Give the buffers and the stream back; what was queued must have been waited for."""
        self.forget()
        for thing in [*self.outputs, *self.unseen()]:
            thing.free()

    def forget(self) -> None:
        """Leave the execution context to others."""
        self.context = None
        if self.plan.bound.get(self.batch) is self:
            del self.plan.bound[self.batch]

    def unseen(self) -> List[Owned]:
        """All but the outputs on the host, which whoever ran a query may still look at."""
        return [*self.inputs, *(memory for _, memory, _ in self.device), self.stream]
