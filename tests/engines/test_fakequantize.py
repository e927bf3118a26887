"""Joined quantised values come out as the graph says, whoever else reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

import engines
from engines import fakequantize
from engines.spec import RunnerSpec

ov = pytest.importorskip("openvino")


class Graph:
    """Two quantised convolutions, joined and read by a third, with Q/DQ pairs where asked."""

    def __init__(self, dtype: Any, zero: int, before: bool, after: bool, rectified: bool) -> None:
        self.rng, self.nodes, self.constants = np.random.default_rng(1), [], []  # type: ignore[var-annotated]
        self.dtype, self.zero = dtype, zero
        image = self.pair("x", 1 / 255, np.uint8, 0)
        branches = [self.conv(image, 3, 8, 3) for _ in range(2)]
        if rectified:
            branches[0] = self.node("Relu", [branches[0]])
        if before:
            branches = [self.pair(name, 0.02, dtype, zero) for name in branches]
        joined = self.node("Concat", branches, axis=1)
        self.output = self.conv(self.pair(joined, 0.02, dtype, zero) if after else joined, 16, 4, 1)

    def constant(self, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def node(self, op: str, inputs: List[str], **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def pair(self, x: str, scale: float, dtype: Any, zero: int) -> str:
        ends = [self.constant(np.float32(scale)), self.constant(np.asarray(zero, dtype))]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *ends]), *ends])

    def conv(self, x: str, i: int, o: int, kernel: int) -> str:
        weight = self.rng.integers(-127, 128, (o, i, kernel, kernel)).astype(np.int8)
        ends = [self.constant(np.full(o, 0.3 / 127, np.float32)), self.constant(np.zeros(o, np.int8))]
        weights = self.node("DequantizeLinear", [self.constant(weight), *ends], axis=0)
        return self.node("Conv", [x, weights], pads=[kernel // 2] * 4)

    def write(self, path: Path) -> Path:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
        y = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["N", 4, 8, 8])
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.constants)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        return path


def expected(path: Path, x: Any) -> Any:
    """What Q and DQ say, in float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("before, after", [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dtype, zero", [(np.int8, 0), (np.uint8, 128)])
def test_joined_values_are_right(
    dtype: Any, zero: int, before: bool, after: bool, rectified: bool, tmp_path: Path
) -> None:
    path = Graph(dtype, zero, before, after, rectified).write(tmp_path / "joined.onnx")
    x = np.random.default_rng(2).random((4, 3, 8, 8)).astype(np.float32)
    with engines.open(RunnerSpec(str(path), "onnx", layout="NCHW", backend="openvino", task="tensors")) as runner:
        (found,) = runner.infer({"x": x}).values()
    right = expected(path, x)
    assert np.abs(found - right).mean() < 1e-3 * np.abs(right).mean()


def test_every_pair_becomes_one_node_and_weights_stay_integers(tmp_path: Path) -> None:
    model = ov.Core().read_model(str(Graph(np.int8, 0, True, True, True).write(tmp_path / "joined.onnx")))
    assert fakequantize.fuse(model) == 4
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") == 4 and kinds.count("Multiply") == 3  # of the weights
    assert sum(str(n.get_element_type()) == "<Type: 'int8_t'>" for n in model.get_ordered_ops()) >= 3
    assert fakequantize.fuse(model) == 0


def test_a_built_engine_is_right(tmp_path: Path) -> None:
    from engines import openvino

    path = Graph(np.int8, 0, False, True, False).write(tmp_path / "joined.onnx")
    about = openvino.build(path, tmp_path, "int8", [4], {"inference_precision": "f32"})
    assert about["achieved"]["int8"] >= 3
    x = np.random.default_rng(2).random((4, 3, 8, 8)).astype(np.float32)
    spec = RunnerSpec(str(tmp_path / "model.xml"), "bundle", layout="NCHW", backend="openvino", task="tensors")
    with openvino.load(spec) as runner:
        (found,) = runner.infer({"x": x}).values()
    right = expected(path, x)
    assert np.abs(found - right).mean() < 1e-3 * np.abs(right).mean()
