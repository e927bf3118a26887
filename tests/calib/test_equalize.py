"""Equalisation: the same function to the last bit, wherever two layers allow it and nowhere else, kept where better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib import equalize, ranges
from calib import graph as graphs
from calib.calibrate import calibrate
from calib.preprocess import parse
from calib.switches import Switchboard
from tests.calib.architectures import Net

Build = Callable[..., Path]


def spread(source: Path, out: Path, layers: Sequence[str] = ("b1_conv1",), by: float = 4000.0) -> Path:
    """Some channels of a layer `by` times as large, and read so much smaller: the same network, ruined for INT8."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    constants = {item.name: item for item in model.graph.initializer}

    def multiply(name: str, axis: int, factor: float) -> None:
        value = numpy_helper.to_array(constants[name]).copy()
        value[(slice(None),) * axis + (slice(2, 4),)] *= factor
        constants[name].CopyFrom(numpy_helper.from_array(value, name))

    for layer in layers:
        multiply(f"{layer}_w", 0, by)
        multiply(f"{layer}_b", 0, by)
        multiply(f"{layer[:-1]}2_w", 1, 1 / by)
    onnx.save(model, str(out))
    return out


def answers(onnx: Path, images: Any) -> Any:
    return ranges.session(onnx).run(None, {"image": images})[0]


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(9).normal(0, 1, (16, 16, 16, 3)).astype(np.float32)


def test_the_function_stays_the_same_to_the_last_bit(resnet: Build, images: Any, tmp_path: Path) -> None:
    hard = spread(resnet(), tmp_path / "hard.onnx", ["b0_conv1", "b1_conv1"])
    out = tmp_path / "equal.onnx"
    assert equalize.equalize(hard, [{"image": images}], out) == ["b0_conv1", "b1_conv1"]
    assert np.array_equal(answers(hard, images), answers(out, images))
    for file, least, most in ((hard, 9.0, 20.0), (out, 0.0, 7.0)):
        peaks = equalize._channel_peaks(file, ["b0_relu1_out", "b1_relu1_out"], [{"image": images}])
        assert all(least < np.ptp(np.log2(values)) < most for values in peaks.values())
    assert equalize.equalize(out, [{"image": images}], tmp_path / "again.onnx") == []


def test_nothing_is_written_where_channels_are_alike(resnet: Build, images: Any, tmp_path: Path) -> None:
    assert equalize.equalize(resnet(), [{"image": images}], tmp_path / "equal.onnx") == []
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_numbers_are_left_to_the_pass_that_names_them(
    resnet: Build, images: Any, tmp_path: Path
) -> None:
    bad = np.full_like(images, np.nan)
    assert equalize.equalize(resnet(), [{"image": images}, {"image": bad}], tmp_path / "equal.onnx") == []


def named(net: Net, outputs: Dict[str, Any], folder: Path) -> List[Any]:
    """Pairs of a graph as the names of their layers."""
    file = net.save(folder / "net.onnx", ["N", 3, 16, 16], outputs)
    view = graphs.Graph(graphs.load(file))
    return [(view.nodes[pair.first].name, view.nodes[pair.second].name) for pair in equalize.pairs(view)]


def test_pairs_of_a_resnet_are_those_inside_its_blocks(resnet: Build) -> None:
    view = graphs.Graph(graphs.load(resnet()))
    found = [(view.nodes[pair.first].name, view.nodes[pair.second].name) for pair in equalize.pairs(view)]
    assert found == [(f"b{n}_conv1", f"b{n}_conv2") for n in range(3)]


def test_pairs_reach_through_what_scales_with_its_input(tmp_path: Path) -> None:
    net = Net(1)
    x = net.node("LeakyRelu", [net.conv("image", "a", 3, 8)], "leaky")
    x = net.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node(
        "Relu", [net.conv(x, "b", 8, 8, group=8)], "relu"
    )  # depthwise: the second of one pair, first of another
    w = net.const("t_w", net.rng.normal(0, 1, (8, 6, 2, 2)).astype(np.float32))
    x = net.node("PRelu", [net.node("ConvTranspose", [x, w], "t"), net.const("slope", np.float32([[[0.1]]] * 6))], "p")
    x = net.node("Sigmoid", [net.conv(x, "c", 6, 4)], "sigmoid")  # no such operator
    x = net.conv(x, "d", 4, 4)
    assert named(net, {x: ["N", 4, 9, 9]}, tmp_path) == [("a", "b"), ("b", "t"), ("t", "c")]


def test_layers_that_others_depend_on_are_left_alone(tmp_path: Path) -> None:
    net = Net(2)
    shared = net.const("shared", net.rng.normal(0, 1, (3, 3, 1, 1)).astype(np.float32))
    x = net.node("Conv", ["image", shared], "once")
    x = net.node("Conv", [x, shared], "twice")  # one weight, two readers
    y = net.conv(x, "out", 3, 4)  # what the caller gets
    z = net.conv(y, "grouped", 4, 4, group=2)  # groups share input channels' axis
    z = net.conv(z, "last", 4, 4)
    assert named(net, {y: ["N", 4, 16, 16], z: ["N", 4, 16, 16]}, tmp_path) == [("grouped", "last")]


def test_matrices_are_equalised_too(tmp_path: Path) -> None:
    net = Net(3)
    x = net.node("Flatten", ["image"], "flat")
    weights = [net.rng.normal(0, 1, shape).astype(np.float32) for shape in ((768, 8), (6, 8), (6, 4))]
    names = [net.const(f"w{n}", value) for n, value in enumerate(weights)]
    x = net.node("Relu", [net.node("Gemm", [x, names[0], net.const("b", np.ones(8, np.float32))], "a")], "relu")
    x = net.node("Relu", [net.node("Gemm", [x, names[1]], "b", transB=1)], "relu2")
    x = net.node("MatMul", [x, names[2]], "c")
    assert named(net, {x: ["N", 4]}, tmp_path) == [("a", "b"), ("b", "c")]
    hard = tmp_path / "net.onnx"
    model = graphs.load(hard)
    view = graphs.Graph(model)
    s = np.exp2(np.arange(8) - 4.0).astype(np.float32)
    equalize._multiply(view, "w0", 1, s * 64)
    equalize._multiply(view, "b", 0, s * 64)
    equalize._multiply(view, "w1", 1, 1 / s**4)
    hard.write_bytes(model.SerializeToString())
    feeds = np.random.default_rng(1).normal(0, 1, (4, 3, 16, 16)).astype(np.float32)
    assert equalize.equalize(hard, [{"image": feeds}], tmp_path / "equal.onnx") == ["a"]
    assert np.array_equal(answers(hard, feeds), answers(tmp_path / "equal.onnx", feeds))


MAGNITUDES = arrays.arrays(np.float32, 12, elements=st.sampled_from([0.0, 2**-20, 2**-6, 0.25, 1.0, 7.0, 2.0**10]))


@pytest.mark.parametrize(("shape", "found"), [(["N", 4], [("a", "b")]), (["N", 6, 4], []), (["N", 6, 6, 4], [])])
def test_the_channels_of_a_product_must_lie_on_its_second_axis(
    tmp_path: Path, shape: List[Any], found: List[Any]
) -> None:
    net = Net(4)
    weights = [net.const(f"w{n}", np.ones(dims, np.float32)) for n, dims in enumerate(((4, 6), (6, 5)))]
    x = net.node("MatMul", [net.node("Relu", [net.node("MatMul", ["image", weights[0]], "a")], "r"), weights[1]], "b")
    path = net.save(tmp_path / "net.onnx", shape, {x: [*shape[:-1], 5]})
    view = graphs.Graph(graphs.load(path))
    pairs = equalize.pairs(view)
    assert [(view.nodes[pair.first].name, view.nodes[pair.second].name) for pair in pairs] == found


@given(MAGNITUDES, MAGNITUDES)
def test_factors_are_powers_of_two_and_worth_it(a: Any, w: Any) -> None:
    def noise(a: Any, w: Any) -> float:
        a, w = a.astype(np.float64), w.astype(np.float64)
        return float(a.max() * np.linalg.norm(w) + np.linalg.norm(a) * w.max())

    s = equalize.factors(a, w)
    if s is None:
        return
    assert s.dtype == np.float32 and (np.frexp(s)[0] == 0.5).all()
    assert (s[(a == 0) | (w == 0)] == 1).all(), "a dead channel has no say"
    live = (a > 0) & (w > 0)
    assert noise((a / s)[live], (w * s)[live]) < 2 * noise(a, w) / equalize._SEVERE * 1.01


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_factors_for_what_is_no_number(bad: float) -> None:
    good = np.array([1, 2**20, 1], np.float32)
    assert equalize.factors(good, 1 / good) is not None
    assert equalize.factors(good, np.ones(3, np.float32)) is None  # what is large also matters most
    assert equalize.factors(np.array([1, bad, 1], np.float32), np.ones(3, np.float32)) is None
    assert equalize.factors(np.zeros(3, np.float32), np.ones(3, np.float32)) is None


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_calibration_keeps_it_where_it_is_better(resnet: Build, data: str, tmp_path: Path, target: str) -> None:
    hard = spread(resnet(), tmp_path / "hard.onnx")
    pre = parse("resize=16,unit").to_json()
    out = tmp_path / "new" / "int8.onnx"
    result = calibrate(str(hard), data, pre, "NHWC", target, str(out), 60, methods=["minmax"])
    about = result["equalization"]
    assert about["layers"] == ["b1_conv1"] and about["kept"]
    assert about["equalized"]["error"] < 0.5 * about["plain"]["error"]
    assert sorted(item.name for item in out.parent.iterdir()) == ["int8.float.onnx", "int8.onnx"]
    assert result["float_onnx"] == str(out.parent / "int8.float.onnx")
    board = Switchboard(result["float_onnx"], out, target)  # what a search mixes is one graph in two forms
    x = np.random.default_rng(2).random((8, 16, 16, 3), np.float32)
    np.testing.assert_allclose(board.run({"image": x}, frozenset(board.layers))[0], answers(hard, x), atol=0.05)


def test_an_interrupted_second_pass_goes_on(resnet: Build, data: str, tmp_path: Path) -> None:
    hard = spread(resnet(), tmp_path / "hard.onnx")
    pre = parse("resize=16,unit").to_json()
    state = tmp_path / "ranges.npz"
    told: List[Any] = []
    passes = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal passes
        passes += what == "ranges" and done <= 32
        if passes == 2 and done >= 64:
            raise KeyboardInterrupt

    def run(name: str, **more: Any) -> Dict[str, Any]:
        out = str(tmp_path / name)
        return calibrate(str(hard), data, pre, "NHWC", "onnxruntime", out, 100, methods=["minmax"], **more)

    plain = run("a.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calib.checkpoint.EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run("b.onnx", state=str(state), progress=stop)
    run("b.onnx", state=str(state), progress=lambda *a: told.append(a))
    assert [done for what, done, _ in told if what == "ranges"] == [96, 100]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() and plain["float_onnx"]
    assert [item.name for item in tmp_path.iterdir() if "ranges" in item.name] == []
