"""Nodes without an effect, chains of Reshapes and Slices, and the forms of pooling and dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def test_idle_nodes_go(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Dropout", s.node("Identity", s.node("Relu", "x")), s.const(0.5))
    y = s.node("Transpose", s.node("Pad", y, s.ints(*[0] * 8)), perm=[0, 1, 2, 3])
    y = s.node("Reshape", y, s.ints(0, 3, -1, 5))
    y = s.node("Slice", y, s.ints(0), s.ints(2**63 - 1), s.ints(2))
    y = s.node("Cast", s.node("Concat", y, axis=1), to=1)
    assert ops(cleaned(s.model(["batch", 3, 4, 5], {y: None}))) == {"Relu": 1}


def test_what_joins_an_input_to_an_output_stays(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Relu", "x")
    outputs = {s.node("Identity", "x"): None, y: None, s.node("Identity", y): None}
    assert ops(cleaned(s.model(["batch", 3], outputs))) == {"Identity": 2, "Relu": 1}


def test_a_reshape_that_moves_elements_stays(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Reshape", s.node("Relu", "x"), s.ints(-1, 4, 3))
    assert ops(cleaned(s.model(["batch", 3, 4], {y: None}))) == {"Relu": 1, "Reshape": 1}


@pytest.mark.parametrize("form", ["squeeze", "reshape", "reduce", "flatten", "shape"])
def test_heads_after_global_pooling(form: str, sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Relu", s.conv("x", 3, 8))
    pooled = s.node("ReduceMean", y, axes=[-1, -2], keepdims=0) if form == "reduce" else s.node("GlobalAveragePool", y)
    if form == "squeeze":
        pooled = s.node("Squeeze", s.node("Unsqueeze", s.node("Squeeze", pooled, s.ints(3)), s.ints(3)), s.ints(2, 3))
    elif form == "reshape":
        pooled = s.node("Reshape", s.node("Reshape", pooled, s.ints(-1, 8, 1)), s.ints(0, 8))
    elif form == "flatten":
        pooled = s.node("Flatten", pooled)
    elif form == "shape":
        batch = s.node("Gather", s.node("Shape", pooled), s.const(0, np.int64))
        shape = s.node("Concat", s.node("Unsqueeze", batch, s.ints(0)), s.ints(8), axis=0)
        pooled = s.node("Reshape", pooled, shape)
    y = s.node("Add", s.node("MatMul", pooled, s.normal(8, 5)), s.normal(1, 5))
    found = ops(cleaned(s.model(["batch", 3, 6, 6], {y: None})))
    assert found == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


def test_slices_along_two_axes_become_one(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Slice", "x", s.ints(0), s.ints(2**63 - 1), s.ints(-2), s.ints(2))
    y = s.node("Slice", y, s.ints(1), s.ints(-1), s.ints(3), s.ints(2))
    assert ops(cleaned(s.model(["batch", 3, 8, 8], {y: None}))) == {"Slice": 1}
    s = sketch()
    y = s.node("Slice", "x", s.ints(1), s.ints(7), s.ints(2), s.ints(1))
    y = s.node("Slice", y, s.ints(1), s.ints(3), s.ints(2), s.ints(1))
    assert ops(cleaned(s.model(["batch", 3, 8, 8], {y: None}))) == {"Slice": 2}


def test_a_bias_of_another_shape_is_no_gemm(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Add", s.node("MatMul", "x", s.normal(6, 1)), s.normal(4))
    assert ops(cleaned(s.model(["batch", 6], {y: None}))) == {"MatMul": 1, "Add": 1}
