"""Folding of BatchNormalization, Mul, Add, Sub and Div into their neighbours, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_conv_and_batchnorm_become_one_conv(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.bn(s.conv("x", 3, 8, bias=False), 8)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Conv": 1}


def test_batchnorm_written_as_mul_and_add(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv("x", 3, 8)
    y = s.node("Mul", s.normal(8, 1, 1), y)
    y = s.node("Sub", s.node("Add", y, s.normal(1, 8, 1, 1)), s.normal(1))
    y = s.node("Div", y, s.const(3.0))
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Conv": 1}


def test_constant_minus_conv(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Sub", s.normal(8, 1, 1), s.conv("x", 3, 8))
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Conv": 1}


def test_division_by_a_layer_is_no_scale(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Div", s.normal(8, 1, 1), s.node("Exp", s.conv("x", 3, 8)))
    assert ops(cleaned(s.model(["batch", 3, 5, 5], {y: None}))) == {"Conv": 1, "Exp": 1, "Div": 1}


def test_batchnorm_before_a_padded_conv_stays(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv(s.bn("x", 3), 3, 8)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"BatchNormalization": 1, "Conv": 1}


def test_batchnorm_before_an_automatically_padded_conv_stays(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Conv", s.bn("x", 3), s.normal(8, 3, 3, 3), auto_pad="SAME_UPPER")
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"BatchNormalization": 1, "Conv": 1}


def test_a_scale_alone_passes_padding(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv(s.node("Mul", "x", s.const(1 / 255)), 3, 8)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Conv": 1}


def test_batchnorm_before_an_unpadded_conv_and_a_dense_layer(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv(s.bn("x", 4), 4, 6, group=2, pads=[0, 0, 0, 0])
    y = s.node("Flatten", s.node("GlobalAveragePool", s.node("Relu", y)), axis=1)
    y = s.node("Gemm", s.bn(y, 6), s.normal(10, 6), s.normal(10), transB=1, alpha=0.5, beta=2.0)
    found = ops(cleaned(s.model(["batch", 4, 9, 9], {y: None})))
    assert found == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


def test_preactivation_that_cannot_fold_stays(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    a = s.conv("x", 3, 8)
    b = s.node("Add", a, s.conv(a, 8, 8))
    y = s.conv(s.node("Relu", s.bn(b, 8)), 8, 8)
    out = s.node("Add", y, b)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {out: None})))["BatchNormalization"] == 1


def test_a_conv_that_others_read_is_left(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    a = s.conv("x", 3, 8)
    y = s.node("Add", s.node("Relu", a), s.bn(a, 8))
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None})))["BatchNormalization"] == 1


def test_a_conv_that_is_an_output_is_left(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    a = s.conv("x", 3, 8)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {a: None, s.bn(a, 8): None})))["BatchNormalization"] == 1


def test_a_weight_that_two_layers_share_is_scaled_for_one(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    weight = s.normal(3, 3, 3, 3)
    a = s.bn(s.node("Conv", "x", weight, pads=[1] * 4), 3)
    y = s.node("Conv", s.node("Relu", a), weight, pads=[1] * 4)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Conv": 2, "Relu": 1}


def test_a_constant_over_space_is_no_channel_constant(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Mul", s.conv("x", 3, 5, 1), s.normal(1, 5))  # the last axis, which has as many elements
    assert ops(cleaned(s.model(["batch", 3, 5, 5], {y: None}))) == {"Conv": 1, "Mul": 1}


def test_a_constant_that_makes_more_channels_is_left(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv(s.node("Mul", "x", s.normal(4, 1, 1)), 4, 5, pads=[0] * 4)
    assert ops(cleaned(s.model(["batch", 1, 5, 5], {y: None}))) == {"Mul": 1, "Conv": 1}


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions(group: int, sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("ConvTranspose", "x", s.normal(4, 3, 3, 3), strides=[2, 2], group=group)
    y = s.bn(y, 3 * group)
    assert ops(cleaned(s.model(["batch", 4, 5, 5], {y: None}))) == {"ConvTranspose": 1}


def test_dense_layers_of_two_and_three_axes(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    flat = s.node("Add", s.node("MatMul", "x", s.normal(6, 4)), s.normal(4))
    y = s.node("Mul", flat, s.normal(4))
    assert ops(cleaned(s.model(["batch", 6], {y: None}))) == {"Gemm": 1}
    s = sketch()
    y = s.node("Add", s.node("Mul", s.node("MatMul", "x", s.normal(6, 4)), s.normal(4)), s.normal(4))
    assert ops(cleaned(s.model(["batch", 7, 6], {y: None}))) == {"MatMul": 1, "Add": 1}


@QUICK
@given(
    seed=st.integers(0, 2**31),
    steps=st.lists(st.sampled_from(["conv", "valid", "bn", "mul", "add", "relu", "skip"]), min_size=1, max_size=8),
)
def test_any_chain_keeps_its_result(seed: int, steps: Any, sketch: Any, cleaned: Any) -> None:
    s = sketch(seed)
    y, last = s.node("Identity", "x"), "x"
    size = 14
    for step in steps:
        before = y
        if step == "conv" or (step == "valid" and size < 5):
            y = s.conv(y, 4, 4, bias=seed % 2 == 0)
        elif step == "valid":
            y, size, last = s.conv(y, 4, 4, pads=[0] * 4), size - 2, ""
        elif step == "bn":
            y = s.bn(y, 4)
        elif step in ("mul", "add"):
            y = s.node(step.capitalize(), y, s.normal(4, 1, 1))
        elif step == "relu":
            y = s.node("Relu", y)
        elif last:
            y = s.node("Add", y, last)
        last = before if step != "valid" else y
    net = cleaned(s.model(["batch", 4, 14, 14], {y: None}), tolerance=1e-4)
    assert all(value.dtype == np.float32 for value in net.constants.values())
