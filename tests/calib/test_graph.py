"""Graph walking: weights, channel axes, residual additions and their sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from calib import graph as graphs
from calib.graph import Graph
from engines.errors import ModelError

Build = Callable[..., Path]


def roles(path: Path) -> Any:
    graph = Graph(graphs.load(path))
    return {
        graph.nodes[r.node].name: (graph.nodes[r.node].input[r.main], graph.nodes[r.node].input[r.skip])
        for r in graph.residuals()
    }


@pytest.mark.parametrize(("shortcut", "skip"), [("conv", "b1_short_out"), ("pad", "b1_pad_out")])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_the_deeper_convolution_is_the_main_side(resnet: Build, shortcut: str, skip: str, layout: str) -> None:
    assert roles(resnet(shortcut=shortcut, layout=layout)) == {
        "b0_add": ("b0_conv2_out", "pool_out"),
        "b1_add": ("b1_conv2_out", skip),
        "b2_add": ("b2_conv2_out", "b1_relu2_out"),
    }


def test_the_side_does_not_depend_on_the_order_of_inputs(resnet: Build, tmp_path: Path) -> None:
    import onnx

    model = graphs.load(resnet())
    for node in model.graph.node:
        if node.op_type == "Add":
            first, second = node.input
            node.input[0], node.input[1] = second, first
    onnx.save(model, str(tmp_path / "swapped.onnx"))
    assert roles(tmp_path / "swapped.onnx") == roles(resnet())


def test_bias_additions_and_gates_are_not_residual(resnet: Build, mixed_cnn: Path) -> None:
    assert "head_add" not in roles(resnet(head="matmul"))
    assert roles(mixed_cnn) == {}


@pytest.mark.parametrize("between", ["BatchNormalization", "Reshape"])
def test_leftovers_of_an_exporter_do_not_hide_the_convolution(resnet: Build, between: str) -> None:
    from onnx import helper, numpy_helper

    model = graphs.load(resnet())
    index = next(i for i, node in enumerate(model.graph.node) if node.name == "b0_add")
    add = model.graph.node[index]
    inputs = ["b0_conv2_out"]
    if between == "Reshape":
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 8, 8, 8]), "shape"))
        inputs.append("shape")
    else:
        for k, v in {"s": 1.0, "t": 0.0, "m": 0.0, "v": 1.0}.items():
            model.graph.initializer.append(numpy_helper.from_array(np.full(8, v, np.float32), k))
        inputs += ["s", "t", "m", "v"]
    model.graph.node.insert(index, helper.make_node(between, inputs, ["left_out"], name="left"))
    add = model.graph.node[index + 1]
    add.input[0] = "left_out"
    graph = Graph(model)
    found = next(r for r in graph.residuals() if graph.nodes[r.node].name == "b0_add")
    assert (found.main, found.skip) == (0, 1)


def test_a_convolution_that_others_read_is_not_fused(resnet: Build) -> None:
    model = graphs.load(resnet())
    model.graph.output.add().name = "b0_conv2_out"
    graph = Graph(model)
    assert "b0_add" not in [graph.nodes[r.node].name for r in graph.residuals()]


def test_weights_and_their_channel_axes(resnet: Build, mixed_cnn: Path) -> None:
    graph = Graph(graphs.load(mixed_cnn))
    axes = {graph.nodes[i].name: graphs.channel_axis(graph.nodes[i]) for i in graph.weighted()}
    assert axes == {"stem": 0, "depthwise": 0, "gate": 0, "up": 1, "box": 0}
    for head, axis in (("gemm", 0), ("matmul", 1)):  # load() makes the second a Gemm without transB
        graph = Graph(graphs.load(resnet(head=head)))
        assert graph.nodes[graph.weighted()[-1]].op_type == "Gemm"
        assert graphs.channel_axis(graph.nodes[graph.weighted()[-1]]) == axis


def test_constant_nodes_become_initializers(resnet: Build, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(resnet()))
    weight = next(item for item in model.graph.initializer if item.name == "b0_conv1_w")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["b0_conv1_w"], value=weight))
    model.graph.initializer.remove(weight)
    onnx.save(model, str(tmp_path / "c.onnx"))
    graph = Graph(graphs.load(tmp_path / "c.onnx"))
    assert "Constant" not in {node.op_type for node in graph.nodes}
    assert len(graph.weighted()) == len(Graph(graphs.load(resnet())).weighted())
    assert np.array_equal(graph.array("b0_conv1_w"), onnx.numpy_helper.to_array(weight))


def test_a_matmul_with_its_bias_computes_the_same_as_one_gemm(resnet: Build, images: Any) -> None:
    import onnxruntime

    source = resnet(head="matmul")
    model = graphs.load(source)
    assert "MatMul" not in {node.op_type for node in model.graph.node}
    results = [
        onnxruntime.InferenceSession(item, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
        for item in (str(source), model.SerializeToString())
    ]
    assert np.allclose(*results, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not an onnx", b"\x89HDF"])
def test_other_files_are_model_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        graphs.load(tmp_path / "m.onnx")


def test_a_missing_file_stays_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        graphs.load(tmp_path / "none.onnx")


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_shapes_are_inferred_without_the_values_of_weights(resnet: Build, shortcut: str) -> None:
    import onnx

    model = graphs.load(resnet(shortcut=shortcut))
    before = model.SerializeToString()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = Graph(model).shapes
    assert {item.name for item in [*inferred.input, *inferred.value_info, *inferred.output]} == set(shapes)
    assert shapes["b1_conv1_out"] == (None, 16, 4, 4) and "b1_conv2_w" not in shapes
    assert model.SerializeToString() == before
