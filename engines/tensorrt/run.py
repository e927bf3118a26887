"""Run a TensorRT plan: wall-time queries at depth 1, and slots for trtexec's loop, over the same buffers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from engines.cuda import Context, CudaError, Graph, HostArray, Stream
from engines.errors import ModelError, OptimizeError, UsageError
from engines.spec import Feeds, Query, Runner, RunnerSpec
from engines.tensorrt import compat, layers
from engines.tensorrt.plan import Plan, open_plans
from engines.tensorrt.slots import Slot
from engines.tensors import checked, layout


def load(spec: RunnerSpec) -> Runner:
    """Load `model.plan`, or one plan for each batch where `spec.options["plans"]` names them.

    Args:
        spec: Its options may also tell `io` (copy, zero-copy), `cuda_graph`, `spin` and `gpu`.

    Raises:
        IncompatibleError: No GPU, no TensorRT, or TensorRT refuses the plan.
        FileNotFoundError: No such file.
    """
    path = Path(spec.path)
    if path.suffix == ".onnx":
        raise ModelError(
            f"{path.name}: TensorRT runs plans, not ONNX", f"optimize build {path.name} --backend tensorrt"
        )
    named = spec.options.get("plans")
    return TensorRTRunner(spec, [path.with_name(name) for name in named.values()] if named else [path])


class Binding:
    """Buffers of one batch, on both sides, and how a query moves them."""

    def __init__(self, gpu: Context, plan: Plan, batch: int, zero_copy: bool) -> None:
        self.gpu, self.plan, self.batch = gpu, plan, batch
        self.stream: Stream = gpu.stream()
        self.context = plan.context(batch, self.stream)
        self.inputs: List[HostArray] = []
        self.outputs: List[HostArray] = []
        self.device: List[Tuple[HostArray, Any, bool]] = []
        self.addresses: Dict[str, int] = {}
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

    def execute(self, stream: Stream) -> None:
        """Queue the computation.

        Raises:
            OptimizeError: TensorRT refuses.
        """
        if not self.context.execute_async_v3(stream.handle):
            raise OptimizeError(f"TensorRT does not execute batch {self.batch} ({self.plan.said()})")

    def free(self) -> None:
        """Give the buffers and the stream back."""
        for host in [*self.inputs, *self.outputs]:
            host.free()
        for _, memory, _ in self.device:
            memory.free()
        self.stream.free()


class TensorRTRunner(Runner):
    """Plans on one GPU, its primary context current in the thread that opened it."""

    def __init__(self, spec: RunnerSpec, paths: List[Path]) -> None:
        trt = compat.tensorrt()
        self._trt, self._log = trt, compat.logger(trt)
        self._options = spec.options
        self._thread = threading.get_ident()
        self.gpu = Context(int(spec.options.get("gpu", 0)))
        self.gpu.__enter__()
        self.flags: List[str] = []
        self._plans: List[Plan] = []
        self._bindings: List[Binding] = []
        self._owned: List[Any] = []
        self._bound: Dict[int, Binding] = {}  # by the context's id: whose addresses it has
        try:
            self._plans = open_plans(trt, self._log, paths)
            first = self._plans[0]
            self.inputs, self.outputs = first.inputs, first.outputs
            if len(self._plans) > 1:  # each has its own fixed batch
                self.inputs = tuple(t.__class__(t.name, (None, *t.shape[1:]), t.dtype) for t in first.inputs)
                self.outputs = tuple(t.__class__(t.name, (None, *t.shape[1:]), t.dtype) for t in first.outputs)
            self.batches = tuple(sorted({batch for plan in self._plans for batch in plan.batches}))
            self.spec = spec.with_(
                inputs=self.inputs,
                outputs=self.outputs,
                layout=spec.layout or (layout(self.inputs[0].shape, "NCHW") if self.inputs else ""),
            )
        except BaseException:
            self.close()
            raise

    def _binding(self, feeds: Feeds) -> Tuple[Binding, List[np.ndarray[Any, Any]]]:
        arrays = checked(self.inputs, feeds)
        batch = int(arrays[0].shape[0])
        plan = next((plan for plan in self._plans if batch in plan.batches), None)
        if plan is None:
            known = ", ".join(map(str, self.batches))
            raise UsageError(
                f"this engine serves batch {known}, not {batch}",
                f"optimize build MODEL --backend tensorrt --batch {batch}",
            )
        binding = Binding(self.gpu, plan, batch, self._options.get("io") == "zero-copy")
        self._bindings.append(binding)
        for host, array in zip(binding.inputs, arrays):
            np.copyto(host.array, array)
        self._address(binding)
        return binding, arrays

    def _address(self, binding: Binding) -> None:
        """Let the batch's context use this binding's buffers, if it does not."""
        if self._bound.get(binding.batch) is not binding:
            binding.plan.bind(binding.context, binding.addresses)
            self._bound[binding.batch] = binding

    def bind(self, feeds: Feeds) -> Query:
        """See `Runner.bind`: one stream, page-locked arrays; the caller's arrays are copied in each query."""
        with self.gpu.current():
            binding, arrays = self._binding(feeds)
            stream = binding.stream
            pairs = [(host.array, array) for host, array in zip(binding.inputs, arrays)]
            results = {t.name: host.array for t, host in zip(self.outputs, binding.outputs)}

            def enqueue() -> None:
                binding.copy_in(stream)
                binding.execute(stream)
                binding.copy_out(stream)

            enqueue()  # what is allocated at first use is not captured, nor timed
            stream.synchronize()
            launch = self._launcher(stream, enqueue) if self._options.get("cuda_graph") else enqueue
            wait = stream.synchronize if self._options.get("spin") else self._blocking(stream)
        copy, bound, batch = np.copyto, self._bound, binding.batch

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            if bound.get(batch) is not binding:
                self._address(binding)
            for host, array in pairs:
                copy(host, array)
            launch()
            wait()
            return results

        return self._in_any_thread(query)

    def _blocking(self, stream: Stream) -> Callable[[], None]:
        """Wait asleep, by an event: what trtexec does unless it is told to spin."""
        event = self.gpu.event(blocking=True)
        self._owned.append(event)

        def wait() -> None:
            event.record(stream)
            event.synchronize()

        return wait

    def _in_any_thread(self, query: Query) -> Query:
        owner, ident = self._thread, threading.get_ident

        def anywhere() -> Dict[str, np.ndarray[Any, Any]]:
            if ident() == owner:
                return query()
            with self.gpu.current():
                return query()

        return anywhere

    def _launcher(self, stream: Stream, enqueue: Callable[[], None]) -> Callable[[], None]:
        graph = self.graph(stream, enqueue)
        return enqueue if graph is None else lambda: graph.launch(stream)

    def graph(self, stream: Stream, enqueue: Callable[[], None]) -> Optional[Graph]:
        """Capture work as a CUDA graph; where it cannot be captured, None and a flag, as trtexec falls back."""
        try:
            graph = self.gpu.capture(stream, enqueue)
        except (CudaError, OptimizeError):
            if "no-cuda-graph" not in self.flags:
                self.flags.append("no-cuda-graph")
            return None
        self._owned.append(graph)
        return graph

    def slots(
        self, feeds: Feeds, count: int = 2, transfers: bool = True, graph: bool = False, spin: bool = False
    ) -> List[Slot]:
        """Slots for `bench.spans`: three streams, six events a slot, the buffers shared, as in trtexec.

        Raises:
            UsageError: A wrong input, or fewer than one slot.
        """
        if count < 1:
            raise UsageError(f"{count} slots: one or more are needed")
        with self.gpu.current():
            binding, _ = self._binding(feeds)
            binding.copy_in(binding.stream)
            binding.execute(binding.stream)
            binding.stream.synchronize()
            streams = (self.gpu.stream(), self.gpu.stream(), self.gpu.stream())
            self._owned += streams
            captured = self.graph(streams[1], lambda: binding.execute(streams[1])) if graph else None
            made = [
                Slot(self.gpu, binding, streams, transfers and bool(binding.device), captured, spin)
                for _ in range(count)
            ]
            self._owned += made
        return made

    def achieved(self) -> Dict[str, int]:
        """Computing layers by precision, by the engine inspector; empty where the plan was built without names."""
        found: Dict[str, int] = {}
        for layer in layers.inspect(self._trt, self._plans[0].engine)["layers"]:
            if layer["precision"]:
                found[layer["precision"]] = found.get(layer["precision"], 0) + 1
        return found

    def profile(self, feeds: Feeds, queries: int = 20) -> List[Dict[str, Any]]:
        """Time of each layer, in a pass of its own: the profiler waits after every layer.

        Returns:
            See `engines.tensorrt.layers.table`.
        """
        with self.gpu.current():
            binding, _ = self._binding(feeds)
            binding.copy_in(binding.stream)
            binding.execute(binding.stream)
            binding.stream.synchronize()
            times = layers.profiler(self._trt)
            binding.context.profiler = times
            try:
                for _ in range(queries):
                    binding.execute(binding.stream)
                    binding.stream.synchronize()
            finally:
                binding.plan.forget(binding.batch)  # a profiler cannot be taken off a context
                self._bound.pop(binding.batch, None)
        return layers.table(times.times)

    def close(self) -> None:
        """Free contexts, engines, buffers, streams and events, then leave the GPU's context."""
        try:
            for binding in self._bindings:
                binding.context = None
            for plan in self._plans:
                plan.close()
        finally:
            self._plans, self._bindings, self._owned, self._bound = [], [], [], {}
            self.gpu.__exit__(None, None, None)
