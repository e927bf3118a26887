"""Graphs in half, mixed and double precision become true float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from engines.errors import ModelError
from optimize.exporters import graph
from optimize.exporters.graph.net import Net


def test_a_mixed_graph_has_no_cast_left(sketch: Any, ops: Any, onnx_run: Any) -> None:
    s = sketch()
    half = s.node("Cast", "x", to=TensorProto.FLOAT16)
    weight = s.const(s.random.normal(0, 0.2, (8, 3, 3, 3)), np.float16)
    y = s.node("Conv", half, weight, pads=[1] * 4)
    y = s.bn(s.node("Cast", y, to=TensorProto.FLOAT), 8)
    y = s.node("Cast", s.node("Cast", y, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    model = s.model(["batch", 3, 6, 6], {y: None})
    net = Net(model)
    assert graph.mixed(net)
    graph.clean(net)
    assert ops(net) == {"Conv": 1} and not graph.mixed(net)
    x = {"x": np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(onnx_run(graph.finish(net, "n"), x)[0], onnx_run(model, x)[0], atol=2e-2)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_inputs_and_outputs_become_float32(dtype: int, sketch: Any, ops: Any) -> None:
    s = sketch()
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float64
    y = s.node("Relu", s.node("MatMul", "x", s.const(np.eye(4), kind)))
    net = Net(s.model(["batch", 4], {y: None}, dtype=dtype))
    graph.clean(net)
    made = graph.finish(net, "n")
    kinds = [i.type.tensor_type.elem_type for i in (*made.graph.input, *made.graph.output)]
    assert kinds == [TensorProto.FLOAT] * 2 and ops(net) == {"MatMul": 1, "Relu": 1}


def test_casts_of_integers_are_needed(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    whole = s.node("Cast", s.node("Cast", "x", to=TensorProto.INT32), to=TensorProto.FLOAT)
    assert ops(cleaned(s.model(["batch", 4], {s.node("Mul", whole, "x"): None}))) == {"Cast": 2, "Mul": 1}


def test_a_quantised_graph_is_refused(sketch: Any) -> None:
    s = sketch()
    scale, zero = s.const(0.1), s.const(0, np.int8)
    y = s.node("DequantizeLinear", s.node("QuantizeLinear", "x", scale, zero), scale, zero)
    with pytest.raises(ModelError, match=r"quantised already .QuantizeLinear"):
        graph.clean(Net(s.model(["batch", 4], {y: None})))


def test_attributes_with_a_type(sketch: Any, ops: Any) -> None:
    s = sketch()
    value = helper.make_tensor("value", TensorProto.FLOAT16, [1], [1.0])
    ones = s.node("ConstantOfShape", s.node("Shape", "x"), value=value)
    y = s.node("Add", s.node("Cast", ones, to=TensorProto.FLOAT), "x")
    net = Net(s.model(["batch", 4], {y: None}))
    graph.clean(net)
    graph.finish(net, "n")
    assert "Cast" not in ops(net)
