"""What a graph asks of its layers against what the backends really made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines import asked, backend
from engines.spec import quiet
from tests.engines.conftest import _quantized, _weight

NAMES = {"conv1", "conv2", "conv3"}


def built(name: str, path: Path, out: Path, precision: str) -> Dict[str, Any]:
    folder = out / f"{name}-{precision}"
    folder.mkdir()
    return backend.get(name).build(path, folder, precision, [1], {}, quiet)


@pytest.fixture(scope="module")
def transposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Conv and a ConvTranspose with Q/DQ pairs, and a MatMul whose name is lost where its Add is fused."""
    random = np.random.default_rng(3)
    graph: Dict[str, List[Any]] = {"nodes": [], "weights": []}
    one = _weight(graph, "one_w", random.normal(0, 0.2, (8, 3, 3, 3)), True)
    two = _weight(graph, "two_w", random.normal(0, 0.2, (8, 8, 2, 2)), True)
    dense = _weight(graph, "dense_w", random.normal(0, 0.2, (8, 5)), False)
    bias = _weight(graph, "dense_b", random.normal(0, 0.2, 5), False)
    graph["nodes"].append(helper.make_node("Conv", [_quantized(graph, "image", 0.05), one], ["a"], "one"))
    graph["nodes"].append(helper.make_node("Relu", ["a"], ["b"], "relu"))
    graph["nodes"].append(
        helper.make_node("ConvTranspose", [_quantized(graph, "b", 0.05), two], ["c"], "two", strides=[2, 2])
    )
    graph["nodes"] += [
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flat"),
        helper.make_node("MatMul", ["e", dense], ["f"], "dense"),
        helper.make_node("Add", ["f", bias], ["scores"], "add"),
    ]
    model = helper.make_model(
        helper.make_graph(
            graph["nodes"],
            "transposed",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
            graph["weights"],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    path = tmp_path_factory.mktemp("transposed") / "q.onnx"
    onnx.save(model, str(path))
    return path


def test_every_layer_of_a_float_engine_is_found_again(engine: Callable[..., Any], graph_file: Callable[..., Path]):
    found = asked.compare(onnx.load(str(graph_file())), "fp32", engine("fp32")[1]["layers"])
    assert found == {"asked": 4, "met": 4, "unread": 0, "differ": []}
    assert asked.warning(found) == ""


def test_fp16_without_a_fast_16_bit_float_is_told(
    engine: Callable[..., Any], graph_file: Callable[..., Path], backend_name: str
):
    _, made = engine("fp16")
    found = asked.compare(onnx.load(str(graph_file())), "fp16", made["layers"])
    slow = "no-fast-fp16" in made["flags"]
    assert slow or backend_name == "openvino"
    assert (found["met"], len(found["differ"]), found["unread"]) == ((0, 4, 0) if slow else (4, 0, 0))
    assert asked.warning(found) == (
        "4 of 4 layers of which f16 was asked run in another precision (4 in f32): conv1, conv2, conv3 and 1 more"
        if slow
        else ""
    )


def test_int8_is_asked_where_pairs_are_and_compared_with_the_kernels(
    engine: Callable[..., Any], graph_file: Callable[..., Path], backend_name: str
):
    """ONNX Runtime has no integer kernel for a Conv whose result is not quantised; OpenVINO has."""
    found = asked.compare(onnx.load(str(graph_file(quantize=True))), "int8", engine("int8")[1]["layers"])
    assert found["asked"] == 3 and found["unread"] == 0, "the dense layer has no Q/DQ pairs"
    assert {one["name"] for one in found["differ"]} == (NAMES if backend_name == "onnxruntime" else set())
    assert all(one == {**one, "type": "Conv", "asked": "int8", "ran": "f32"} for one in found["differ"])


def test_openvino_runs_a_quantised_transposed_convolution_in_float(transposed: Path, tmp_path: Path):
    pytest.importorskip("openvino")
    layers = built("openvino", transposed, tmp_path, "int8")["layers"]
    found = asked.compare(onnx.load(str(transposed)), "int8", layers)
    (one,) = found["differ"]
    assert (found["asked"], found["met"], one["name"], one["type"]) == (2, 1, "two", "ConvTranspose")
    assert one["ran"] in ("bf16", "f16", "f32")
    assert asked.warning(found) == (
        f"1 of 2 layers of which int8 was asked run in another precision (1 in {one['ran']}): two"
    )


def test_a_layer_that_goes_on_under_the_name_of_what_was_fused_is_found(
    transposed: Path, tmp_path: Path, backend_name: str
):
    layers = built(backend_name, transposed, tmp_path, "fp32")["layers"]
    found = asked.compare(onnx.load(str(transposed)), "fp32", layers)
    assert found["unread"] == 0 and "dense" not in {one["name"] for one in found["differ"]}


def test_kept_layers_are_not_asked_and_lost_ones_never_called_a_difference(graph_file: Callable[..., Path]):
    model = onnx.load(str(graph_file()))
    layers = [
        {"name": "conv1 + relu1", "type": "CaskConvolution", "precision": "f16", "names": ["conv1", "relu1"]},
        {"name": "conv2", "type": "CaskConvolution", "precision": "f32"},
        {"name": "conv3", "type": "", "precision": ""},
    ]
    found = asked.compare(model, "fp16", layers, ["conv2"])
    assert found == {"asked": 3, "met": 1, "unread": 2, "differ": []}
    assert [one["name"] for one in asked.compare(model, "fp16", layers)["differ"]] == ["conv2"]
    assert asked.warning(None) == ""


def test_a_graph_in_fp16_asks_it_of_the_layers_with_such_weights(graph_file: Callable[..., Path], tmp_path: Path):
    from calib import fp16

    fp16.cast(graph_file(), tmp_path / "half.onnx", keep=["conv2"])
    layers = [{"name": name, "type": "conv", "precision": "f32"} for name in (*sorted(NAMES), "dense")]
    found = asked.compare(onnx.load(str(tmp_path / "half.onnx")), "fp16", layers)
    assert [one["name"] for one in found["differ"]] == ["conv1", "conv3", "dense"]


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_layers_of_a_plan_are_found_again(
    trt: Any, surface: str, graph_file: Callable[..., Path], tmp_path: Path, precision: str
):
    from tests.engines.tensorrt.plans import plan

    onnx_file = graph_file(quantize=precision == "int8")
    options = {"int8_mode": "explicit"} if precision == "int8" else {}
    told = plan(surface, onnx_file, tmp_path, (1, 4), precision, **options)
    found = asked.compare(onnx.load(str(onnx_file)), precision, told["layers"])
    assert (found["asked"], found["met"]) == ((3, 3) if precision == "int8" else (4, 4)), found
