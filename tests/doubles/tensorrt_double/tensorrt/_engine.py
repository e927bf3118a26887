"""The runtime, and the engine that it makes of a plan."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional

from tensorrt import _driver
from tensorrt._check import Guarded, checked, stored
from tensorrt._context import IExecutionContext
from tensorrt._dtypes import member, numpy_of
from tensorrt._graph import session, without_weights
from tensorrt._inspector import EngineInspector
from tensorrt._log import error, misused, say
from tensorrt._plan import IHostMemory, tag, unpack
from tensorrt._real import NUMBERS, REAL


@checked(lacks=("stream_reader", "stream_reader_v2"))
class Runtime(Guarded):
    """Makes engines of plans."""

    def __init__(self, logger: Any) -> None:
        if not _driver.has_context() and _driver.library().cuInit(0):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    DLA_core = stored("int", -1)
    max_threads = stored("int", 1)
    error_recorder = stored("object", optional=True)
    gpu_allocator = stored("object", optional=True)
    engine_host_code_allowed = stored("bool", False)
    temporary_directory = stored("str", "/tmp", optional=True)
    tempfile_control_flags = stored("int", 3)
    dla_workspace_allocation_strategy = stored("object", optional=True)
    logger = property(lambda self: self._logger)
    num_DLA_cores = property(lambda self: int(os.environ.get("OPTIMIZE_DOUBLE_DLA", "0")))

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        content = bytes(serialized_engine)
        plan = unpack(content)
        why, code, kind = "", 4, "Internal Error"
        if plan is None:
            why, code, kind = (
                "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
                1,
                "Serialization",
            )
        elif plan.version != NUMBERS:
            why, code, kind = (
                "Serialization assertion stdVersionRead == serializationVersion failed.Version tag does not match. "
                f"Note: Current Version: {tag(NUMBERS)}, Serialized Engine Version: {tag(plan.version)}",
                1,
                "Serialization",
            )
        elif plan.capability != _driver.compute_capability():
            got, expected = [".".join(map(str, one)) for one in (_driver.compute_capability(), plan.capability)]
            why = (
                "The engine plan file is generated on an incompatible device, "
                f"expecting compute {got} got compute {expected}, please rebuild."
            )
        elif plan.facts["dla"] >= self.num_DLA_cores:
            why = f"the plan is for DLA core {plan.facts['dla']}, which this device does not have"
        if why or plan is None:
            error(self._logger, why, code, kind)
            error(self._logger, "[runtime.cpp::deserializeCudaEngine::66] Engine deserialization failed.")
            return None
        say(self._logger, "INFO", f"Loaded engine size: {len(content) >> 20} MiB")
        return ICudaEngine._make(content, plan, self._logger)


@checked(lacks=("runtime_config",))
class ICudaEngine(Guarded):
    """A loaded engine."""

    def _setup(self, content: bytes, plan: Any, logger: Any) -> None:
        self._content, self._facts, self._model, self._logger = content, plan.facts, plan.model, logger
        self._io = {one["name"]: one for one in plan.facts["io"]}
        self._contexts: List[Any] = []
        self._session: Any = None
        self._skeleton: Any = None
        self._known_shapes: Dict[int, Mapping[str, List[int]]] = {}

    error_recorder = stored("object", optional=True)
    name = property(lambda self: self._facts["name"])
    num_io_tensors = property(lambda self: len(self._io))
    num_bindings = property(lambda self: len(self._io) * len(self._facts["profiles"]))
    num_layers = property(lambda self: len(self._facts["layers"]))
    num_optimization_profiles = property(lambda self: len(self._facts["profiles"]))
    num_aux_streams = property(lambda self: 0)
    max_batch_size = property(lambda self: 1)
    refittable = property(lambda self: self._facts["refit"])
    has_implicit_batch_dimension = property(lambda self: False)
    device_memory_size = property(lambda self: max(self._facts["memory"]))
    device_memory_size_v2 = property(lambda self: max(self._facts["memory"]))
    streamable_weights_size = property(lambda self: 0)
    tactic_sources = property(lambda self: self._facts["sources"])
    profiling_verbosity = property(lambda self: getattr(REAL["ProfilingVerbosity"], self._facts["verbosity"]))
    engine_capability = property(lambda self: getattr(REAL["EngineCapability"], self._facts["capability"]))
    hardware_compatibility_level = property(lambda self: REAL["HardwareCompatibilityLevel"].NONE)

    def _run(self) -> Any:
        """The session, made when it is first wanted."""
        if self._session is None:
            import onnx

            self._session = session(onnx.ModelProto.FromString(self._model))
        return self._session

    def _tensor_shapes(self, profile: int) -> Mapping[str, List[int]]:
        """The shape of each tensor at a profile's best shapes."""
        if profile not in self._known_shapes:
            best = {name: shapes[1] for name, shapes in self._facts["profiles"][profile].items()}
            self._known_shapes[profile] = self._infer(best)
        return self._known_shapes[profile]

    def _infer(self, inputs: Mapping[str, List[int]]) -> Mapping[str, List[int]]:
        import onnx

        if self._skeleton is None:
            self._skeleton = without_weights(onnx.ModelProto.FromString(self._model))
        model = onnx.ModelProto()
        model.CopyFrom(self._skeleton)
        for value in model.graph.input:
            for place, size in enumerate(inputs.get(value.name, ())):
                value.type.tensor_type.shape.dim[place].dim_value = size
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        return {
            value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
            for value in values
        }

    def _one(self, name: str, where: str) -> Optional[Mapping[str, Any]]:
        if name not in self._io:
            misused(self._logger, f"ICudaEngine::{where}", f"name {name} is an input or output tensor")
        return self._io.get(name)

    def get_tensor_name(self, index: int) -> Any:
        names = list(self._io)
        return names[index] if 0 <= index < len(names) else None

    def get_tensor_mode(self, name: str) -> Any:
        one = self._one(name, "getTensorIOMode")
        return getattr(REAL["TensorIOMode"], one["mode"] if one else "NONE")

    def get_tensor_shape(self, name: str) -> Any:
        one = self._one(name, "getTensorShape")
        return REAL["Dims"](one["shape"] if one else [])

    def get_tensor_dtype(self, name: str) -> Any:
        one = self._one(name, "getTensorDataType")
        return member(one["kind"] if one else "FLOAT")

    def get_tensor_location(self, name: str) -> Any:
        self._one(name, "getTensorLocation")
        return REAL["TensorLocation"].DEVICE

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        return REAL["TensorFormat"].LINEAR

    def get_tensor_format_desc(self, name: str, profile_index: int = 0) -> str:
        return "Row major linear format (kLINEAR)"

    def get_tensor_vectorized_dim(self, name: str, profile_index: int = 0) -> int:
        return -1

    def get_tensor_components_per_element(self, name: str, profile_index: int = 0) -> int:
        return -1

    def get_tensor_bytes_per_component(self, name: str, profile_index: int = 0) -> int:
        one = self._one(name, "getTensorBytesPerComponent")
        return int(numpy_of(one["kind"]).itemsize) if one else -1

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        one = self._one(name, "getProfileShape")
        if one is None or one["mode"] != "INPUT" or not 0 <= profile_index < len(self._facts["profiles"]):
            return []
        return [REAL["Dims"](shape) for shape in self._facts["profiles"][profile_index][name]]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        return int(self._facts["memory"][profile_index])

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return int(self._facts["memory"][profile_index])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return list(self._io).index(index)
        if not 0 <= index < len(self._io):
            raise IndexError("Out of bounds")
        return list(self._io)[index]

    def __len__(self) -> int:
        return len(self._io)

    def serialize(self) -> Any:
        return IHostMemory._make(self._content)

    def create_engine_inspector(self) -> Any:
        return EngineInspector._make(self)

    def create_execution_context(self, strategy: Any = None) -> Any:
        if strategy is not None and strategy.name == "USER_MANAGED":
            return self._context(0)
        nbytes = max(self._facts["memory"])
        scratch = _driver.allocate(nbytes) if _driver.has_context() else 0
        if _driver.has_context() and not scratch:
            error(self._logger, f"Requested size was {nbytes} bytes.", 2, "OutOfMemory")
            return None
        return self._context(scratch)

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context(0)

    def _context(self, scratch: int) -> Any:
        if not _driver.has_context():
            error(self._logger, "an invalid device context (no currently active context?)", 1, "Cuda Runtime")
            return None
        return IExecutionContext._make(self, scratch)
