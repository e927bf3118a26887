"""ONNX models of a few kilobytes that the cases build; the residual CNN is that of `tests.doubles.samples`."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.doubles.samples import BATCHES, cnn, expected, images

__all__ = ["BATCHES", "SHAPE", "cnn", "expected", "fixed", "images", "quantized_by", "unknown_operator"]

SHAPE = (3, 8, 8)
"""Of one image of the CNN; its input is `x`, its output `y` of 10 classes."""


def _model(nodes: Sequence[Any], shape: Sequence[Any], weights: Sequence[Any] = ()) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), "small", ends[:1], ends[1:], list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("optimize", 1)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def fixed() -> bytes:
    """`y = Relu(x)` for a batch of 2, which no profile can change."""
    return _model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [2, *SHAPE])


def unknown_operator() -> bytes:
    """A node 1 named `odd` whose operator `NoSuchOperator` no parser has."""
    nodes = [
        helper.make_node("Relu", ["x"], ["inner"], name="relu"),
        helper.make_node("NoSuchOperator", ["inner"], ["y"], name="odd", domain="optimize"),
    ]
    return _model(nodes, ["n", *SHAPE])


def quantized_by(zero_point: Any, scale: float = 0.03) -> bytes:
    """A Q/DQ pair with this zero point (a NumPy scalar) around a Relu."""
    weights = [numpy_helper.from_array(np.asarray(scale, np.float32), "s")]
    weights.append(numpy_helper.from_array(np.asarray(zero_point), "z"))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], name="dequantize"),
        helper.make_node("Relu", ["dq"], ["y"], name="relu"),
    ]
    return _model(nodes, ["n", *SHAPE], weights)
