"""What is done to an FP32 graph before its types change: one form for constants, int8 weights, scales that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence, Union

import numpy as np

from calib import fp16_rules as rules
from calib import graph as graphs
from calib.fp16_rules import FLOAT, Format
from engines.errors import ModelError


def read(onnx: Union[str, Path]) -> Any:
    """A graph with its constants as initializers, none of them among the inputs.

    Raises:
        ModelError: Not an ONNX file, or damaged.
    """
    from onnx import numpy_helper

    from engines import onnxfile

    model = onnxfile.load(Path(onnx))
    graphs.constants_to_initializers(model)
    kept = []
    for node in model.graph.node:
        value = next((a for a in node.attribute if a.name in ("value_float", "value_floats")), None)
        if node.op_type != "Constant" or value is None:
            kept.append(node)
            continue
        number = np.array(value.f if value.name == "value_float" else list(value.floats), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(number, node.output[0]))
    replace(model.graph.node, kept)
    constants = {item.name for item in model.graph.initializer}
    replace(model.graph.input, [item for item in model.graph.input if item.name not in constants])
    model.ir_version = max(int(model.ir_version), 4)  # from there on initializers need not be inputs
    return model


def replace(items: Any, wanted: Sequence[Any]) -> None:
    """Let a repeated protobuf field hold `wanted`, which may be elements of it."""
    fresh = [type(item).FromString(item.SerializeToString()) for item in wanted]
    del items[:]
    items.extend(fresh)


def inferred(model: Any, name: str, strict: bool) -> Any:
    """The model with its types and shapes inferred anew; `strict` also demands that ONNX's checker takes it.

    Raises:
        ModelError: The graph contradicts itself.
    """
    import onnx

    del model.graph.value_info[:]
    try:
        found = onnx.shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict)
        if strict:
            onnx.checker.check_model(found)
        return found
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ModelError(f"{name}: ONNX refuses the graph ({line[:300]})", "export it again") from None


def drop_casts(model: Any, types: Mapping[str, int]) -> None:
    """Turn Casts from float32 to float32, which exporters leave behind, into Identity, in place."""
    for node in model.graph.node:
        if node.op_type == "Cast" and types.get(node.input[0]) == types.get(node.output[0]) == FLOAT:
            node.op_type = "Identity"
            del node.attribute[:]


def round_scales(model: Any, form: Format) -> None:
    """Put the scales of Q/DQ pairs on the 16-bit grid, in place, before the weights are quantised with them.

    Those of weights are rounded up, so that nothing is clipped and a channel of zeros keeps a positive scale. Those of
    activations that would change too much are left as they are, and their pairs stay in float32.
    """
    from onnx import numpy_helper

    graph = graphs.Graph(model)
    for node in graph.nodes:
        name = node.input[1] if node.op_type in rules.QDQ else ""
        scale = graph.array(name) if graph.is_float(name) else None
        if scale is None or any(graph.nodes[edge.node].op_type not in rules.QDQ for edge in graph.readers[name]):
            continue
        weight = node.input[0] in graph.constants
        if weight or rules.scale_fits(scale, form):
            grid = rules.rounded_up(scale, form) if weight else rules.rounded(scale, form)
            graph.constants[name].CopyFrom(numpy_helper.from_array(grid, name))


def fold_weights(model: Any) -> int:
    """Turn QuantizeLinear nodes of constants into int8 initializers, in place; returns how many."""
    from onnx import numpy_helper

    graph = graphs.Graph(model)
    gone = []
    for node in graph.nodes:
        scale = graph.array(node.input[1]) if node.op_type == "QuantizeLinear" else None
        zero = graph.array(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if scale is None or zero is None or zero.dtype not in (np.int8, np.uint8) or not graph.is_float(node.input[0]):
            continue
        if graphs.attribute(node, "block_size", 0) or node.output[0] in graph.outputs:
            continue
        weight = graph.array(node.input[0])
        assert weight is not None
        shape = [1] * weight.ndim
        if scale.size > 1:
            shape[graphs.attribute(node, "axis", 1)] = -1
        low, high = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
        units = np.rint(weight / scale.astype(np.float32).reshape(shape)) + zero.reshape(shape)
        quantised = np.clip(units, low, high).astype(zero.dtype)
        model.graph.initializer.append(numpy_helper.from_array(quantised, node.output[0]))
        gone.append(node)
    for node in gone:
        model.graph.node.remove(node)
    return len(gone)
