"""Run a TensorRT plan: wall-time queries at depth 1, and slots for trtexec's loop, over the same buffers."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Tuple

import numpy as np

from engines.cuda import Context, CudaError, Event, Graph, Stream
from engines.cudaobjects import Owned
from engines.errors import ModelError, OptimizeError, UsageError
from engines.spec import Feeds, LayerTimes, Query, Runner, RunnerSpec
from engines.tensorrt import compat, layers
from engines.tensorrt.binding import Binding
from engines.tensorrt.plan import Plan, open_plans
from engines.tensorrt.slots import Slot
from engines.tensors import checked, layout


def load(spec: RunnerSpec) -> Runner:
    """Load `model.plan`, or one plan for each batch where `spec.options["plans"]` names them.

    Args:
        spec: Its options may also tell `io` (copy, zero-copy), `cuda_graph`, `spin`, `gpu` and `dla`.

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


def _launcher(graph: Graph, stream: Stream) -> Callable[[], None]:
    return lambda: graph.launch(stream)


def _sleeper(event: Event, stream: Stream) -> Callable[[], None]:
    """Wait asleep, by an event: what trtexec does unless it is told to spin."""

    def wait() -> None:
        event.record(stream)
        event.synchronize()

    return wait


class _Group:
    """What slots made together share: it goes with the last of them."""


class TensorRTRunner(Runner):
    """Plans on one GPU, its primary context current in the thread that opened it."""

    parallel = False

    def __init__(self, spec: RunnerSpec, paths: List[Path]) -> None:
        trt = compat.tensorrt()
        self._trt, self._log = trt, compat.logger(trt)
        self._options = spec.options
        self._one = threading.RLock()  # an execution context serves one query at a time, from bind to copy-out
        self._inside = 0  # how deep the thread that holds it is in work that must not be disturbed
        self._gone: Deque[Tuple[List[Owned], Optional[Binding]]] = deque()  # what nothing names, to be freed
        self.gpu = Context(int(spec.options.get("gpu", 0)))
        self.gpu.__enter__()
        self.flags: List[str] = []
        self._plans: List[Plan] = []
        self._bindings: List[Binding] = []
        self._kept: Dict[int, Tuple[List[np.ndarray[Any, Any]], Query]] = {}  # by batch: what `infer` runs
        try:
            self._plans = open_plans(trt, self._log, paths, spec.options.get("dla"))
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
            self._leave(*sys.exc_info())
            raise

    def _served(self, feeds: Feeds) -> Tuple[Plan, List[np.ndarray[Any, Any]]]:
        arrays = checked(self.inputs, feeds)
        batch = int(arrays[0].shape[0])
        plan = next((plan for plan in self._plans if batch in plan.batches), None)
        if plan is None:
            known = ", ".join(map(str, self.batches))
            raise UsageError(
                f"this engine serves batch {known}, not {batch}",
                f"optimize build MODEL --backend tensorrt --batch {batch}",
            )
        return plan, arrays

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads out, with the GPU's context current; what nothing names any longer is freed first."""
        with self._one, self.gpu.current():
            self._sweep()
            self._inside += 1
            try:
                yield
            finally:
                self._inside -= 1

    def _binding(self, plan: Plan, arrays: List[np.ndarray[Any, Any]]) -> Binding:
        """Buffers with the arrays in them, after a first run: what is allocated at first use is not timed."""
        binding = Binding(self.gpu, plan, int(arrays[0].shape[0]), self._options.get("io") == "zero-copy", self._one)
        try:
            for host, array in zip(binding.inputs, arrays):
                np.copyto(host.array, array)
            binding.claim()
            binding.copy_in(binding.stream)
            binding.execute(binding.stream)
            binding.copy_out(binding.stream)
            binding.stream.synchronize()
        except BaseException:
            self._wait()
            binding.free()
            raise
        self._bindings.append(binding)
        return binding

    def bind(self, feeds: Feeds) -> Query:
        """See `Runner.bind`: one stream, page-locked arrays; the caller's arrays are copied in each query."""
        with self._alone():
            plan, arrays = self._served(feeds)
            binding = self._binding(plan, arrays)
            stream = binding.stream
            pairs = [(host.array, array) for host, array in zip(binding.inputs, arrays)]
            results = {t.name: host.array for t, host in zip(self.outputs, binding.outputs)}

            def enqueue() -> None:
                binding.copy_in(stream)
                binding.execute(stream)
                binding.copy_out(stream)

            graph = self.graph(stream, enqueue) if self._options.get("cuda_graph") else None
            event = None if self._options.get("spin") else self.gpu.event(blocking=True)
            launch = enqueue if graph is None else _launcher(graph, stream)
            wait = stream.synchronize if event is None else _sleeper(event, stream)
        copy, busy, claim = np.copyto, plan.busy, binding.claim

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            for host, array in pairs:
                copy(host, array)
            if busy:
                claim()
            launch()
            wait()
            return results

        found = self._in_any_thread(query)
        self._with(found, [*binding.unseen(), *filter(None, (graph, event))], binding)
        return found

    def _with(self, thing: Any, owned: List[Owned], binding: Binding) -> None:
        """Free buffers and what goes with them once nothing names `thing`, or else when the runner is closed."""
        weakref.finalize(thing, self._later, owned, binding).atexit = False

    def _later(self, owned: List[Owned], binding: Optional[Binding] = None) -> None:
        """Free it now, or where that would disturb (the garbage collector comes at any time) with the next call."""
        self._gone.append((owned, binding))
        self._sweep()

    def _sweep(self) -> None:
        while self._gone and self._one.acquire(blocking=False):
            try:
                if self._inside:
                    return
                self._release(*self._gone.popleft())
            except IndexError:  # another thread was first
                return
            finally:
                self._one.release()

    def _release(self, owned: List[Owned], binding: Optional[Binding]) -> None:
        if not self._plans or (binding is not None and binding not in self._bindings):
            return  # closed: everything is freed
        with contextlib.suppress(CudaError), self.gpu.current():  # the device failed, and whoever waited was told
            if binding is not None:
                self._wait()
                self._bindings.remove(binding)
                binding.forget()
                binding.plan.busy.pop(binding.batch, None)
                for host in set(binding.outputs).difference(owned):
                    host.when_unseen(self._later)
            for thing in owned:
                thing.free()

    def infer(self, feeds: Feeds) -> Dict[str, np.ndarray[Any, Any]]:
        """See `Runner.infer`: one binding a batch serves all calls, since buffers live as long as the runner."""
        with self._alone():
            _, arrays = self._served(feeds)
            batch = int(arrays[0].shape[0])
            if batch not in self._kept:
                own = [array.copy() for array in arrays]
                self._kept[batch] = own, self.bind({t.name: array for t, array in zip(self.inputs, own)})
            own, query = self._kept[batch]
            for mine, array in zip(own, arrays):
                np.copyto(mine, array)
            return {name: value.copy() for name, value in query().items()}

    def _in_any_thread(self, query: Query) -> Query:
        one, is_current, current = self._one, self.gpu.checker(), self.gpu.current

        def anywhere() -> Dict[str, np.ndarray[Any, Any]]:
            with one:
                if is_current():
                    return query()
                with current():
                    return query()

        return anywhere

    def graph(self, stream: Stream, enqueue: Callable[[], None]) -> Optional[Graph]:
        """Capture work as a CUDA graph; where it cannot be captured, None and a flag, as trtexec falls back."""
        try:
            return self.gpu.capture(stream, enqueue)
        except (CudaError, OptimizeError):
            if "no-cuda-graph" not in self.flags:
                self.flags.append("no-cuda-graph")
            return None

    def slots(
        self, feeds: Feeds, count: int = 2, transfers: bool = True, graph: bool = False, spin: bool = False
    ) -> List[Slot]:
        """Slots for `bench.spans`: three streams, six events a slot, the buffers shared, as in trtexec.

        Raises:
            UsageError: A wrong input, or fewer than one slot.
        """
        if count < 1:
            raise UsageError(f"{count} slots: one or more are needed")
        with self._alone():
            binding = self._binding(*self._served(feeds))
            streams = (self.gpu.stream(), self.gpu.stream(), self.gpu.stream())
            captured = self.graph(streams[1], lambda: binding.execute(streams[1])) if graph else None
            made = [
                Slot(self.gpu, binding, streams, transfers and bool(binding.device), captured, spin)
                for _ in range(count)
            ]
        owned = [*streams, *filter(None, (captured,)), *(event for slot in made for event in slot.events())]
        group = _Group()
        for slot in made:
            slot.group = group
        self._with(group, [*owned, *binding.outputs, *binding.unseen()], binding)
        return made

    def achieved(self) -> Dict[str, int]:
        """Computing layers by precision, by the engine inspector; empty where the plan was built without names."""
        found: Dict[str, int] = {}
        with self._alone():
            inspected = layers.inspect(self._trt, self._plans[0].engine)["layers"]
        for layer in inspected:
            if layer["precision"]:
                found[layer["precision"]] = found.get(layer["precision"], 0) + 1
        return found

    def layer_times(self, feeds: Feeds, queries: int) -> LayerTimes:
        """See `Runner.layer_times`: TensorRT's profiler, which waits after every layer; layers that move data have no
        type.

        Raises:
            UsageError: Wrong feeds.
            CudaError: The device's work failed.
        """
        with self._alone():
            served, arrays = self._served(feeds)
            # a profiler cannot be taken off a context, and one profile has one context: so an engine of its own
            plan = Plan(self._trt, self._log, served.path, self._options.get("dla"))
            try:
                binding = self._binding(plan, arrays)
                binding.execute(binding.stream)
                binding.stream.synchronize()
                times = layers.profiler(self._trt)
                binding.context.profiler = times
                wall = np.zeros(queries)
                for number in range(queries):
                    start = time.perf_counter_ns()
                    binding.execute(binding.stream)
                    binding.stream.synchronize()
                    wall[number] = (time.perf_counter_ns() - start) / 1e6
                known = layers.inspect(self._trt, plan.engine)["layers"]
            finally:
                self._wait()
                for one in [one for one in self._bindings if one.plan is plan]:
                    self._bindings.remove(one)
                    one.free()
                plan.close()
        return layers.table(times.times, known, wall)

    def _wait(self) -> None:
        """Wait for the device before something is freed; if its work failed, whoever waited for it has been told."""
        with contextlib.suppress(CudaError):
            self.gpu.synchronize()

    def close(self) -> None:
        """Wait, free contexts, engines, buffers, streams and events, then leave the GPU's context; once is enough.

        Raises:
            CudaError: In another thread than the one that opened it, or the device's work failed.
        """
        self._leave(None, None, None)

    def __exit__(self, *exc: Any) -> None:
        """Close; a failure of that yields to an exception that is on its way."""
        self._leave(*exc)

    def _leave(self, *exc: Any) -> None:
        if not self.gpu.is_closable():
            self.gpu.__exit__(*exc)  # refuses, before anything was touched
            return
        with self._one:  # a query in another thread is waited for
            self._inside += 1
            try:
                if self._plans:
                    self._drop()
            finally:
                self._plans, self._bindings, self._kept = [], [], {}
                self._gone.clear()
                self._inside -= 1
                self.gpu.__exit__(*exc)

    def _drop(self) -> None:
        with self.gpu.current():
            self._wait()  # a context must outlive what it has queued
            for binding in self._bindings:
                binding.context = None
            for plan in self._plans:
                plan.close()
