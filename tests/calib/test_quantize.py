"""Q/DQ graphs: scale arithmetic, what each target's runtime makes of them, and graphs that cannot be quantised."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib import graph as graphs
from calib import ranges
from calib.check import check_qdq
from calib.methods import Method, scale, symmetric
from calib.placement import TARGETS, points
from calib.quantize import quant, quantise_weight, quantize, weight_scales
from engines.errors import BuildError, ModelError

Build = Callable[..., Path]
Write = Callable[..., Path]

weights = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32)
)


@given(weights, st.sampled_from([0, 1]), st.sampled_from([127, 63]))
def test_weights_lose_at_most_half_a_step(weight: Any, axis: int, limit: int) -> None:
    scales = weight_scales(weight, axis, limit)
    quantised = quantise_weight(weight, scales, axis, limit)
    shape = [1] * weight.ndim
    shape[axis] = -1
    assert scales.shape == (weight.shape[axis],) and (scales > 0).all() and scales.dtype == np.float32
    assert quantised.dtype == np.int8 and np.abs(quantised.astype(int)).max() <= limit
    error = np.abs(quantised * scales.reshape(shape).astype(np.float64) - weight)
    assert (error <= 0.501 * scales.reshape(shape)).all()


@given(weights)
def test_quantised_weights_are_what_the_runtime_computes(weight: Any) -> None:
    """Against ONNX's reference of QuantizeLinear: round half to even, clamp."""
    scales = weight_scales(weight, 0)
    expected = np.clip(np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))), -128, 127)
    assert (quantise_weight(weight, scales, 0) == expected).all()


@given(st.floats(1e-6, 1e6))
def test_activation_ranges_are_the_same_in_both_forms(amax: float) -> None:
    scale = symmetric(amax)
    signed, positive, around = (
        quant(scale, True, "tensorrt"),
        quant(scale, True, "onnxruntime"),
        quant(scale, False, "onnxruntime"),
    )
    assert signed.scale * 127 == pytest.approx(amax) and (signed.zero, signed.signed) == (0, True)
    assert positive.scale * 255 == pytest.approx(amax) and (positive.zero, positive.signed) == (0, False)
    assert around.scale * (255 - around.zero) == pytest.approx(amax)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Write:
    """`written(source, target)` calibrates with min-max on the fixture's images and writes the Q/DQ graph."""
    made: Dict[Any, Path] = {}

    def write(source: Path, target: str, **options: Any) -> Path:
        key = (source, target, str(options))
        if key not in made:
            nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
            model = graphs.load(source)
            first = model.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 3
            seen = ranges.collect(source, points(model, target).measured(), [{"image": images if first else nchw}])
            scales = {name: scale(found, Method("minmax")) for name, found in seen.items()}
            signs = [name for name, found in seen.items() if found.nonnegative]
            out = tmp_path_factory.mktemp("qdq") / f"{target}.onnx"
            quantize(source, out, scales, target, nonnegative=signs, **options)
            made[key] = out
        return made[key]

    return write


def run(path: Path, images: Any, optimised: Any = None) -> List[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    feed = images if shape[3] == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return list(session.run(None, {"image": feed}))


FORMS = [
    {"shortcut": "conv", "head": "gemm", "layout": "NHWC"},
    {"shortcut": "pad", "head": "matmul", "layout": "NCHW"},
    {"shortcut": "conv", "head": "matmul", "layout": "NCHW", "softmax": False},
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_results_stay_close_to_fp32_and_rules_are_kept(
    resnet: Build, written: Write, images: Any, target: str, form: Dict[str, Any]
) -> None:
    import onnx

    source = resnet(**form)
    path = written(source, target)
    onnx.checker.check_model(str(path), full_check=True)
    assert check_qdq(path, target) == []
    reference, result = run(source, images)[0], run(path, images)[0]
    spread = np.abs(reference).max()
    assert np.abs(reference - result).mean() < 0.05 * spread
    assert (reference.argmax(1) == result.argmax(1)).mean() > 0.8


@pytest.mark.parametrize("target", TARGETS)
def test_only_for_openvino_something_stands_behind_a_last_softmax(
    resnet: Build, written: Write, images: Any, tmp_path: Path, target: str
) -> None:
    import onnx

    graph = onnx.load(str(written(resnet(**FORMS[0]), target))).graph
    last, before = graph.node[-1], graph.node[-2]
    assert (last.op_type, before.op_type == "Softmax") == (
        ("Abs", True) if target == "openvino" else ("Softmax", False)
    )
    assert [item.name for item in graph.output] == list(last.output)
    assert target != "openvino" or list(last.input) == list(before.output)
    assert all(node.op_type != "Abs" for node in onnx.load(str(written(resnet(**FORMS[2]), target))).graph.node)


def test_what_stands_behind_a_softmax_lets_through_what_is_no_number(tmp_path: Path) -> None:
    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
        onnx.helper.make_node("Add", ["y", "z"], ["logits"]),
        onnx.helper.make_node("Softmax", ["logits"], ["p"]),
    ]
    inputs = [onnx.helper.make_tensor_value_info(name, 1, [2, 4]) for name in "xz"]
    outputs = [onnx.helper.make_tensor_value_info("p", 1, [2, 4])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    quantize(model, tmp_path / "q.onnx", {"x": 0.01}, "openvino")
    compiled = openvino.Core().compile_model(str(tmp_path / "q.onnx"), "CPU")
    z = np.zeros((2, 4), np.float32)
    z[1, 2] = np.nan
    found = compiled([np.full((2, 4), 0.5, np.float32), z])[0]
    assert np.allclose(found[0], 0.25) and np.isnan(found[1]).any()


@pytest.mark.parametrize("target", TARGETS)
def test_other_networks_are_quantised_where_known(mixed_cnn: Path, written: Write, images: Any, target: str) -> None:
    path = written(mixed_cnn, target)
    assert check_qdq(path, target) == []
    for reference, result in zip(run(mixed_cnn, images), run(path, images)):
        assert np.abs(reference - result).mean() < 0.05 * np.abs(reference).max()


@pytest.mark.parametrize("form", FORMS)
def test_onnxruntime_fuses_every_layer(
    resnet: Build, written: Write, images: Any, tmp_path: Path, form: Dict[str, Any]
) -> None:
    import onnx

    run(written(resnet(**form), "onnxruntime"), images, tmp_path / "optimised.onnx")
    ops = Counter(node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node)
    assert ops["QLinearConv"] == (8 if form["shortcut"] == "conv" else 7) and ops["QLinearAdd"] == 3
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Relu", "GlobalAveragePool"} & set(ops)


@pytest.mark.skipif(platform.machine() == "aarch64", reason="OpenVINO computes some of these in float on aarch64")
@pytest.mark.parametrize("form", FORMS)
def test_openvino_runs_every_convolution_in_int8(
    resnet: Build, written: Write, images: Any, form: Dict[str, Any]
) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    source = resnet(**form)
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(str(written(source, "openvino")), "CPU", config)
    info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]

    def text(item: Any) -> str:
        return str(getattr(item, "value", item))

    convs = [text(i["runtimePrecision"]) for i in info if text(i["layerType"]) == "Convolution"]
    assert convs and set(convs) <= {"i8", "u8"}
    feed = images if form["layout"] == "NHWC" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    result, reference = compiled([feed])[0], run(source, images)[0]
    assert np.abs(reference - result).mean() < 0.05 * np.abs(reference).max()


def test_tensorrt_weights_stay_float_and_others_shrink(resnet: Build, written: Write) -> None:
    sizes = {target: written(resnet(), target).stat().st_size for target in TARGETS}
    assert sizes["openvino"] < 0.75 * sizes["tensorrt"]
    model = graphs.load(written(resnet(), "tensorrt"))
    names = {item.name for item in model.graph.initializer}
    assert "b0_conv1_w" in names and "b0_conv1_w" not in {
        item.name for item in graphs.load(written(resnet(), "openvino")).graph.initializer
    }


def test_a_bias_too_large_for_its_scales_widens_the_weight_scale(resnet: Build, images: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(resnet()))
    for item in model.graph.initializer:
        if item.name == "b0_conv1_w":
            small = onnx.numpy_helper.to_array(item) * np.float32(1e-9)
            item.CopyFrom(onnx.numpy_helper.from_array(small, item.name))
    source = tmp_path / "tiny.onnx"
    onnx.save(model, str(source))
    seen = ranges.collect(source, points(model, "onnxruntime").measured(), [{"image": images}])
    scales = {name: scale(found, Method("minmax")) for name, found in seen.items()}
    quantize(source, tmp_path / "q.onnx", scales, "onnxruntime", nonnegative=[n for n in seen if seen[n].nonnegative])
    assert np.abs(run(source, images)[0] - run(tmp_path / "q.onnx", images)[0]).mean() < 0.05


def test_seven_bit_weights(resnet: Build, written: Write) -> None:
    graph = graphs.Graph(graphs.load(written(resnet(), "openvino", weight_bits=7)))
    stored = [graph.array(name) for name in graph.constants if name.endswith("_w_quantized")]
    assert stored and all(np.abs(value.astype(int)).max() == 63 for value in stored if value is not None)


def test_metadata_is_written_once(resnet: Build, written: Write, tmp_path: Path) -> None:
    path = written(resnet(), "tensorrt", metadata={"optimize.calibration.method": "minmax"})
    notes = [(item.key, item.value) for item in graphs.load(path).metadata_props]
    assert notes.count(("optimize.calibration.method", "minmax")) == 1


def test_names_that_are_taken_are_avoided(resnet: Build, images: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(resnet()))
    for node in model.graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                if name == "stem_relu_out":
                    names[slot] = "pool_out_QuantizeLinear"
    onnx.save(model, str(tmp_path / "m.onnx"))
    scales = dict.fromkeys(points(model, "tensorrt").measured(), 0.01)
    quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", scales, "tensorrt")
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)


def test_names_of_inputs_are_avoided(tmp_path: Path) -> None:
    import onnx

    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), onnx.helper.make_node("Add", ["y", "x_scale"], ["z"])]
    inputs = [onnx.helper.make_tensor_value_info(name, 1, [2, 4]) for name in ("x", "x_scale")]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [onnx.helper.make_tensor_value_info("z", 1, [2, 4])], [weight])
    quantize(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]),
        tmp_path / "q.onnx",
        {"x": 0.01},
        "openvino",
    )
    written = onnx.load(str(tmp_path / "q.onnx")).graph
    assert not {item.name for item in written.input} & {item.name for item in written.initializer}


def test_names_of_nodes_are_avoided_and_old_shapes_dropped(resnet: Build, images: Any, tmp_path: Path) -> None:
    """ONNX Runtime refuses two nodes of one name."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(resnet())))
    for node in model.graph.node:
        node.name = "image_DequantizeLinear" if node.name == "head" else node.name
        node.name = "stem_w_DequantizeLinear" if node.name == "gap" else node.name
        node.name = "to_nchw_out_DequantizeLinear" if node.name == "flat" else node.name
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(model, str(source))
    scales = dict.fromkeys(points(graphs.load(source), "tensorrt").measured(), 0.05)
    quantize(source, out, scales, "tensorrt")
    written = onnx.load(str(out)).graph
    names = [node.name for node in written.node]
    assert len(set(names)) == len(names) and not written.value_info and len(run(out, images)) == 1


def test_a_quantised_graph_is_refused(resnet: Build, written: Write, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="already quantised"):
        quantize(written(resnet(), "tensorrt"), tmp_path / "o.onnx", {}, "tensorrt")
    assert not (tmp_path / "o.onnx").exists()


def test_an_old_opset_is_refused(resnet: Build, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(resnet()))
    model.opset_import[0].version = 12
    onnx.save(model, str(tmp_path / "old.onnx"))
    with pytest.raises(ModelError, match="opset 12"):
        quantize(tmp_path / "old.onnx", tmp_path / "o.onnx", {}, "openvino")


def test_a_missing_range_is_named(resnet: Build, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="to_nchw_out"):
        quantize(resnet(), tmp_path / "o.onnx", {}, "openvino")


def test_a_weight_that_is_not_finite_is_named(resnet: Build, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(resnet()))
    item = next(i for i in model.graph.initializer if i.name == "stem_w")
    bad = onnx.numpy_helper.to_array(item).copy()
    bad[0, 0, 0, 0] = np.nan
    item.CopyFrom(onnx.numpy_helper.from_array(bad, "stem_w"))
    onnx.save(model, str(tmp_path / "bad.onnx"))
    scales = dict.fromkeys(points(model, "openvino").measured(), 0.01)
    with pytest.raises(ModelError, match="stem_w"):
        quantize(tmp_path / "bad.onnx", tmp_path / "o.onnx", scales, "openvino")


def test_nothing_to_quantise_is_an_error(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("image", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "g", value[:1], value[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(tmp_path / "relu.onnx"))
    with pytest.raises(BuildError, match="nothing to quantise"):
        quantize(tmp_path / "relu.onnx", tmp_path / "o.onnx", {}, "tensorrt")
