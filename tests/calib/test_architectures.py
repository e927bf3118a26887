"""Blocks of other networks than ResNets: quantised everywhere it pays, right in every backend."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

import engines
from calib import graph, placement, ranges
from calib.methods import Method, scale
from calib.quantize import quantize
from engines.spec import RunnerSpec
from tests.calib import architectures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32 graphs, `NAME.onnx`, and quantised ones, `NAME-TARGET.onnx`, by min-max on the module's images."""
    path = tmp_path_factory.mktemp("architectures")
    for name in architectures.ALL:
        source = architectures.write(name, path / f"{name}.onnx")
        for target in placement.TARGETS:
            tensors = placement.points(graph.load(source), target).measured()
            seen = ranges.collect(source, tensors, [{"image": pictures()}])
            scales = {tensor: scale(found, Method("minmax")) for tensor, found in seen.items()}
            unsigned = [tensor for tensor, found in seen.items() if found.nonnegative]
            quantize(source, path / f"{name}-{target}.onnx", scales, target, nonnegative=unsigned)
    return path


def pictures() -> Any:
    return np.random.default_rng(0).random((32, 3, 4, 4)).astype(np.float32).repeat(4, 2).repeat(4, 3)


def outputs(path: Path) -> List[Any]:
    return list(ranges.session(path, simulate=True).run(None, {"image": pictures()}))


def distance(found: List[Any], expected: List[Any]) -> float:
    return max(float(np.abs(a - b).mean() / np.abs(b).mean()) for a, b in zip(found, expected))


@pytest.mark.parametrize("target", placement.TARGETS)
@pytest.mark.parametrize("name", architectures.ALL)
def test_quantised_graphs_stay_near_fp32(folder: Path, name: str, target: str) -> None:
    assert 0 < distance(outputs(folder / f"{name}-{target}.onnx"), outputs(folder / f"{name}.onnx")) < 0.03


@pytest.mark.skipif(platform.machine() == "aarch64", reason="OpenVINO computes some of these in float on aarch64")
@pytest.mark.parametrize("name", architectures.ALL)
def test_openvino_computes_what_the_graph_says_in_int8(folder: Path, name: str) -> None:
    pytest.importorskip("openvino")
    path = folder / f"{name}-openvino.onnx"
    options = {"inference_precision": "f32"}
    spec = RunnerSpec(str(path), "onnx", layout="NCHW", backend="openvino", task="tensors", options=options)
    with engines.open(spec) as runner:
        found = list(runner.infer({"image": pictures()}).values())
        counts = runner.achieved()
    assert distance(found, outputs(path)) < 0.01
    layers = len(placement.points(graph.load(folder / f"{name}.onnx"), "openvino").weights)
    assert counts["int8"] >= layers, counts


@pytest.mark.parametrize("name", architectures.ALL)
def test_onnxruntime_computes_what_the_graph_says_in_int8(folder: Path, name: str) -> None:
    path = folder / f"{name}-onnxruntime.onnx"
    with engines.open(RunnerSpec(str(path), "onnx", layout="NCHW", backend="onnxruntime", task="tensors")) as runner:
        found = list(runner.infer({"image": pictures()}).values())
        counts = runner.achieved()
    assert distance(found, outputs(path)) < 0.01
    assert counts["int8"] >= len(placement.points(graph.load(folder / f"{name}.onnx"), "onnxruntime").weights), counts


def quantised_inputs(name: str, target: str, folder: Path) -> Dict[str, List[bool]]:
    """Per node, which of its inputs read a pair."""
    view = graph.Graph(graph.load(folder / f"{name}.onnx"))
    edges = {edge for found in placement.points(view, target).activations.values() for edge in found}
    return {
        node.name: [
            graph.Edge(index, slot) in edges for slot, tensor in enumerate(node.input) if tensor in view.producer
        ]
        for index, node in enumerate(view.nodes)
    }


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_joined_branches_share_the_scale_of_what_they_become(folder: Path, target: str) -> None:
    view = graph.Graph(graph.load(folder / "inception.onnx"))
    place = placement.points(view, target)
    reads = quantised_inputs("inception", target, folder)
    for node in view.nodes:
        if node.op_type == "Concat":
            assert all(reads[node.name]) and len(reads[node.name]) == len(node.input)
            root = place.scale_of.get(node.output[0], node.output[0])
            assert {place.scale_of[name] for name in node.input} == {root}
    assert reads["i1_pool"] == [True] and reads["r_pool"] == [True]  # their inputs' other readers are convolutions
    assert reads["gap"] == [target == "openvino"]  # alone with its input, between two layers
    assert not set(place.measured()) & set(place.scale_of)


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_what_needs_floats_keeps_them(folder: Path, target: str) -> None:
    reads = quantised_inputs("densenet", target, folder)
    assert not any(reads["d1_concat"] + reads["d2_bn"])  # normalised in float before they are quantised
    reads = quantised_inputs("squeeze_excite", target, folder)
    assert not any(reads["s0_excite"] + reads["s0_squeeze"]) and reads["s0_up"] == [True]
    assert reads["s1_add"] == [False, False]  # no convolution to be fused with
    reads = quantised_inputs("yolo", target, folder)
    assert reads["csp_concat"] == [True, False, True]  # the second is also added in float
    assert reads["spp_concat"] == [True, True, True] and reads["spp0"] == reads["spp1"] == [True]
    assert reads["fpn"] == [True, True] and reads["csp_out_swish"] == [False, False]
    reads = quantised_inputs("ssd", target, folder)
    assert not any(reads["boxes"])  # it is an output


def test_a_join_that_stays_float_leaves_the_others_their_own_scales(folder: Path) -> None:
    place = placement.points(graph.load(folder / "inception.onnx"), "tensorrt", ("i0_concat",))
    assert "i0_a_relu_out" not in place.activations
    assert place.scale_of["i1_a_relu_out"] == "r_concat_out"  # through the pooling behind it
