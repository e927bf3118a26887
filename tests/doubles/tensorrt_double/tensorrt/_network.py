"""The network: what the parser fills and the builder reads."""

# ruff: noqa: A002 - arguments are named as TensorRT names them
from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

from tensorrt import _dtypes
from tensorrt._check import Guarded, checked, setter, stored
from tensorrt._real import MAJOR, REAL


@checked()
class ITensor(Guarded):
    """A tensor of a network."""

    def _setup(self, name: str, dtype: str, shape: Sequence[int], role: str = "") -> None:
        self._name, self._kind, self._shape, self._role = name, dtype, tuple(shape), role
        self._location = REAL["TensorLocation"].DEVICE
        self._range: Optional[Tuple[float, float]] = None
        self._dimension_names: dict = {}  # type: ignore[type-arg]

    name = stored("str")
    location = stored("TensorLocation")
    allowed_formats = stored("int", 1)
    broadcast_across_batch = stored("bool", False)

    @property
    def dtype(self) -> Any:
        """Its data type; an input's or output's can be set, up to TensorRT 10."""
        return _dtypes.member(self._kind)

    @dtype.setter
    def dtype(self, value: Any) -> None:
        self._kind = setter("DataType")(value, "dtype").name

    @property
    def shape(self) -> Any:
        """Dims, -1 where it is free."""
        return REAL["Dims"](self._shape)

    @shape.setter
    def shape(self, value: Any) -> None:
        self._shape = tuple(setter("Dims")(value, "shape"))

    @property
    def dynamic_range(self) -> Any:
        """The range that was set, or None."""
        return self._range

    @dynamic_range.setter
    def dynamic_range(self, value: Any) -> None:
        low, high = value
        self._range = (float(low), float(high))

    def set_dynamic_range(self, min: float, max: float) -> bool:
        self._range = (min, max)
        return True

    def reset_dynamic_range(self) -> None:
        self._range = None

    def get_dimension_name(self, index: int) -> Any:
        return self._dimension_names.get(index)

    def set_dimension_name(self, index: int, name: str) -> None:
        self._dimension_names[index] = name

    is_network_input = property(lambda self: self._role == "input")
    is_network_output = property(lambda self: self._role == "output")
    is_shape_tensor = property(lambda self: False)
    is_execution_tensor = property(lambda self: True)


@checked()
class ILayer(Guarded):
    """A layer of a network."""

    def _setup(self, name: str, kind: str, inputs: List[Any], outputs: List[Any], node: str, operator: str) -> None:
        self._name, self._kind, self._inputs, self._outputs = name, kind, inputs, outputs
        self._node, self._operator = node, operator
        self._precision: Optional[str] = None
        self._types: dict = {}  # type: ignore[type-arg]

    name = stored("str")
    metadata = stored("str", "")
    num_ranks = stored("int", 1)

    @property
    def type(self) -> Any:
        """Its LayerType."""
        kinds = REAL["LayerType"]
        fallback = {"NORMALIZATION": "SCALE", "CAST": "IDENTITY"}
        return getattr(kinds, self._kind if hasattr(kinds, self._kind) else fallback[self._kind])

    @property
    def precision(self) -> Any:
        """The data type asked for, FLOAT where none was."""
        return _dtypes.member(self._precision or "FLOAT")

    @precision.setter
    def precision(self, value: Any) -> None:
        self._precision = setter("DataType")(value, "precision").name

    precision_is_set = property(lambda self: self._precision is not None)
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def reset_precision(self) -> None:
        self._precision = None

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if 0 <= index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if 0 <= index < len(self._outputs) else None

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._types[index] = dtype

    def get_output_type(self, index: int) -> Any:
        return self._types.get(index, self._outputs[index].dtype)

    def output_type_is_set(self, index: int) -> bool:
        return index in self._types

    def reset_output_type(self, index: int) -> None:
        self._types.pop(index, None)


@checked()
class INetworkDefinition(Guarded):
    """A network: empty until a parser fills it."""

    def _setup(self, builder: Any, flags: int) -> None:
        self._builder, self._flags = builder, flags
        self._inputs: List[Any] = []
        self._outputs: List[Any] = []
        self._layers: List[Any] = []
        self._model: Any = None
        self._name = "Unnamed Network 0"

    name = stored("str")
    error_recorder = stored("object", optional=True)
    builder = property(lambda self: self._builder)
    flags = property(lambda self: self._flags)
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))
    has_implicit_batch_dimension = property(lambda self: not self._explicit_batch())
    has_explicit_precision = property(lambda self: False)

    def _explicit_batch(self) -> bool:
        return MAJOR >= 10 or bool(self._flags & 1 << int(REAL["NetworkDefinitionCreationFlag"].EXPLICIT_BATCH))

    def _strongly_typed(self) -> bool:
        """From TensorRT 11 on, every network is."""
        flags = REAL["NetworkDefinitionCreationFlag"]
        asked = hasattr(flags, "STRONGLY_TYPED") and bool(self._flags & 1 << int(flags.STRONGLY_TYPED))
        return MAJOR >= 11 or asked

    def _explicitly_quantized(self) -> bool:
        return any(layer._kind in ("QUANTIZE", "DEQUANTIZE") for layer in self._layers)

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags & 1 << int(flag))

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if 0 <= index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if 0 <= index < len(self._outputs) else None

    def get_layer(self, index: int) -> Any:
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self._layers):
            raise IndexError("Out of bounds")
        return self._layers[index]
