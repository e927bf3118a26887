"""Everything in float32: weights, inputs and outputs, and no cast between floating-point formats."""

from __future__ import annotations

from typing import Any, Tuple

import numpy as np

from engines.errors import ModelError
from optimize.exporters.graph.net import Net, attributes


def _other_floats() -> Tuple[int, ...]:
    from onnx import TensorProto

    return (int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16), int(TensorProto.DOUBLE))


_FLOAT = 1
"""TensorProto.FLOAT"""

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def other_floats(net: Net) -> bool:
    """Whether any tensor, weights excepted, is in a floating-point format that is not float32."""
    other = _other_floats()
    return any(kind in other for name, kind in net.types.items() if name not in net.constants)


def to_float32(net: Net) -> bool:
    """Turn every other floating-point format of a graph into float32, and drop casts between them.

    Raises:
        ModelError: The graph is quantised: its float32 original cannot be had from it.
    """
    for node in net.nodes:
        if node.op_type in _QUANTISED:
            raise ModelError(
                f"the graph is quantised already ({node.op_type} at node {node.name!r})",
                "give the model in floating point",
            )
    other = _other_floats()
    found = False
    for item in (*net.graph.input, *net.graph.output):
        if item.type.tensor_type.elem_type in other:
            item.type.tensor_type.elem_type = _FLOAT
            found = True
    for name, value in net.constants.items():
        if value.dtype.name in ("float16", "bfloat16", "float64"):
            net.constants[name] = value.astype(np.float32)
            found = True
    for node in net.nodes:
        for item in node.attribute:
            if item.HasField("g") or item.graphs:
                continue
            found |= _attribute(item, other)
    if found:
        net.changed()
    return _casts(net) or found


def _attribute(item: Any, other: Tuple[int, ...]) -> bool:
    from onnx import numpy_helper

    if item.name in ("to", "dtype") and item.i in other:
        item.i = _FLOAT
        return True
    if item.HasField("t") and item.t.data_type in other:
        value = np.asarray(numpy_helper.to_array(item.t)).astype(np.float32)
        item.t.CopyFrom(numpy_helper.from_array(value, item.t.name))
        return True
    return False


def _casts(net: Net) -> bool:
    """Drop casts to the type that a tensor has anyway."""
    found = False
    for node in list(net.nodes):
        if node.op_type == "Cast" and net.types.get(node.input[0]) == attributes(node)["to"]:
            found |= net.bypass(node)
        elif node.op_type == "CastLike" and len({net.types.get(name) for name in node.input}) == 1:
            found |= net.types.get(node.input[0]) is not None and net.bypass(node)
    return found
