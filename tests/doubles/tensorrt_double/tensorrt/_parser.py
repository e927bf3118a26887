"""The ONNX parser: a model into a network, or errors that name the node, the operator and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from tensorrt import _dtypes
from tensorrt._check import Guarded, checked
from tensorrt._log import say
from tensorrt._network import ILayer, ITensor
from tensorrt._operators import LAYERS, WEIGHTED
from tensorrt._real import MAJOR, NUMBERS, REAL


@checked()
class ParserError(Guarded):
    """Why a model was refused."""

    def _setup(self, code: str, desc: str, node: int = -1, name: str = "", operator: str = "") -> None:
        self._fields = (code, desc, node, name, operator)

    def code(self) -> Any:
        return getattr(REAL["ErrorCode"], self._fields[0])

    def desc(self) -> str:
        return self._fields[1]

    def node(self) -> int:
        return self._fields[2]

    def node_name(self) -> str:
        return self._fields[3]

    def node_operator(self) -> str:
        return self._fields[4]

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "parseNode" if self._fields[2] >= 0 else "importModel"

    def line(self) -> int:
        return 199

    def local_function_stack(self) -> List[str]:
        return []

    def local_function_stack_size(self) -> int:
        return 0

    def __repr__(self) -> str:
        code, desc, node, name, operator = self._fields
        return f"In node {node} with name: {name} and operator: {operator} ({self.func()}): {code}: {desc}"


class Refused(Exception):
    """The reason, as ParserError's fields."""


@checked()
class OnnxParser(Guarded):
    """Fills one network."""

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: List[Any] = []
        self._flags = 0

    num_errors = property(lambda self: len(self._errors))
    num_subgraphs = property(lambda self: 1 if self._network._layers else 0)

    @property
    def flags(self) -> int:
        """The flags as bits."""
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags & 1 << int(flag))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        return op_name in LAYERS

    def parse(self, model: Any, path: Optional[str] = None) -> bool:
        return self._parse(bytes(model), Path(path).parent if path else None)

    def parse_from_file(self, model: str) -> bool:
        try:
            content = Path(model).read_bytes()
        except OSError:
            return self._refuse("MODEL_DESERIALIZE_FAILED", f"Failed to open file: {model}")
        return self._parse(content, Path(model).parent)

    def supports_model_v2(self, model: Any, path: Optional[str] = None) -> bool:
        try:
            _layers(_read(bytes(model), Path(path).parent if path else None), {})
        except Refused as refused:
            return self._refuse(*refused.args)
        return True

    def _parse(self, content: bytes, folder: Optional[Path]) -> bool:
        try:
            if not self._network._explicit_batch():
                raise Refused(
                    "INVALID_VALUE",
                    "Assertion failed: !_importer_ctx.network()->hasImplicitBatchDimension() && "
                    '"This version of the ONNX parser only supports TensorRT INetworkDefinitions with an '
                    'explicit batch dimension."',
                )
            model = _read(content, folder)
            tensors: Dict[str, Any] = {}
            inputs, outputs = _ends(model, tensors)
            layers = _layers(model, tensors)
        except Refused as refused:
            return self._refuse(*refused.args)
        self._warn(model)
        network = self._network
        network._model, network._inputs, network._outputs, network._layers = model, inputs, outputs, layers
        return True

    def _warn(self, model: Any) -> None:
        if MAJOR < 10 and any(item.data_type == 7 for item in model.graph.initializer):
            say(
                self._logger,
                "WARNING",
                "Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support "
                "INT64. "
                "Attempting to cast down to INT32.",
            )
        opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
        if NUMBERS[:2] <= (8, 5) and opset > 17:
            say(self._logger, "WARNING", f"ONNX opset {opset} is newer than 17, the newest of this TensorRT")

    def _refuse(self, code: str, desc: str, node: int = -1, name: str = "", operator: str = "") -> bool:
        self._errors.append(ParserError._make(code, desc, node, name, operator))
        if node >= 0:
            say(self._logger, "ERROR", f'While parsing node number {node} [{operator} -> "{name}"]:')
            say(self._logger, "ERROR", "--- Begin node ---")
            say(self._logger, "ERROR", f'name: "{name}" op_type: "{operator}"')
            say(self._logger, "ERROR", "--- End node ---")
        say(self._logger, "ERROR", f"ERROR: ModelImporter.cpp:199 In function parseNode:\n[{_number(code)}] {desc}")
        return False


def _number(code: str) -> int:
    return int(getattr(REAL["ErrorCode"], code))


def _read(content: bytes, folder: Optional[Path]) -> Any:
    """The model with its external data read in and its shapes inferred."""
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:
        raise Refused("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.") from error
    if not model.graph.node:
        raise Refused("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.")
    try:
        if folder is not None:
            onnx.load_external_data_for_model(model, str(folder))
        return onnx.shape_inference.infer_shapes(model)
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise Refused("INVALID_GRAPH", f"Assertion failed: {error}") from error


def _shape(kind: Any) -> Tuple[int, ...]:
    return tuple(one.dim_value if one.HasField("dim_value") else -1 for one in kind.shape.dim)


def _ends(model: Any, tensors: Dict[str, Any]) -> Tuple[List[Any], List[Any]]:
    """The inputs and outputs of the graph as tensors."""
    constants = {item.name for item in model.graph.initializer}
    ends: Tuple[List[Any], List[Any]] = ([], [])
    for place, (role, values) in enumerate((("input", model.graph.input), ("output", model.graph.output))):
        for value in values:
            if value.name in constants:
                continue
            kind = value.type.tensor_type
            dtype = _dtypes.of_onnx(kind.elem_type)
            if not dtype:
                raise Refused(
                    "UNSUPPORTED_NODE", f"Failed to convert ONNX date type to TensorRT data type: {kind.elem_type}"
                )
            tensors[value.name] = ITensor._make(value.name, dtype, _shape(kind), role)
            ends[place].append(tensors[value.name])
    return ends


def _layers(model: Any, tensors: Dict[str, Any]) -> List[Any]:
    """A layer for each node, and one for each constant that is not a layer's own weights."""
    constants = {item.name: item for item in model.graph.initializer}
    known = {value.name: value.type.tensor_type for value in [*model.graph.value_info, *model.graph.output]}
    layers: List[Any] = []

    def tensor(name: str) -> Any:
        if name not in tensors:
            kind = known.get(name)
            constant = constants.get(name)
            element = constant.data_type if constant is not None else kind.elem_type if kind is not None else 1
            shape = tuple(constant.dims) if constant is not None else _shape(kind) if kind is not None else ()
            tensors[name] = ITensor._make(name, _dtypes.of_onnx(element) or "FLOAT", shape)
        return tensors[name]

    for number, node in enumerate(model.graph.node):
        _accept(number, node, constants)
        for name in node.input:
            if name in constants and name not in tensors and node.op_type not in (*WEIGHTED, "BatchNormalization"):
                layers.append(ILayer._make(name, "CONSTANT", [], [tensor(name)], "", "Constant"))
        own = [name for name in node.input if name and (name not in constants or node.op_type not in WEIGHTED)]
        name = node.name or f"(Unnamed Layer* {len(layers)}) [{LAYERS[node.op_type].title()}]"
        made = ILayer._make(
            name,
            LAYERS[node.op_type],
            [tensor(one) for one in own],
            [tensor(one) for one in node.output if one],
            node.name or node.output[0],
            node.op_type,
        )
        layers.append(made)
    return layers


def _accept(number: int, node: Any, constants: Dict[str, Any]) -> None:
    """Refuse a node as the parser would."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in LAYERS:
        raise Refused(
            "UNSUPPORTED_NODE",
            f"No importer registered for op: {node.op_type}. Attempting to import as plugin. "
            "Assertion failed: creator && "
            '"Plugin not found, are the plugin name, version, and namespace correct?"',
            number,
            node.name,
            node.op_type,
        )
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        why = _bad_quantization(node, constants)
        if why:
            raise Refused("INVALID_NODE", f"Assertion failed: {why}", number, node.name, node.op_type)


def _bad_quantization(node: Any, constants: Dict[str, Any]) -> str:
    """Why TensorRT does not take this Q or DQ, or ""."""
    from onnx import TensorProto, numpy_helper

    if node.input[1] not in constants:
        return 'scale.is_weights() && "The scale of a quantization layer must be a constant"'
    if not (numpy_helper.to_array(constants[node.input[1]]) > 0).all():
        return 'scaleAllPositive && "Scale coefficients must all be positive"'
    if len(node.input) > 2 and node.input[2]:
        zero = constants.get(node.input[2])
        if zero is None or zero.data_type != TensorProto.INT8:
            return 'zeroPoint.type == INT8 && "TensorRT only supports INT8 quantization: the zero point must be int8"'
        if numpy_helper.to_array(zero).any():
            return 'shiftIsAllZeros(zeroPoint) && "TRT only supports symmetric quantization: non-zero zero point"'
    elif node.op_type == "QuantizeLinear":
        return 'zeroPoint && "TensorRT only supports INT8 quantization: without a zero point the type is uint8"'
    return ""
