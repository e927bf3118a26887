"""An ONNX graph as a network: its faults in words, its profiles, what stays in FP32, and accelerators."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from engines.errors import BuildError, IncompatibleError, UsageError
from engines.spec import TensorSpec
from engines.tensorrt import compat, network
from tests.doubles.samples import cnn

FREE = TensorSpec("x", (None, 3, 8, 8), "float32")
FIXED = TensorSpec("x", (1, 3, 8, 8), "float32")

Parse = Callable[..., Tuple[Any, Any, Any]]


@pytest.fixture
def gpu(cuda_ledger: Any) -> Iterator[Any]:
    """The primary context of GPU 0, current for the test."""
    from engines.cuda import Context

    with Context(0) as opened:
        yield opened


@pytest.fixture
def parse(trt: Any, gpu: Any, tmp_path: Path) -> Parse:
    """`parse(content)`: the builder, the network and its config."""

    def made(content: bytes, strongly_typed: bool = False) -> Tuple[Any, Any, Any]:
        file = tmp_path / "graph.onnx"
        file.write_bytes(content)
        log = compat.logger(trt)
        builder = trt.Builder(log)
        graph, parser = network.parse(trt, log, builder, file, _model(content), strongly_typed)
        assert parser.num_errors == 0
        return builder, graph, builder.create_builder_config()

    return made


def _model(content: bytes) -> Any:
    try:
        return ModelProto.FromString(content)
    except Exception:  # protobuf's error has another class in each of its versions
        return ModelProto()


def unknown_operator(name: str) -> bytes:
    """A graph whose second node TensorRT does not take."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("SoftmaxCrossEntropyLoss", ["r", "t"], ["loss"], name=name),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("t", TensorProto.INT32, [1]),
    ]
    graph = helper.make_graph(nodes, "loss", ends, [helper.make_tensor_value_info("loss", TensorProto.FLOAT, None)])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())


def asymmetric() -> bytes:
    """A quantised graph whose first zero point is not zero."""
    model = ModelProto.FromString(cnn(quantized=True))
    for item in model.graph.initializer:
        if item.name == "x_z":
            item.CopyFrom(numpy_helper.from_array(np.int8(3), "x_z"))
    return bytes(model.SerializeToString())


def image(shape: Sequence[object]) -> bytes:
    """A graph of one Relu on an input of this shape."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "relu", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (unknown_operator("loss_node"), "SoftmaxCrossEntropyLoss in node loss_node: No importer registered"),
        (unknown_operator(""), "SoftmaxCrossEntropyLoss in node loss: No importer registered"),
        (asymmetric(), "QuantizeLinear in node x_Q: .*symmetric quantization"),
        (b"no model", "this graph: Failed to parse"),
    ],
    ids=["named", "by its output", "zero point", "no model"],
)
def test_a_graph_that_is_refused_is_told_by_operator_node_and_reason(
    parse: Parse, trt: Any, content: bytes, words: str
) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        parse(content)
    text = str(caught.value)
    assert "graph.onnx" in text and trt.__version__ in text
    assert "\n" not in text
    assert "--opset" in caught.value.hint


@pytest.mark.tensorrt
def test_a_file_that_is_not_there(trt: Any, gpu: Any, tmp_path: Path) -> None:
    log = compat.logger(trt)
    with pytest.raises(BuildError, match="Failed to open file"):
        network.parse(trt, log, trt.Builder(log), tmp_path / "none.onnx", ModelProto(), False)


@pytest.mark.tensorrt
def test_no_network_and_no_parser_are_told(trt: Any, gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = compat.logger(trt)
    none = SimpleNamespace(create_network=lambda flags: None)
    with pytest.raises(BuildError, match="no network"):
        network.parse(trt, log, none, tmp_path / "a.onnx", ModelProto(), False)

    def null(*arguments: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "OnnxParser", null)
    with pytest.raises(BuildError, match="no ONNX parser"):
        network.parse(trt, log, trt.Builder(log), tmp_path / "a.onnx", ModelProto(), False)


@pytest.mark.tensorrt
@pytest.mark.parametrize(("size", "batch"), [("n", None), (2, 2)])
def test_inputs_and_the_batch_that_a_graph_fixes(parse: Parse, trt: Any, size: Any, batch: Optional[int]) -> None:
    _, graph, _ = parse(image([size, 3, 8, 8]))
    found = network.inputs(trt, graph)
    assert [(one.name, one.shape, one.dtype) for one in found] == [("x", (batch, 3, 8, 8), "float32")]
    assert network.fixed_batch(found) == batch


def shapes(profile: Any) -> List[Tuple[int, ...]]:
    """Min, opt and max of `x`."""
    return [tuple(shape) for shape in profile.get_shape("x")]


@pytest.mark.tensorrt
def test_each_batch_has_a_profile_of_its_own(parse: Parse, trt: Any) -> None:
    builder, graph, config = parse(cnn())
    profiles = network.add_profiles(builder, network.inputs(trt, graph), config, [1, 4, 16])
    assert [shapes(one) for one in profiles] == [[(batch, 3, 8, 8)] * 3 for batch in (1, 4, 16)]
    assert config.num_optimization_profiles == 3


@pytest.mark.tensorrt
def test_a_fixed_graph_has_no_profile(parse: Parse, trt: Any) -> None:
    builder, graph, config = parse(image([1, 3, 8, 8]))
    tensors = network.inputs(trt, graph)
    assert network.add_profiles(builder, tensors, config, [1]) == []
    assert network.calibration_profile(builder, tensors, config, 1) is None
    assert config.num_optimization_profiles == 0


@pytest.mark.tensorrt
def test_other_free_sizes_are_refused(parse: Parse, trt: Any) -> None:
    builder, graph, config = parse(image(["n", 3, "h", "w"]))
    with pytest.raises(UsageError, match="free sizes beside the batch") as caught:
        network.add_profiles(builder, network.inputs(trt, graph), config, [1])
    assert "--input-shape" in caught.value.hint


@pytest.mark.tensorrt
def test_the_calibrators_batch_may_be_another(parse: Parse, trt: Any) -> None:
    if not compat.has_calibrator(trt):
        pytest.skip("this version has no calibrators")
    builder, graph, config = parse(cnn())
    tensors = network.inputs(trt, graph)
    network.add_profiles(builder, tensors, config, [1])
    profile = network.calibration_profile(builder, tensors, config, 8)
    assert shapes(profile) == [(8, 3, 8, 8)] * 3
    assert shapes(config.get_calibration_profile()) == [(8, 3, 8, 8)] * 3
    assert config.num_optimization_profiles == 1


def test_profiles_that_tensorrt_refuses() -> None:
    builder = SimpleNamespace(create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shape: None))
    config = SimpleNamespace(add_optimization_profile=lambda one: -1, set_calibration_profile=lambda one: False)
    with pytest.raises(BuildError, match="optimisation profile of batch 4"):
        network.add_profiles(builder, [FREE], config, [4])
    with pytest.raises(BuildError, match="calibration profile of batch 2"):
        network.calibration_profile(builder, [FREE], config, 2)
    assert network.profile_of(builder, [FIXED], 1) is None


@pytest.mark.tensorrt
def test_layers_that_stay_in_fp32(parse: Parse, trt: Any) -> None:
    if not compat.weakly_typed(trt):
        pytest.skip("the graph alone tells it")
    _, graph, config = parse(cnn())
    obey = trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS
    network.keep_fp32(trt, graph, config, [])
    assert not config.get_flag(obey)
    network.keep_fp32(trt, graph, config, ["conv1", "fc"])
    every = [graph.get_layer(index) for index in range(graph.num_layers)]
    assert {one.name for one in every if one.precision_is_set} == {"conv1", "fc"}
    for one in every:
        if one.precision_is_set:
            assert one.precision == trt.float32
            assert [one.get_output_type(index) for index in range(one.num_outputs)] == [trt.float32] * one.num_outputs
    assert config.get_flag(obey)
    with pytest.raises(UsageError, match="--keep-fp32 another, nothing: the graph has no such node"):
        network.keep_fp32(trt, graph, config, ["nothing", "conv1", "another"])


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("cores", "core", "words"),
    [
        ("0", 0, "--dla 0: this device has no deep-learning accelerator"),
        ("2", 2, "--dla 2: this device has 2 accelerators, counted from 0"),
        ("2", -1, "--dla -1: this device has 2 accelerators"),
    ],
)
def test_an_accelerator_that_a_device_lacks(
    parse: Parse, trt: Any, monkeypatch: pytest.MonkeyPatch, cores: str, core: int, words: str
) -> None:
    monkeypatch.setenv("OPTIMIZE_DOUBLE_DLA", cores)
    builder, _, config = parse(cnn())
    with pytest.raises(IncompatibleError, match=words) as caught:
        network.use_dla(trt, builder, config, core, True, "fp16")
    assert caught.value.exit_code == 4
    assert config.default_device_type == trt.DeviceType.GPU


@pytest.mark.tensorrt
@pytest.mark.parametrize("fallback", [True, False])
def test_an_accelerator_that_a_device_has(
    parse: Parse, trt: Any, monkeypatch: pytest.MonkeyPatch, fallback: bool
) -> None:
    monkeypatch.setenv("OPTIMIZE_DOUBLE_DLA", "2")
    builder, _, config = parse(cnn())
    with pytest.raises(UsageError, match="FP16 or INT8, not in FP32"):
        network.use_dla(trt, builder, config, 1, fallback, "fp32")
    network.use_dla(trt, builder, config, 1, fallback, "int8")
    assert (config.default_device_type, config.DLA_core) == (trt.DeviceType.DLA, 1)
    assert config.get_flag(trt.BuilderFlag.GPU_FALLBACK) is fallback
