"""Transposes that meet and cancel, whatever stands between them."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEPS = ["conv", "relu", "bias", "space", "skip", "gate", "concat", "pad", "out"]
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def nhwc(s: Any, x: str, i: int, o: int, kernel: int = 3, **attributes: Any) -> str:
    """A convolution as TensorFlow means it."""
    y = s.conv(s.node("Transpose", x, perm=FIRST), i, o, kernel, **attributes)
    return str(s.node("Transpose", y, perm=LAST))


def test_a_channels_last_network_keeps_one_transpose(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    a = s.node("Relu", s.node("Add", nhwc(s, s.node("Mul", "x", s.normal(3)), 3, 8), s.normal(8)))
    b = s.node("Add", a, nhwc(s, s.node("Relu", nhwc(s, a, 8, 8)), 8, 8))
    y = s.node("ReduceMean", s.node("Relu", b), axes=[1, 2], keepdims=0)
    net = cleaned(s.model(["batch", 9, 9, 3], {y: None}))
    assert ops(net) == {"Transpose": 1, "Conv": 3, "Relu": 3, "Add": 1, "GlobalAveragePool": 1, "Flatten": 1}
    assert net.nodes[0].op_type == "Transpose"


def test_1x1_maps_turned_by_reshapes(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv("x", 3, 8, strides=[3, 3], pads=[1, 1, 1, 1])
    for turn in range(3):
        y = s.node("Relu", s.node("Reshape", y, s.ints(-1, 1, 1, 8)))
        y = s.bn(s.conv(s.node("Reshape", y, s.ints(-1, 8, 1, 1)), 8, 8, 3, bias=turn > 0), 8)
    assert ops(cleaned(s.model(["batch", 3, 3, 3], {y: None}))) == {"Conv": 4, "Relu": 3}


def test_squeeze_and_excite_in_channels_last(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    a = nhwc(s, "x", 3, 8)
    gate = s.node("ReduceMean", a, axes=[1, 2], keepdims=1)
    gate = s.node("Sigmoid", nhwc(s, gate, 8, 8, 1))
    y = nhwc(s, s.node("Mul", a, gate), 8, 4)
    y = s.node("ReduceMean", y, axes=[1, 2], keepdims=0)
    assert ops(cleaned(s.model(["batch", 9, 9, 3], {y: None})))["Transpose"] == 1


def test_flattened_maps_reorder_the_dense_weight(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Reshape", nhwc(s, "x", 3, 4), s.ints(-1, 5 * 6 * 4))
    y = s.node("Add", s.node("MatMul", y, s.normal(120, 7)), s.normal(7))
    assert ops(cleaned(s.model(["batch", 5, 6, 3], {y: None}))) == {"Transpose": 1, "Conv": 1, "Flatten": 1, "Gemm": 1}
    s = sketch()
    y = s.node("Flatten", nhwc(s, "x", 3, 4), axis=1)
    y = s.node("Gemm", y, s.normal(7, 120), s.normal(7), transB=1)
    assert ops(cleaned(s.model(["batch", 5, 6, 3], {y: None})))["Transpose"] == 1


def test_concatenation_and_constants_over_space(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    a, b = nhwc(s, "x", 3, 4), nhwc(s, "x", 3, 2)
    y = s.node("Add", s.node("Concat", a, b, axis=-1), s.normal(5, 6, 6))
    y = s.node("PRelu", nhwc(s, y, 6, 4), s.normal(4))
    y = s.node("ReduceMean", nhwc(s, y, 4, 4), axes=[1, 2], keepdims=0)
    assert ops(cleaned(s.model(["batch", 5, 6, 3], {y: None})))["Transpose"] == 1


def test_padding_in_channels_last_joins_the_convolution(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Pad", s.node("HardSwish", nhwc(s, "x", 3, 4)), s.ints(0, 0, 2, 0, 0, 1, 0, 0))
    y = s.node("ReduceMean", nhwc(s, y, 4, 4, pads=[0] * 4), axes=[1, 2], keepdims=0)
    assert "Pad" not in ops(cleaned(s.model(["batch", 5, 6, 3], {y: None})))


def test_images_at_the_output_keep_their_layout(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Sigmoid", nhwc(s, s.node("Relu", nhwc(s, "x", 3, 4)), 4, 2))
    net = cleaned(s.model(["batch", 5, 6, 3], {y: None}))
    assert ops(net) == {"Transpose": 2, "Conv": 2, "Relu": 1, "Sigmoid": 1}
    assert net.nodes[-1].op_type == "Transpose" and net.nodes[-1].output[0] == y


def test_other_transposes_stay(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Transpose", s.node("Relu", s.node("Transpose", "x", perm=[0, 2, 1, 3])), perm=[0, 3, 2, 1])
    assert ops(cleaned(s.model(["batch", 3, 4, 5], {y: None}))) == {"Transpose": 2, "Relu": 1}
    s = sketch()
    y = s.node("MatMul", s.node("Transpose", "x", perm=LAST), s.normal(3, 8))
    assert ops(cleaned(s.model(["batch", 3, 4, 5], {y: None}))) == {"Transpose": 1, "MatMul": 1}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7),
    tail=st.sampled_from(["mean", "flatten", "none"]),
)
def test_any_channels_last_network_keeps_its_result(
    seed: int, steps: Any, tail: str, sketch: Any, cleaned: Any
) -> None:
    s = sketch(seed)
    height, width = (1, 1) if seed % 5 == 0 else (4, 3)
    y, last, outputs = "x", "x", {}
    for step in steps:
        before = y
        if step == "conv":
            y = nhwc(s, y, 4, 4)
        elif step == "relu":
            y = s.node("Relu", y)
        elif step == "bias":
            y = s.node("Add", y, s.normal(4))
        elif step == "space":
            y = s.node("Mul", s.normal(height, width, 1), y)
        elif step == "skip":
            y = s.node("Add", y, last)
        elif step == "gate":
            y = s.node("Mul", y, nhwc(s, s.node("ReduceMean", y, axes=[1, 2], keepdims=1), 4, 4, 1))
        elif step == "pad":
            y = s.node("Pad", y, s.ints(0, 1, 0, 0, 0, 0, 1, 0))
            y = nhwc(s, s.node("Slice", y, s.ints(1, 1), s.ints(99, 99), s.ints(1, 2)), 4, 4)
        elif step == "concat":
            y = nhwc(s, s.node("Concat", y, last, axis=3), 8, 4)
        else:
            outputs[s.node("Tanh", y)] = None
        last = before
    if tail == "mean":
        y = s.node("ReduceMean", y, axes=[1, 2], keepdims=0)
    elif tail == "flatten":
        y = s.node("MatMul", s.node("Reshape", y, s.ints(-1, height * width * 4)), s.normal(height * width * 4, 5))
    outputs[s.node("Softsign", y)] = None
    cleaned(s.model(["batch", height, width, 4], outputs), tolerance=1e-4)
