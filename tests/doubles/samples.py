"""A small network, a logger that keeps its lines, and the build and the execution that applications do."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

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
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{tensor}_q", *ends], [f"{tensor}_dq"], name=f"{tensor}_DQ")
        )
        return f"{tensor}_dq"

    def conv(name: str, source: str, inner: int) -> str:
        kernel = constant(f"{name}_w", (rng.standard_normal((8, inner, 3, 3)) / 4).astype(np.float32))
        ends = [pair(source, 0.03), pair(kernel, 0.01)]
        nodes.append(helper.make_node("Conv", ends, [name], name=name, pads=[1, 1, 1, 1]))
        return name

    skip = "relu1_dq" if quantized else "relu1"  # quantised too: else its Q stays outside the kernels
    nodes.append(helper.make_node("Relu", [conv("conv1", "x", 3)], ["relu1"], name="relu1"))
    nodes.append(helper.make_node("Add", [conv("conv2", "relu1", 8), skip], ["add"], name="add"))
    nodes.append(helper.make_node("Relu", ["add"], ["relu2"], name="relu2"))
    nodes.append(helper.make_node("GlobalAveragePool", ["relu2"], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], name="flat"))
    head = constant("fc_w", rng.standard_normal((10, 8)).astype(np.float32))
    nodes.append(helper.make_node("Gemm", ["flat", head], ["y"], name="fc", transB=1))
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    graph = helper.make_graph(
        nodes, "cnn", ends, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])], weights
    )
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


def logger_of(trt: Any) -> Any:
    """A logger that keeps what it is told: `.lines` of (severity, line), `.errors()` as one text."""

    class Kept(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: List[Tuple[str, str]] = []

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append((severity.name, msg))

        def errors(self) -> str:
            """All errors so far; they are forgotten."""
            told = "\n".join(line for severity, line in self.lines if severity == "ERROR")
            self.lines.clear()
            return told

    return Kept()


def network_of(trt: Any, logger: Any, model: bytes = b"", flags: int = 0) -> Tuple[Any, Any]:
    """A builder and a network of explicit batch, filled where a model is given."""
    kinds = trt.NetworkDefinitionCreationFlag
    batch = 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0
    builder = trt.Builder(logger)
    network = builder.create_network(batch | flags)
    if model:
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(model), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    return builder, network


def build(
    trt: Any,
    logger: Any,
    model: bytes,
    flags: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    workspace: int = 64 << 20,
    network_flags: int = 0,
    **settings: Any,
) -> Any:
    """A plan without TF32 and with one profile for each batch, or None."""
    builder, network = network_of(trt, logger, model, network_flags)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    for name, value in settings.items():
        setattr(config, name, value)
    for batch in batches:
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
