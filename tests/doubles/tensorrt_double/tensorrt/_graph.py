"""What the engine computes: the model as ONNX Runtime shall run it.

- FP32 with TF32 allowed: weights rounded to TF32's ten bits of fraction.
- FP16: weights and every activation rounded to float16, overflow included.
- INT8 with Q/DQ: the graph as it is.
- INT8 with ranges from a calibrator: Q/DQ before the inputs of Conv, Gemm and MatMul, weights rounded per channel.
"""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Mapping

import numpy as np

from tensorrt._operators import WEIGHTED


def lower(model: Any, half: bool, tf32: bool, scales: Mapping[str, float], full: FrozenSet[str]) -> Any:
    """The model with the precision put into its graph.

    Args:
        model: An ONNX model with inferred shapes; it is not changed.
        half: Round to float16.
        tf32: Round weights to TF32.
        scales: Of each tensor, from a calibrator; empty without one.
        full: Names of nodes that stay in FP32.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = {name for node in made.graph.node if _name(node) in full for name in node.input}
    if scales:
        _quantize(made.graph, scales, full)
    for item in made.graph.initializer:
        if item.data_type == 1 and item.name not in kept:
            values = onnx.numpy_helper.to_array(item)
            if half:
                _put(item, _through_half(values))
            elif tf32 and values.ndim > 1:
                _put(item, _to_tf32(values))
    if half:
        _round_activations(made, full)
    return made


def _name(node: Any) -> str:
    return node.name or (node.output[0] if node.output else "")


def _through_half(values: Any) -> Any:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _to_tf32(values: Any) -> Any:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).reshape(values.shape)


def _put(item: Any, values: Any) -> None:
    from onnx import numpy_helper

    item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), item.name))


def floats(model: Any) -> FrozenSet[str]:
    """Names of the tensors that are float32, as shape inference knows them."""
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return frozenset(value.name for value in values if value.type.tensor_type.elem_type == 1)


def _round_activations(model: Any, full: FrozenSet[str]) -> None:
    """Cast each float tensor to float16 and back where it is made, and at the inputs."""
    from onnx import TensorProto, helper

    known = floats(model)
    outputs = {value.name for value in model.graph.output}
    constants = {item.name for item in model.graph.initializer}
    nodes: List[Any] = []
    renamed: Dict[str, str] = {}

    def through(source: str, target: str) -> List[Any]:
        halved = f"{target}__half"
        return [
            helper.make_node("Cast", [source], [halved], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [halved], [target], to=TensorProto.FLOAT),
        ]

    for value in model.graph.input:
        if value.name in known and value.name not in constants:
            renamed[value.name] = f"{value.name}__rounded"
            nodes += through(value.name, renamed[value.name])
    for node in model.graph.node:
        keep = _name(node) in full
        for place, name in enumerate(node.input):
            if name in renamed:
                node.input[place] = renamed[name]
        after: List[Any] = []
        for place, name in enumerate(node.output):
            if name in known and not keep and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                node.output[place] = f"{name}__exact"
                after += through(node.output[place], name)
        nodes += [node, *after]
    assert outputs
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _quantize(graph: Any, scales: Mapping[str, float], full: FrozenSet[str]) -> None:
    """Q/DQ before the data inputs of Conv, Gemm and MatMul, and their weights rounded per channel."""
    from onnx import helper, numpy_helper

    constants = {item.name: item for item in graph.initializer}
    done: Dict[str, str] = {}
    nodes: List[Any] = []
    for node in graph.node:
        if node.op_type in WEIGHTED and _name(node) not in full:
            for place, name in enumerate(node.input[:2]):
                if name in constants:
                    values = numpy_helper.to_array(constants[name])
                    axis = 1 if node.op_type in ("ConvTranspose", "MatMul") or _plain_gemm(node) else 0
                    _put(constants[name], _fake(values, axis))
                elif name in scales:
                    if name not in done:
                        done[name] = f"{name}__quantized"
                        scale = numpy_helper.from_array(np.array(scales[name], np.float32), f"{name}__scale")
                        zero = numpy_helper.from_array(np.array(0, np.int8), f"{name}__zero")
                        graph.initializer.extend([scale, zero])
                        pair = [scale.name, zero.name]
                        nodes.append(helper.make_node("QuantizeLinear", [name, *pair], [f"{name}__int8"]))
                        nodes.append(helper.make_node("DequantizeLinear", [f"{name}__int8", *pair], [done[name]]))
                    node.input[place] = done[name]
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _plain_gemm(node: Any) -> bool:
    return node.op_type == "Gemm" and not any(item.name == "transB" and item.i for item in node.attribute)


def _fake(values: Any, axis: int) -> Any:
    """Weights on the grid of int8, one scale per slice of the axis."""
    if values.ndim < 2:
        return values
    others = tuple(place for place in range(values.ndim) if place != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127.0, np.float32(1e-12))
    return (np.clip(np.round(values / scale), -127, 127) * scale).astype(np.float32)


def session(model: Any) -> Any:
    """Run a model on the CPU, in one thread, without logging."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def without_weights(model: Any) -> Any:
    """The same graph with its large constants as inputs: enough for shapes, and light."""
    from onnx import helper

    large = [item for item in model.graph.initializer if len(item.raw_data) > 1024]
    for item in large:
        model.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)))
        model.graph.initializer.remove(item)
    return model
