"""An execution context: shapes, addresses, and the work on a stream."""

from __future__ import annotations

import time
import weakref
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np

from tensorrt import _driver
from tensorrt._check import Guarded, checked, setter, stored, swallowed
from tensorrt._dtypes import numpy_of
from tensorrt._log import error, misused
from tensorrt._real import MAJOR, REAL


@checked(lacks=("bindings", "batch_size"))
class IExecutionContext(Guarded):
    """Runs an engine with one profile at a time."""

    def _setup(self, engine: Any, scratch: int) -> None:
        self._engine, self._logger, self._scratch = engine, engine._logger, scratch
        self._addresses: Dict[str, int] = {}
        self._allocators: Dict[str, Any] = {}
        self._inputs: Dict[str, Tuple[int, ...]] = {}
        self._outputs: Dict[Any, Mapping[str, List[int]]] = {}
        self._pending: List[Tuple[str, float]] = []
        live = [one for one in (reference() for reference in engine._contexts) if one is not None]
        engine._contexts[:] = [weakref.ref(one) for one in [*live, self]]
        self._profile = 0 if engine._facts["sharing"] or not live else -1
        self._fix()

    name = stored("str", "")
    debug_sync = stored("bool", False)
    device_memory = stored("int", 0)
    enqueue_emits_profile = stored("bool", True)
    error_recorder = stored("object", optional=True)
    nvtx_verbosity = stored("ProfilingVerbosity", lambda: REAL["ProfilingVerbosity"].LAYER_NAMES_ONLY)
    persistent_cache_limit = stored("int", 0)
    profiler = stored("IProfiler", optional=True)
    temporary_allocator = stored("object", optional=True)
    unfused_tensors_debug_state = stored("bool", False)
    engine = property(lambda self: self._engine)
    all_shape_inputs_specified = property(lambda self: True)
    all_binding_shapes_specified = property(lambda self: not self._unset())

    @property
    def active_optimization_profile(self) -> int:
        """The profile in use, -1 where none is chosen yet."""
        return self._profile

    @active_optimization_profile.setter
    def active_optimization_profile(self, value: int) -> None:
        self.set_optimization_profile_async(setter("int")(value, "active_optimization_profile"), 0)

    def _fix(self) -> None:
        """Take the shapes that are not free; the others have to be set anew."""
        ends = self._engine._facts["io"]
        free = [one for one in ends if one["mode"] == "INPUT"]
        self._inputs = {one["name"]: tuple(one["shape"]) for one in free if -1 not in one["shape"]}

    def _unset(self) -> List[str]:
        ends = self._engine._facts["io"]
        return [one["name"] for one in ends if one["mode"] == "INPUT" and one["name"] not in self._inputs]

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        count = len(self._engine._facts["profiles"])
        if not 0 <= profile_index < count:
            misused(
                self._logger,
                "IExecutionContext::setOptimizationProfileAsync",
                f"0 <= profileIndex && profileIndex < {count}",
            )
            return False
        others = [reference() for reference in self._engine._contexts]
        if not self._engine._facts["sharing"]:
            taken = [one._profile for one in others if one is not None and one is not self]
            if profile_index in taken:
                error(
                    self._logger,
                    f"Profile {profile_index} has been chosen by another IExecutionContext. Use another "
                    "profileIndex or destroy the IExecutionContext that use this profile.",
                    3,
                    "API Usage Error",
                )
                return False
        self._profile = profile_index
        self._fix()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        where = "IExecutionContext::setInputShape"
        one = self._engine._io.get(name)
        if one is None or one["mode"] != "INPUT":
            misused(self._logger, where, f"{name} is an input tensor")
            return False
        wanted = tuple(shape)
        if self._profile < 0:
            misused(self._logger, where, "an optimization profile was chosen")
            return False
        low, _, high = self._engine._facts["profiles"][self._profile][name]
        if len(wanted) != len(low) or any(not a <= value <= b for a, value, b in zip(low, wanted, high)):
            misused(
                self._logger,
                where,
                "engineDims.d[i] == dims.d[i]. Static dimension mismatch or out of "
                f"profile {self._profile} while setting "
                f"input shape for {name}: {list(wanted)} is not in [{low}, {high}]",
            )
            return False
        self._inputs[name] = wanted
        return True

    def _shapes(self) -> Mapping[str, List[int]]:
        """Shapes of all inputs and outputs; empty where an input has none yet."""
        if self._unset():
            return {}
        key = tuple(sorted(self._inputs.items()))
        if key not in self._outputs:
            known = self._engine._infer({name: list(shape) for name, shape in self._inputs.items()})
            self._outputs[key] = {name: known.get(name, []) for name in self._engine._io}
        return self._outputs[key]

    def get_tensor_shape(self, name: str) -> Any:
        if name not in self._engine._io:
            misused(self._logger, "IExecutionContext::getTensorShape", f"name {name} is an input or output tensor")
            return REAL["Dims"]([])
        return REAL["Dims"](self._inputs.get(name) or self._shapes().get(name) or self._engine._io[name]["shape"])

    def get_tensor_strides(self, name: str) -> Any:
        shape = list(self.get_tensor_shape(name))
        strides = [1] * len(shape)
        for place in range(len(shape) - 2, -1, -1):
            strides[place] = strides[place + 1] * shape[place + 1]
        return REAL["Dims"](strides)

    def get_max_output_size(self, name: str) -> int:
        return self._nbytes(name)

    def _nbytes(self, name: str) -> int:
        shape = self._shapes().get(name, [])
        return int(np.prod(shape, dtype=np.int64)) * int(numpy_of(self._engine._io[name]["kind"]).itemsize)

    def infer_shapes(self) -> List[str]:
        return self._unset()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._io:
            misused(self._logger, "IExecutionContext::setTensorAddress", f"name {name} is an input or output tensor")
            return False
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        one = self._engine._io.get(name)
        if one is None or one["mode"] != "OUTPUT":
            return False
        self._allocators[name] = output_allocator
        return True

    def get_output_allocator(self, name: str) -> Any:
        return self._allocators.get(name)

    def set_aux_streams(self, aux_streams: List[int]) -> None:
        """Taken: the double uses none."""

    def report_to_profiler(self) -> bool:
        if self.profiler is None or not self._pending:
            error(self._logger, "no execution to report: attach a profiler, enqueue, synchronize", 3, "API Usage Error")
            return False
        self._report()
        return True

    def _report(self) -> None:
        for name, milliseconds in self._pending:
            swallowed(
                "report_layer_time", lambda name=name, ms=milliseconds: self.profiler.report_layer_time(name, ms), None
            )
        self._pending = []

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._ready():
            return False
        if not _driver.has_context():
            error(self._logger, "an invalid device context (no currently active context?)", 1, "Cuda Runtime")
            return False
        emits = self.profiler is not None and self.enqueue_emits_profile
        if emits and _driver.is_capturing(stream_handle):
            error(self._logger, "operation not permitted when stream is capturing", 1, "Cuda Runtime")
            return False
        self._allocate()
        if not _driver.enqueue(stream_handle, self._key(), self._work()):
            error(self._logger, "the stream does not take work", 1, "Cuda Runtime")
            return False
        if emits:
            if not _driver.synchronize(stream_handle):
                return False
            self._report()
        return True

    def execute_v2(self, bindings: List[int]) -> bool:
        for name, address in zip(self._engine._io, bindings):
            self._addresses[name] = address
        return self.execute_async_v3(0) and _driver.synchronize(0)

    def execute_async_v2(self, bindings: List[int], stream_handle: int, input_consumed: Any = None) -> bool:
        for name, address in zip(self._engine._io, bindings):
            self._addresses[name] = address
        return self.execute_async_v3(stream_handle)

    def _ready(self) -> bool:
        where = "IExecutionContext::enqueueV3"
        if self._profile < 0:
            misused(self._logger, where, "an optimization profile was chosen (mOptimizationProfile >= 0)")
            return False
        if not self._scratch and not self.device_memory:
            misused(self._logger, where, "mContext.deviceMemory: no device memory was given to this context")
            return False
        for name in self._unset():
            misused(self._logger, where, f"allInputDimensionsSpecified(routine). Missing dimensions of input {name}")
            return False
        for name in self._engine._io:
            if not self._addresses.get(name) and self._allocators.get(name) is None:
                misused(
                    self._logger,
                    where,
                    "mContext.profileObliviousBindings.at(profileObliviousIndex) || getPtrOrNull(mOutputAllocators, "
                    f"profileObliviousIndex): no address for {name}",
                )
                return False
        return True

    def _allocate(self) -> None:
        """Ask the callers' allocators for room, and tell them the shapes."""
        for name, allocator in self._allocators.items():
            if allocator is not None:
                have, size = self._addresses.get(name, 0), self._nbytes(name)
                given = swallowed("reallocate_output", _asking(allocator, name, have, size), have)
                self._addresses[name] = int(given or 0)
                dims = REAL["Dims"](self._shapes()[name])
                swallowed(
                    "notify_shape", lambda one=allocator, name=name, dims=dims: one.notify_shape(name, dims), None
                )

    def _key(self) -> Any:
        """The same for the same work, so that a loop queues one and the same thing."""
        ends = tuple((name, self._addresses[name]) for name in self._engine._io)
        return id(self), self._profile, tuple(sorted(self._inputs.items())), ends

    def _work(self) -> Callable[[], None]:
        """What the stream will do: addresses and shapes are those of now, contents those of then."""
        engine = self._engine
        shapes = {name: tuple(self._shapes()[name]) for name in engine._io}
        addresses = dict(self._addresses)
        alive = weakref.ref(self)
        runner, ends = engine._run(), engine._facts["io"]

        def run() -> None:
            spent = _compute(ends, shapes, addresses, runner)
            context = alive()
            if context is not None:
                context._time(spent)

        return run

    def _time(self, seconds: float) -> None:
        """Share the time of a run among the layers, by what they cost."""
        if self.profiler is not None:
            layers = self._engine._facts["layers"]
            total = sum(layer["cost"] for layer in layers)
            suffix = f" [profile {self._profile}]" if self._profile else ""
            self._pending = [(layer["name"] + suffix, seconds * 1e3 * layer["cost"] / total) for layer in layers]

    def __del__(self) -> None:
        _driver.forget(id(self))
        if getattr(self, "_scratch", 0):
            _driver.free(self._scratch)


def _asking(allocator: Any, name: str, have: int, size: int) -> Callable[[], Any]:
    if MAJOR >= 10 and hasattr(type(allocator), "reallocate_output_async"):
        return lambda: allocator.reallocate_output_async(name, have, size, 256, 0)
    return lambda: allocator.reallocate_output(name, have, size, 256)


def _compute(ends: Any, shapes: Mapping[str, Tuple[int, ...]], addresses: Mapping[str, int], runner: Any) -> float:
    """Run the model on device memory; gives the seconds that it took."""
    feeds: Dict[str, Any] = {}
    wanted = {one.name: one.type for one in runner.get_inputs()}
    for one in ends:
        if one["mode"] == "INPUT":
            dtype = numpy_of(one["kind"])
            content = _driver.read(addresses[one["name"]], _size(one, shapes, addresses))
            array = np.frombuffer(content, dtype).reshape(shapes[one["name"]])
            feeds[one["name"]] = array.astype(np.int64) if wanted[one["name"]] == "tensor(int64)" else array
    names = [one["name"] for one in ends if one["mode"] == "OUTPUT"]
    started = time.perf_counter()
    results = runner.run(names, feeds)
    spent = time.perf_counter() - started
    for one in ends:
        if one["mode"] == "OUTPUT":
            array = np.ascontiguousarray(results[names.index(one["name"])], numpy_of(one["kind"]))
            _size(one, {one["name"]: array.shape}, addresses)
            _driver.write(addresses[one["name"]], array.tobytes())
    return spent


def _size(one: Mapping[str, Any], shapes: Mapping[str, Tuple[int, ...]], addresses: Mapping[str, int]) -> int:
    """Bytes of a tensor, which its buffer has to hold.

    Raises:
        RuntimeError: The buffer is too short, or is none.
    """
    nbytes = int(np.prod(shapes[one["name"]], dtype=np.int64)) * int(numpy_of(one["kind"]).itemsize)
    if not _driver.holds(addresses[one["name"]], nbytes):
        raise RuntimeError(f"an illegal memory access was encountered: {one['name']} needs {nbytes} bytes")
    return nbytes
