"""What is particular to ONNX Runtime: the file, its weights, and what the optimiser made of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engines
from calib import ranges
from engines import onnxfile
from engines import onnxruntime as backend
from engines.errors import BuildError
from engines.spec import RunnerSpec


def test_fp32_and_int8_keep_the_very_bytes(graph_file: Callable[..., Path], tmp_path: Path):
    for quantize in (False, True):
        path = graph_file(quantize=quantize)
        built = backend.build(path, tmp_path, "int8" if quantize else "fp32", [1])
        assert (tmp_path / "model.onnx").read_bytes() == path.read_bytes()
        assert built["flags"] == []
        assert built["options"]["spinning"] is True


def test_every_node_is_timed_in_order(graph_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    feeds = {"image": np.ones((4, 3, 16, 16), np.float32)}
    with backend.load(RunnerSpec(str(graph_file()), "onnx", backend="onnxruntime")) as runner:
        before = runner.infer(feeds)["scores"]
        found = runner.profile(feeds, 3)
        assert [layer["precision"] for layer in found if "Conv" in layer["type"]] == ["f32"] * 3
        assert "Gemm" in found[-1]["type"] and all(layer["ms"] >= 0 for layer in found)
        assert sum(layer["ms"] for layer in found) > 0
        np.testing.assert_array_equal(runner.infer(feeds)["scores"], before)
    assert not list(tmp_path.iterdir()), "its trace is removed"


def test_nodes_without_a_name_are_timed_each_alone(graph_file: Callable[..., Path], tmp_path: Path):
    model = onnx.load(str(graph_file()))
    for node in model.graph.node:
        node.name = ""
    model.ir_version = 100  # newer than the runtime knows
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    with backend.load(RunnerSpec(str(tmp_path / "bare.onnx"), "onnx", backend="onnxruntime")) as runner:
        found = runner.profile({"image": np.ones((2, 3, 16, 16), np.float32)}, 2)
    assert len([layer for layer in found if "Conv" in layer["type"]]) == 3


def test_fp16_halves_the_weights_and_says_that_it_is_not_faster(graph_file: Callable[..., Path], tmp_path: Path):
    built = backend.build(graph_file(), tmp_path, "fp16", [1])
    assert built["flags"] == ["no-fast-fp16"]
    assert set(built["achieved"]) == {"f32"}
    assert (tmp_path / "model.onnx").stat().st_size < 0.7 * graph_file().stat().st_size
    weights = {t.name: t.data_type for t in onnx.load(str(tmp_path / "model.onnx")).graph.initializer}
    assert weights["conv2_w/float16"] == TensorProto.FLOAT16
    assert weights["conv2_b"] == TensorProto.FLOAT
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


def test_weights_beyond_float16_stay(graph_file: Callable[..., Path]):
    model = onnx.load(str(graph_file()))
    big = next(t for t in model.graph.initializer if t.name == "conv2_w")
    big.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(big) * np.float32(1e6), "conv2_w"))
    assert onnxfile.halve_weights(model) == 3
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["conv2_w"] == TensorProto.FLOAT


def test_the_optimised_graph_tells_what_was_achieved(graph_file: Callable[..., Path], tmp_path: Path):
    """uint8 activations and int8 weights of a MatMul become one integer kernel on any CPU."""
    random = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "w": random.integers(-127, 127, (8, 8)).astype(np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "os": np.float32(0.1),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], "Q1"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "DQ1"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "DQ2"),
        helper.make_node("MatMul", ["d", "wd"], ["m"], "matmul"),
        helper.make_node("QuantizeLinear", ["m", "os", "z"], ["mq"], "Q3"),
        helper.make_node("DequantizeLinear", ["mq", "os", "z"], ["md"], "DQ3"),
        helper.make_node("Softmax", ["md"], ["y"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "q.onnx"))
    out = tmp_path / "out"
    out.mkdir()
    layers = {
        layer["type"]: layer["precision"] for layer in backend.build(tmp_path / "q.onnx", out, "int8", [1])["layers"]
    }
    assert layers["QLinearMatMul"] == "int8"
    assert "QuantizeLinear" not in layers
    assert layers.get("Softmax", layers.get("QLinearSoftmax")) in ("f32", "int8")


@pytest.mark.parametrize(
    "kind, inputs, precision", [("Conv", ["h"], "f16"), ("Conv", ["f"], "f32"), ("Gemm", [], "f32")]
)
def test_precision_follows_the_tensors(kind: str, inputs: Any, precision: str):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["x2"]), helper.make_node(kind, inputs, ["y"], "it")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float16), "h"), numpy_helper.from_array(np.ones(1, np.float32), "f")],
    )
    assert backend.precisions(helper.make_model(graph))[-1]["precision"] == precision


def test_a_newer_ir_version_is_lowered(graph_file: Callable[..., Path], tmp_path: Path):
    model = onnx.load(str(graph_file()))
    model.ir_version = 99
    path = tmp_path / "new.onnx"
    path.write_bytes(model.SerializeToString())
    out = tmp_path / "out"
    out.mkdir()
    backend.build(path, out, "fp32", [1])
    assert onnx.load(str(out / "model.onnx")).ir_version < 99
    feeds = {"image": np.zeros((1, 3, 16, 16), np.float32)}
    for file in (path, out / "model.onnx"):
        with engines.open(RunnerSpec(str(file), "onnx", backend="onnxruntime")) as runner:
            assert runner.infer(feeds)["scores"].shape == (1, 10)


def test_a_newer_opset_is_named_with_the_one_to_export(graph_file: Callable[..., Path], tmp_path: Path):
    model = onnx.load(str(graph_file()))
    model.opset_import[0].version = 99
    path = tmp_path / "new.onnx"
    path.write_bytes(model.SerializeToString())
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match="opset 99 is newer") as error:
        backend.build(path, out, "fp32", [1])
    assert "--opset" in error.value.hint


def test_a_layer_between_pairs_keeps_its_float_weights(tmp_path: Path):
    """1.21 and later would round them, with one scale for all channels, and run the layer in INT8."""
    rng = np.random.default_rng(0)
    scales = np.array([1, 1, 1, 1e-3]).reshape(4, 1, 1, 1)
    weight = (scales * rng.normal(0, 1, (4, 4, 3, 3))).astype(np.float32)
    constants = {"w": weight, "s": np.float32(0.02), "z": np.uint8(128), "t": np.float32(0.2)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
        helper.make_node("Conv", ["xf", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["c", "t", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "t", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with engines.open(RunnerSpec(str(path), "onnx", backend="onnxruntime")) as runner:
        assert runner.achieved() == {"f32": 1}
        x = rng.normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
        found = runner.infer({"x": x})["y"]
    exact = ranges.session(path, simulate=True).run(None, {"x": x})[0]
    assert np.abs(found - exact).max() <= 0.2001  # a step, where sums fall between two
    assert (np.abs(found - exact) > 0.01).mean() < 0.01
