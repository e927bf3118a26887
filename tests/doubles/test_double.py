"""The TensorRT double runs whole programs as a Jetson would: parse, profile, calibrate, build, load, execute."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.cuda import Context

pytestmark = pytest.mark.tensorrt

BATCHES = (1, 4)


def cnn(quantized: bool = False) -> bytes:
    """A residual CNN of 3x8x8 images with a free batch; with Q/DQ before each Conv and the Gemm on demand."""
    rng = np.random.default_rng(7)
    weights: List[Any] = []
    nodes: List[Any] = []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(tensor: str, scale: float) -> str:
        if not quantized:
            return tensor
        ends = [constant(f"{tensor}_s", np.float32(scale)), constant(f"{tensor}_z", np.int8(0))]
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *ends], [f"{tensor}_q"], name=f"{tensor}_Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}_q", *ends], [f"{tensor}_dq"], name=f"{tensor}_DQ"))
        return f"{tensor}_dq"

    def conv(name: str, source: str, inner: int) -> str:
        kernel = constant(f"{name}_w", (rng.standard_normal((8, inner, 3, 3)) / 4).astype(np.float32))
        ends = [pair(source, 0.03), pair(kernel, 0.01)]
        nodes.append(helper.make_node("Conv", ends, [name], name=name, pads=[1, 1, 1, 1]))
        return name

    nodes.append(helper.make_node("Relu", [conv("conv1", "x", 3)], ["relu1"], name="relu1"))
    nodes.append(helper.make_node("Add", [conv("conv2", "relu1", 8), "relu1"], ["add"], name="add"))
    nodes.append(helper.make_node("Relu", ["add"], ["relu2"], name="relu2"))
    nodes.append(helper.make_node("GlobalAveragePool", ["relu2"], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], name="flat"))
    head = constant("fc_w", rng.standard_normal((10, 8)).astype(np.float32))
    nodes.append(helper.make_node("Gemm", ["flat", head], ["y"], name="fc", transB=1))
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    graph = helper.make_graph(nodes, "cnn", ends, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def images(count: int) -> np.ndarray:
    """Images of shape (count, 3, 8, 8), float32, between -2 and 2."""
    return np.random.default_rng(count).uniform(-2, 2, (count, 3, 8, 8)).astype(np.float32)


def expected(model: bytes, batch: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": batch})[0])


def build(trt: Any, logger: Any, model: bytes, flags: Sequence[str] = (), clear: Sequence[str] = ("TF32",), **settings: Any) -> Any:
    """A plan with one profile for each of BATCHES, or None."""
    builder = trt.Builder(logger)
    kinds = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 64 << 20)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    for flag in clear:
        config.clear_flag(getattr(trt.BuilderFlag, flag))
    for name, value in settings.items():
        setattr(config, name, value)
    for batch in BATCHES:
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(batch, 3, 8, 8)] * 3)
        assert config.add_optimization_profile(profile) >= 0
    return builder.build_serialized_network(network, config)


def execute(trt: Any, logger: Any, plan: Any, batch: np.ndarray, synchronize: bool = True) -> np.ndarray:
    """Run a plan on one batch through pycuda, as an application does."""
    import pycuda.driver as cuda

    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    stream = cuda.Stream()
    assert context.set_optimization_profile_async(BATCHES.index(len(batch)), stream.handle)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert context.set_input_shape("x", batch.shape)
    arrays: Dict[str, Any] = {}
    for name in names:
        arrays[name] = cuda.pagelocked_empty(tuple(context.get_tensor_shape(name)), np.float32)
    arrays["x"][...] = batch
    buffers = {name: cuda.mem_alloc(array.nbytes) for name, array in arrays.items()}
    for name, buffer in buffers.items():
        assert context.set_tensor_address(name, int(buffer))
    cuda.memcpy_htod_async(buffers["x"], arrays["x"], stream)
    assert context.execute_async_v3(stream.handle)
    cuda.memcpy_dtoh_async(arrays["y"], buffers["y"], stream)
    if synchronize:
        stream.synchronize()
    result = np.array(arrays["y"])
    stream.synchronize()
    for buffer in buffers.values():
        buffer.free()
    for array in arrays.values():
        array.base.free()
    return result


@pytest.fixture
def gpu(cuda_ledger: Any) -> Iterator[Any]:
    """The primary context, pushed for the test."""
    with Context(0) as opened:
        yield opened


@pytest.mark.parametrize("batch", BATCHES)
def test_a_whole_program_gives_what_onnx_runtime_gives(trt: Any, gpu: Any, batch: int) -> None:
    logger, model = trt.Logger(trt.Logger.WARNING), cnn()
    plan = build(trt, logger, model)
    np.testing.assert_array_equal(execute(trt, logger, plan, images(batch)), expected(model, images(batch)))


def test_a_missing_synchronisation_gives_a_wrong_answer(trt: Any, gpu: Any) -> None:
    logger, model = trt.Logger(trt.Logger.WARNING), cnn()
    plan = build(trt, logger, model)
    assert not np.allclose(execute(trt, logger, plan, images(1), synchronize=False), expected(model, images(1)))
