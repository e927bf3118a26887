"""Scales of a quantised graph, as a calibration cache of its float graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib import cache, scales
from calib import graph as graphs
from calib.quantize import quantize
from engines.errors import BuildError
from engines.tensorrt import cachefile

KNOWN = {"image": 0.0078125, "r1": 0.03125, "c2": 0.0625, "a2": 0.0625, "r2": 0.0625, "f": 0.015625, "g": 0.015625}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conv, Relu, residual add, pooling, Flatten and Gemm."""
    random = np.random.default_rng(0)
    weights: Dict[str, Any] = {
        "w1": random.normal(0, 0.4, (4, 3, 3, 3)),
        "w2": random.normal(0, 0.4, (4, 4, 3, 3)),
        "w3": random.normal(0, 0.4, (5, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a2"], "add2"),
        helper.make_node("Relu", ["a2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["scores"], "dense", transB=1),
    ]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    made.ir_version = 8
    path = tmp_path_factory.mktemp("scales") / "net.onnx"
    onnx.save(made, str(path))
    return path


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_the_scales_that_went_in_come_out(graph: Path, tmp_path: Path, target: str) -> None:
    positive = cache.nonnegative(graphs.load(str(graph)))
    quantize(str(graph), tmp_path / "int8.onnx", KNOWN, target, nonnegative=positive)
    found = scales.read(graphs.load(str(tmp_path / "int8.onnx")))
    assert found
    for name, scale in found.items():
        assert scale == pytest.approx(KNOWN[name], rel=1e-6), name


@pytest.mark.parametrize("made_for", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_the_cache_of_one_backend_quantises_for_another(
    graph: Path, tmp_path: Path, made_for: str, target: str
) -> None:
    positive = cache.nonnegative(graphs.load(str(graph)))
    quantize(str(graph), tmp_path / "int8.onnx", KNOWN, made_for, nonnegative=positive)
    out = str(tmp_path / "calibration.cache")
    scales.write(str(tmp_path / "int8.onnx"), str(graph), out, {"samples": 8}, "8.5.2")
    assert cachefile.about(Path(out)) is not None
    done = cache.quantised(str(graph), out, target, str(tmp_path / "again.onnx"))
    assert done["imported"]["missing"] == []
    again = scales.read(graphs.load(str(tmp_path / "again.onnx")))
    for name, scale in again.items():
        assert scale == pytest.approx(KNOWN[name], rel=1e-6), name


def test_scales_spread_through_operators_that_keep_the_values(graph: Path) -> None:
    model = graphs.load(str(graph))
    assert scales.spread({"f": 0.5}, model) == {"f": 0.5, "g": 0.5}
    assert scales.spread({"g": 0.5, "f": 0.25}, model) == {"g": 0.5, "f": 0.25}
    assert scales.spread({"c1": 0.5}, model) == {"c1": 0.5}


def test_a_float_graph_has_none(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no activation"):
        scales.write(str(graph), str(graph), str(tmp_path / "cache"), {}, "8.5.2")
    assert not (tmp_path / "cache").exists()
