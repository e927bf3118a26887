"""Constant parts are computed once; shapes computed from shapes become constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper


def test_constant_nodes_of_every_kind(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    value = numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32))
    y = s.node("Mul", "x", s.node("Constant", value=value))
    y = s.node("Add", y, s.node("Constant", value_float=0.5))
    y = s.node("Add", y, s.node("Constant", value_floats=[0.25]))
    y = s.node("Unsqueeze", y, s.node("Constant", value_ints=[4]))
    y = s.node("ReduceSum", y, s.node("Unsqueeze", s.node("Constant", value_int=4), s.ints(0)), keepdims=0)
    net = cleaned(s.model(["batch", 3, 4, 4], {y: ["batch", 3, 4, 4]}))
    assert "Constant" not in ops(net)


def test_a_constant_part_with_two_readers_is_computed(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    pads = s.node("Reshape", s.node("Transpose", s.const(np.zeros((2, 4)), np.int64)), s.ints(-1))
    pads = s.node("Cast", s.node("Add", pads, s.ints(0, 1, 0, 0, 0, 2, 0, 0)), to=7)
    y = s.node("Add", s.node("Pad", "x", pads), s.node("Pad", s.node("Relu", "x"), pads))
    assert ops(cleaned(s.model(["batch", 3, 4, 4], {y: None}))) == {"Pad": 2, "Relu": 1, "Add": 1}


def test_a_constant_output_stays(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y, anchors = s.node("Relu", "x"), s.node("Mul", s.normal(4, 2), s.const(2.0))
    assert ops(cleaned(s.model(["batch", 3], {y: None, anchors: None}))) == {"Relu": 1, "Mul": 1}


def test_a_small_seed_of_a_large_constant_is_not_blown_up(sketch: Any, ops: Any) -> None:
    from optimize.exporters import graph
    from optimize.exporters.graph.net import Net

    s = sketch()
    large = s.node("ConstantOfShape", s.ints(1, 32, 1024, 1024))
    y = s.node("Add", "x", large)
    net = Net(s.model(["batch", 32, 1024, 1024], {y: None}))
    graph.clean(net)
    assert ops(net) == {"ConstantOfShape": 1, "Add": 1}


def test_reshape_by_the_input_s_own_batch(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    batch = s.node("Slice", s.node("Shape", "x"), s.ints(0), s.ints(1), s.ints(0))
    y = s.node("Reshape", s.node("Relu", "x"), s.node("Concat", batch, s.ints(4, 3), axis=0))
    assert ops(cleaned(s.model(["batch", 3, 4], {y: None}))) == {"Relu": 1, "Reshape": 1}


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("last", [12, -1])
def test_flatten_as_tensorflow_writes_it(opset: int, last: int, sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    turned = s.node("Transpose", s.node("Relu", "x"), perm=[0, 2, 1])
    shape = s.node("Cast", s.node("Gather", s.node("Shape", turned), s.ints(0, 2, 1)), to=6)
    shape = s.node("Slice", shape, s.ints(0), s.ints(1), s.ints(0))
    shape = s.node("Cast", s.node("Concat", shape, s.const([last], np.int32), axis=0), to=7)
    y = s.node("MatMul", s.node("Reshape", turned, shape), s.normal(12, 5))
    model = s.model(["batch", 3, 4], {y: ["batch", 5]}, opset=opset)
    assert ops(cleaned(model)) == {"Relu": 1, "Transpose": 1, "Flatten": 1, "MatMul": 1}


def test_what_no_runtime_computes_is_a_model_error(sketch: Any) -> None:
    from engines.errors import ModelError
    from optimize.exporters import graph
    from optimize.exporters.graph.net import Net

    s = sketch()
    y = s.node("Add", "x", s.node("Reshape", s.const([1, 2, 3]), s.const([2], np.int64)))
    made = helper.make_model(
        helper.make_graph(
            s.nodes,
            "net",
            [helper.make_tensor_value_info("x", 1, ["batch", 2])],
            [helper.make_tensor_value_info(y, 1, ["batch", 2])],
            s.constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    with pytest.raises(ModelError, match="constant part"):
        graph.clean(Net(made))
