"""What may be halved and what stays in float32: rounding, constants, ranges, shapes, foreign operators."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calib import fp16
from calib.fp16_rules import FORMATS, rounded, rounded_up
from tests.calib.sketches import F, both, conv, kept, ops, reference, run, save, sound, tensor, types_of, x_of


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_rounding_is_to_nearest_even_and_never_makes_an_infinity(values: List[float]) -> None:
    array = np.array(values, np.float32)
    half = rounded(array, FORMATS["float16"])
    clipped = np.clip(array, -65504, 65504)
    assert np.array_equal(half[np.isfinite(array)], clipped.astype(np.float16).astype(np.float32)[np.isfinite(array)])
    brain = rounded(array, FORMATS["bfloat16"])
    assert (brain.view(np.uint32) & 0xFFFF == 0).all()
    normal = np.isfinite(array) & (np.abs(array) > 1e-37) & (np.abs(array) < 3e38)
    assert (np.abs(brain[normal] - array[normal]) <= 2.0**-8 * np.abs(array[normal])).all()
    for result in (half, brain):
        assert np.array_equal(np.isinf(result), np.isinf(array))


@given(st.floats(2.0**-40, 60000.0, width=32), st.sampled_from(sorted(FORMATS)))
def test_scales_of_weights_are_rounded_up(scale: float, name: str) -> None:
    up = rounded_up(np.array([scale], np.float32), FORMATS[name])
    assert up[0] >= np.float32(scale) and np.array_equal(up, rounded(up, FORMATS[name]))
    step = max(scale, FORMATS[name].normal) * 2.0 ** (1 - FORMATS[name].digits)
    assert up[0] - scale <= step


@pytest.mark.parametrize(
    ("op", "value", "why"),
    [
        ("Mul", 1e6, "constant 'k' reaches 1e+06"),
        ("Add", 1e-7, "constant 'k' is at most 1e-07"),
        ("Pow", 2.0, "powers and roots of small values"),
    ],
)
def test_constants_that_do_not_fit_keep_their_node(tmp_path: Path, op: str, value: float, why: str) -> None:
    first, weight = conv("x", "c")
    middle = helper.make_node(op, ["c", "k"], ["m"], name="middle")
    last, other = conv("m", "y", scale=1e-7 if op == "Mul" else 0.2)
    other = tensor("y_w", np.maximum(numpy_helper.to_array(other), 1e-4)) if op == "Mul" else other
    source = save(tmp_path / "a.onnx", [first, middle, last], [weight, other, tensor("k", np.float32(value))])
    done = fp16.cast(source, tmp_path / "b.onnx")
    sound(source, tmp_path / "b.onnx")
    assert kept(done) == {"middle": why} and done["cast"] == 2


def test_what_overflows_stays_in_float32(tmp_path: Path) -> None:
    """Three layers, the middle one with results near 1e6: in FP16 they are infinite, mixed they are right."""
    first, a = conv("x", "a")
    second, b = conv("a", "b", scale=1e4)
    third, c = conv("b", "y", scale=1e-3)
    source, out = save(tmp_path / "a.onnx", [first, second, third], [a, b, c]), tmp_path / "b.onnx"
    seen = fp16.ranges_for(source, [{"x": x_of()}])
    assert seen["b"] > 65504
    (expected,) = run(source, {"x": x_of()})
    done = fp16.cast(source, out, ranges=seen)
    sound(source, out)
    assert set(kept(done)) == {"b", "y"} and all(why.startswith("|x| reaches") for why in kept(done).values())
    fp16.cast(source, tmp_path / "all.onnx")
    assert not np.isfinite(reference(tmp_path / "all.onnx", {"x": x_of()})[0]).all()
    np.testing.assert_allclose(both(out, {"x": x_of()})[0], expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_sums_that_may_overflow_and_tensors_that_vanish(tmp_path: Path) -> None:
    first, a = conv("x", "y", scale=10)
    source = save(tmp_path / "a.onnx", [first], [a])
    bound = float(np.abs(numpy_helper.to_array(a)).sum(axis=(1, 2, 3)).max())
    why = [
        kept(fp16.cast(source, tmp_path / "b.onnx", ranges={"x": peak})) for peak in (6e4 / bound, 7e4 / bound, 2e-6)
    ]
    assert why[0] == {} and why[1]["y"].startswith("a sum inside may reach 7e+04") and "at most 2e-06" in why[2]["y"]


def test_scalars_follow_their_data_and_resize_keeps_its_scales(tmp_path: Path) -> None:
    first, a = conv("x", "c")
    nodes = [
        first,
        helper.make_node("Clip", ["c", "", "six"], ["d"], name="clip"),
        helper.make_node("Resize", ["d", "", "scales"], ["e"], name="resize", mode="nearest"),
        helper.make_node("Pad", ["e", "pads", "six"], ["f"], name="pad"),
        helper.make_node("Dropout", ["f", "ratio"], ["g"], name="dropout"),
        helper.make_node("PRelu", ["g", "slope"], ["h"], name="prelu"),
        helper.make_node("Conv", ["h", "c_w"], ["y"], name="last"),
    ]
    weights = [a, tensor("six", np.float32(6)), tensor("scales", np.array([1, 1, 2, 2], np.float32))]
    weights += [tensor("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)), tensor("ratio", np.float32(0.5))]
    source = save(tmp_path / "a.onnx", nodes, [*weights, tensor("slope", np.full((4, 1, 1), 0.1))], (1, 4, 3, 3))
    done = fp16.cast(source, tmp_path / "b.onnx")
    sound(source, tmp_path / "b.onnx")
    types = types_of(tmp_path / "b.onnx")
    assert types["scales"] == F and types["six"] == types["slope"] == types["ratio"] == TensorProto.FLOAT16
    assert done["casts"] == 2 and done["kept"] == []
    (p,), (q,) = (both(tmp_path / name, {"x": x_of((1, 4, 3, 3))}) for name in ("a.onnx", "b.onnx"))
    np.testing.assert_allclose(p, q, atol=0.05)


def test_sizes_are_computed_in_float32(tmp_path: Path) -> None:
    first, a = conv("x", "c")
    nodes = [
        first,
        helper.make_node("Shape", ["c"], ["s"], name="shape"),
        helper.make_node("Cast", ["s"], ["sf"], name="float", to=F),
        helper.make_node("Mul", ["sf", "factors"], ["t"], name="mul"),
        helper.make_node("Cast", ["t"], ["sizes"], name="int", to=TensorProto.INT64),
        helper.make_node("Resize", ["c", "", "", "sizes"], ["r"], name="resize", mode="nearest"),
        helper.make_node("Conv", ["r", "c_w"], ["y"], name="last", pads=[1] * 4),
    ]
    source = save(tmp_path / "a.onnx", nodes, [a, tensor("factors", np.array([1, 1, 1.5, 1.5]))], (1, 4, 2, 2))
    done = fp16.cast(source, tmp_path / "b.onnx")
    sound(source, tmp_path / "b.onnx")
    assert kept(done) == {"mul": "computes a shape"} and done["casts"] == 2
    assert both(tmp_path / "b.onnx", {"x": x_of((1, 4, 2, 2))})[0].shape == (1, 4, 3, 3)


def test_operators_of_others_stay_as_they_are(tmp_path: Path) -> None:
    first, a = conv("x", "c")
    nodes = [first, helper.make_node("Swizzle", ["c"], ["d"], name="odd", domain="com.example")]
    nodes += [helper.make_node("Relu", ["d"], ["y"], name="relu")]
    source = save(tmp_path / "a.onnx", nodes, [a], result=(2, 4, 8, 8))
    done = fp16.cast(source, tmp_path / "b.onnx")
    why = kept(done)
    assert why["odd"].startswith("no Swizzle in ONNX") and "unknown" in why["relu"] and done["cast"] == 1
    assert ops(tmp_path / "b.onnx") == ["Cast", "Conv", "Cast", "Swizzle", "Relu"]
