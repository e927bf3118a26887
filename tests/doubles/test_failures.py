"""The TensorRT double fails as the original does: None or False with a line in the log, swallowed callbacks."""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.cuda import Context, CudaError
from tests.doubles.samples import BATCHES, build, cnn, images, logger_of, network_of

pytestmark = pytest.mark.tensorrt


def test_an_unknown_attribute_is_refused_as_by_pybind(trt: Any, gpu: Any) -> None:
    config = trt.Builder(trt.Logger()).create_builder_config()
    with pytest.raises(AttributeError):
        config.int8_calibratr = None
    with pytest.raises(AttributeError):
        config.set_flagg(trt.BuilderFlag.TF32)
    with pytest.raises(AttributeError):
        config.num_optimization_profiles = 2


def test_only_the_library_makes_its_objects(trt: Any, gpu: Any) -> None:
    for name in (
        "INetworkDefinition",
        "IBuilderConfig",
        "ICudaEngine",
        "IExecutionContext",
        "IHostMemory",
        "ITimingCache",
    ):
        with pytest.raises(TypeError, match="No constructor defined"):
            getattr(trt, name)()


def test_an_argument_of_another_type_or_name_is_refused(trt: Any, gpu: Any) -> None:
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    for call in (
        lambda: config.set_flag(0),
        lambda: config.set_flag(trt.DataType.FLOAT),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1.5),
        lambda: config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, size=1),
        lambda: builder.create_network(flag=0),
        lambda: builder.build_serialized_network(config, config),
        lambda: trt.Builder(None),
        lambda: trt.OnnxParser(None, trt.Logger()),
    ):
        with pytest.raises(TypeError):
            call()


def test_what_a_version_lacks_is_not_there(trt: Any, surface: str, gpu: Any) -> None:
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    weak = not surface.startswith("11")
    assert hasattr(trt.BuilderFlag, "FP16") is weak
    assert hasattr(config, "int8_calibrator") is weak
    assert hasattr(config, "set_calibration_profile") is weak
    assert hasattr(builder, "platform_has_fast_int8") is weak
    assert hasattr(config, "builder_optimization_level") is (surface != "8.5.2")
    assert hasattr(config, "progress_monitor") is (not surface.startswith("8"))
    assert hasattr(trt.ICudaEngine, "num_bindings") is surface.startswith("8")


@pytest.mark.parametrize(
    ("content", "operator", "words"),
    [
        (b"no model", "", "Failed to parse"),
        ("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLoss", "No importer registered"),
        ("zero", "QuantizeLinear", "zero point"),
    ],
)
def test_a_model_is_refused_with_node_and_reason(trt: Any, gpu: Any, content: Any, operator: str, words: str) -> None:
    logger = logger_of(trt)
    _, network = network_of(trt, logger)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(content if isinstance(content, bytes) else refused(content)) is False
    assert parser.num_errors == 1
    error = parser.get_error(0)
    assert words in error.desc()
    if hasattr(error, "node_operator"):
        assert error.node_operator() == operator
    assert any(words in line for severity, line in logger.lines if severity == "ERROR")
    parser.clear_errors()
    assert parser.num_errors == 0


def refused(kind: str) -> bytes:
    """A model with one node that TensorRT does not take."""
    if kind == "zero":
        model = onnx.ModelProto.FromString(cnn(quantized=True))
        for item in model.graph.initializer:
            if item.name == "x_z":
                item.CopyFrom(onnx.numpy_helper.from_array(np.int8(3), "x_z"))
        return bytes(model.SerializeToString())
    node = helper.make_node(kind, ["x", "t"], ["y"], name="loss")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("t", TensorProto.INT32, [1]),
    ]
    graph = helper.make_graph([node], "loss", ends, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())


def test_the_parser_of_tensorrt_8_wants_an_explicit_batch(trt: Any, surface: str, gpu: Any) -> None:
    logger = logger_of(trt)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(), logger)
    assert parser.parse(cnn()) is (not surface.startswith("8"))
    assert ("explicit batch" in logger.errors()) is surface.startswith("8")


def test_a_network_without_profile_is_not_built(trt: Any, gpu: Any) -> None:
    logger = logger_of(trt)
    builder, network = network_of(trt, logger, cnn())
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "no optimization profile" in logger.errors()


def test_a_profile_has_its_shapes_in_order_and_of_the_network(trt: Any, gpu: Any) -> None:
    logger = logger_of(trt)
    builder, network = network_of(trt, logger, cnn())
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    assert config.add_optimization_profile(profile) == -1
    with pytest.raises(ValueError, match="inconsistent"):
        profile.set_shape("x", (4, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    profile.set_shape("x", (1, 3, 9, 8), (1, 3, 9, 8), (1, 3, 9, 8))
    assert config.add_optimization_profile(profile) == 0
    assert builder.build_serialized_network(network, config) is None
    assert "does not match" in logger.errors()


def test_quantized_graphs_want_the_int8_flag(trt: Any, surface: str, gpu: Any) -> None:
    logger = logger_of(trt)
    plan = build(trt, logger, cnn(quantized=True))
    if surface.startswith("11"):
        assert plan is not None
    else:
        assert plan is None
        assert "int8 is not configured" in logger.errors()


def test_a_strongly_typed_network_takes_no_precision_flag(trt: Any, gpu: Any) -> None:
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(trt.BuilderFlag, "FP16"):
        pytest.skip("this version has not both")
    logger = logger_of(trt)
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert build(trt, logger, cnn(quantized=True), flags=["FP16"], network_flags=strong) is None
    assert "strongly typed" in logger.errors()
    assert build(trt, logger_of(trt), cnn(quantized=True), network_flags=strong) is not None


def test_int8_without_calibrator_warns(trt: Any, gpu: Any) -> None:
    if not hasattr(trt.BuilderFlag, "INT8"):
        pytest.skip("this version has no INT8 flag")
    logger = logger_of(trt)
    assert build(trt, logger, cnn(), flags=["INT8"]) is not None
    assert any("Calibrator is not being used" in line for severity, line in logger.lines if severity == "WARNING")


def test_too_much_workspace_runs_out_of_memory(trt: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMIZE_DOUBLE_OOM_ABOVE", str(32 << 20))
    logger = logger_of(trt)
    assert build(trt, logger, cnn()) is None
    assert "OutOfMemory" in logger.errors()
    assert build(trt, logger_of(trt), cnn(), workspace=16 << 20) is not None


def test_dla_needs_a_core_low_precision_and_one_fixed_profile(
    trt: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logger_of(trt)
    dla = {"default_device_type": trt.DeviceType.DLA, "DLA_core": 0}
    assert build(trt, logger, cnn(), batches=(1,), **dla) is None
    assert "this device has 0" in logger.errors()
    monkeypatch.setenv("OPTIMIZE_DOUBLE_DLA", "2")
    assert trt.Builder(logger).num_DLA_cores == 2
    flags = ["FP16"] if hasattr(trt.BuilderFlag, "FP16") else []
    if flags:
        assert build(trt, logger, cnn(), batches=(1,), **dla) is None
        assert "FP32" in logger.errors()
    assert build(trt, logger, cnn(), flags, **dla) is None
    assert "more than one optimization profile" in logger.errors()
    assert build(trt, logger, cnn(), flags, batches=(1,), **dla) is None
    assert "GPU fallback is not enabled" in logger.errors()
    plan = build(trt, logger, cnn(), [*flags, "GPU_FALLBACK"], batches=(1,), **dla)
    assert trt.Runtime(logger).deserialize_cuda_engine(plan) is not None
    monkeypatch.setenv("OPTIMIZE_DOUBLE_DLA", "0")
    assert trt.Runtime(logger).deserialize_cuda_engine(plan) is None


def test_a_damaged_or_foreign_plan_is_refused(trt: Any, cuda_ledger: Any, gpu: Any) -> None:
    logger = logger_of(trt)
    plan = bytes(build(trt, logger, cnn()))
    runtime = trt.Runtime(logger)
    for content in (b"", plan[:20], plan[:-1], plan[:-40] + bytes([plan[-40] ^ 1]) + plan[-39:]):
        assert runtime.deserialize_cuda_engine(content) is None
    assert "magicTag" in logger.errors()
    assert runtime.deserialize_cuda_engine(plan[:8] + b"\x07" + plan[9:]) is None
    assert "Version tag does not match" in logger.errors()
    assert runtime.deserialize_cuda_engine(plan[:10] + b"\x07\x00\x02\x00" + plan[14:]) is None
    assert "expecting compute 8.7 got compute 7.2" in logger.errors()
    assert runtime.deserialize_cuda_engine(plan) is not None


def context_of(trt: Any) -> Tuple[Any, Any]:
    """An execution context of the sample with its logger; nothing is set."""
    logger = logger_of(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(build(trt, logger, cnn()))
    return engine.create_execution_context(), logger


def test_shapes_outside_the_profile_are_refused(trt: Any, gpu: Any) -> None:
    running, logger = context_of(trt)
    assert running.set_input_shape("x", (2, 3, 8, 8)) is False
    assert "profile 0" in logger.errors()
    assert running.set_input_shape("nothing", (1, 3, 8, 8)) is False
    assert running.set_optimization_profile_async(2, 0) is False
    assert running.infer_shapes() == ["x"]
    assert not running.all_binding_shapes_specified
    assert running.set_input_shape("x", (1, 3, 8, 8)) is True
    assert tuple(running.get_tensor_shape("y")) == (1, 10)
    assert running.set_optimization_profile_async(1, 0) is True
    assert running.infer_shapes() == ["x"], "another profile: the shape is to be set anew"


def test_nothing_runs_without_shape_address_or_memory(trt: Any, gpu: Any) -> None:
    running, logger = context_of(trt)
    assert running.execute_async_v3(0) is False
    assert "Missing dimensions of input x" in logger.errors()
    assert running.set_input_shape("x", (1, 3, 8, 8))
    assert running.execute_async_v3(0) is False
    assert "no address for x" in logger.errors()
    assert running.set_tensor_address("z", 1) is False
    with pytest.raises(TypeError):
        running.set_tensor_address("x", 1.0)


def test_a_buffer_that_is_too_short_breaks_the_device(trt: Any, cuda_ledger: Any) -> None:
    with pytest.raises(CudaError, match="illegal"), Context(0) as gpu:
        running, _ = context_of(trt)
        running.set_input_shape("x", (1, 3, 8, 8))
        buffers = [gpu.allocate(100), gpu.allocate(40)]
        for name, buffer in zip(("x", "y"), buffers):
            running.set_tensor_address(name, buffer.address)
        stream = gpu.stream()
        assert running.execute_async_v3(stream.handle) is True
        stream.synchronize()
    cuda_ledger.fakecuda_reset()  # a broken context frees nothing


def test_a_logger_that_fails_stops_nothing(trt: Any, gpu: Any, capfd: Any) -> None:
    class Failing(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            raise OSError("no room")

    assert trt.Runtime(Failing()).deserialize_cuda_engine(b"x") is None
    assert "Exception caught in log" in capfd.readouterr().err


def test_a_callback_base_wants_its_init_called(trt: Any, gpu: Any) -> None:
    class Careless(trt.IProfiler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            self.seen: List[Any] = []

    with pytest.raises(TypeError, match="__init__"):
        Careless()


def test_the_samples_are_what_they_say(trt: Any, gpu: Any) -> None:
    _, network = network_of(trt, logger_of(trt), cnn(quantized=True))
    assert [network.get_input(0).name, network.get_output(0).name] == ["x", "y"]
    assert tuple(network.get_input(0).shape) == (-1, 3, 8, 8)
    kinds = {network.get_layer(index).type for index in range(network.num_layers)}
    assert trt.LayerType.QUANTIZE in kinds and trt.LayerType.CONVOLUTION in kinds
    assert images(BATCHES[0]).shape == (1, 3, 8, 8)
