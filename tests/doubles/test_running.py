"""The TensorRT double runs: streams, graphs, threads, the inspector, the profiler."""

from __future__ import annotations

import json
from typing import Any, List, Tuple

import numpy as np
import pytest

from tests.doubles.samples import build, cnn, expected, images, logger_of

pytestmark = pytest.mark.tensorrt


class Running:
    """An engine of the sample on one profile, with its buffers."""

    def __init__(self, trt: Any, gpu: Any, plan: Any, batch: int = 1) -> None:
        self.gpu, self.batch = gpu, batch
        self.logger = logger_of(trt)
        self.engine = trt.Runtime(self.logger).deserialize_cuda_engine(plan)
        self.context = self.engine.create_execution_context()
        self.stream = gpu.stream()
        self.inputs, self.outputs = gpu.host((batch, 3, 8, 8), np.float32), gpu.host((batch, 10), np.float32)
        self.ends = [gpu.allocate(self.inputs.array.nbytes), gpu.allocate(self.outputs.array.nbytes)]
        self.context.set_optimization_profile_async((1, 4).index(batch), self.stream.handle)
        self.context.set_input_shape("x", (batch, 3, 8, 8))
        for name, end in zip(("x", "y"), self.ends):
            self.context.set_tensor_address(name, end.address)

    def feed(self, batch: Any) -> None:
        """Put a batch into the device's memory, in the stream's order."""
        self.inputs.array[...] = batch
        self.gpu.to_device(self.ends[0].address, self.inputs.array, self.stream)

    def result(self) -> Any:
        """Wait, and give the output."""
        self.gpu.to_host(self.outputs.array, self.ends[1].address, self.stream)
        self.stream.synchronize()
        return np.array(self.outputs.array)


def test_a_captured_graph_computes_anew_at_every_replay(trt: Any, gpu: Any) -> None:
    one = Running(trt, gpu, build(trt, logger_of(trt), cnn()))
    one.feed(images(1))
    assert one.context.execute_async_v3(one.stream.handle)
    one.stream.synchronize()
    graph = gpu.capture(one.stream, lambda: one.context.execute_async_v3(one.stream.handle))
    for factor in (1.0, -2.0, 3.0):
        batch = images(1) * np.float32(factor)
        one.feed(batch)
        graph.launch(one.stream)
        np.testing.assert_array_equal(one.result(), expected(cnn(), batch))


def test_nothing_runs_before_the_stream_is_waited_for(trt: Any, gpu: Any, cuda_ledger: Any) -> None:
    one = Running(trt, gpu, build(trt, logger_of(trt), cnn()))
    one.feed(images(1))
    before = cuda_ledger.fakecuda_pending()
    assert one.context.execute_async_v3(one.stream.handle)
    assert cuda_ledger.fakecuda_pending() == before + 1
    one.result()
    assert cuda_ledger.fakecuda_pending() == 0


def test_two_contexts_have_a_profile_each(trt: Any, surface: str, gpu: Any) -> None:
    plan = build(trt, logger_of(trt), cnn())
    one, four = Running(trt, gpu, plan), Running(trt, gpu, plan, 4)
    for running in (one, four):
        running.feed(images(running.batch))
        assert running.context.execute_async_v3(running.stream.handle)
        np.testing.assert_allclose(running.result(), expected(cnn(), images(running.batch)), rtol=1e-5, atol=1e-5)
    second = one.engine.create_execution_context()
    if surface.startswith("8"):
        assert second.active_optimization_profile == -1
        assert second.set_optimization_profile_async(0, 0) is False
        assert "has been chosen by another" in one.logger.errors()
    else:
        assert second.set_optimization_profile_async(0, 0) is True


def test_a_context_holds_device_memory_and_gives_it_back(trt: Any, gpu: Any, cuda_ledger: Any) -> None:
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(build(trt, logger_of(trt), cnn()))
    free, _ = gpu.memory()
    context = engine.create_execution_context()
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    assert size > 0 and free - gpu.memory()[0] == size
    del context
    assert gpu.memory()[0] == free
    cuda_ledger.fakecuda_set_oom(1, 1)
    assert engine.create_execution_context() is None


def test_a_destroyed_context_runs_nothing(trt: Any, gpu: Any, capfd: Any, cuda_ledger: Any) -> None:
    from engines.cuda import CudaError

    one = Running(trt, gpu, build(trt, logger_of(trt), cnn()))
    one.feed(images(1))
    assert one.context.execute_async_v3(one.stream.handle)
    one.context = None
    with pytest.raises(CudaError):
        one.stream.synchronize()
    assert "destroyed before its work" in capfd.readouterr().err
    gpu.__exit__(RuntimeError, RuntimeError(), None)
    cuda_ledger.fakecuda_reset()  # a broken context frees nothing


def inspected(trt: Any, plan: Any) -> Any:
    """What the inspector says about a plan, as data."""
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    assert len(told["Layers"]) in (0, engine.num_layers)
    return told


def test_the_inspector_tells_as_much_as_was_asked_for(trt: Any, surface: str, gpu: Any) -> None:
    kinds = trt.ProfilingVerbosity
    names = inspected(trt, build(trt, logger_of(trt), cnn()))
    assert names["Layers"] == ["conv1 + relu1", "conv2 + add + relu2", "pool", "flat", "fc"]
    assert inspected(trt, build(trt, logger_of(trt), cnn(), profiling_verbosity=kinds.NONE))["Layers"] == []
    told = inspected(trt, build(trt, logger_of(trt), cnn(), profiling_verbosity=kinds.DETAILED))
    first = told["Layers"][0]
    assert (first["Name"], first["LayerType"]) == ("conv1 + relu1", "CaskConvolution")
    assert first["Inputs"][0]["Name"] == "x" and first["Inputs"][0]["Dimensions"] == [1, 3, 8, 8]
    assert first["Outputs"][0]["Dimensions"] == [1, 8, 8, 8]
    assert ("Metadata" in first) is (surface != "8.5.2")
    if surface.startswith("11"):
        assert [one["Name"] for one in told["I/O Tensors"]] == ["x", "y"]
        assert first["Inputs"][0]["DataType"] == "Float"
    else:
        assert told["Bindings"][:2] == ["x", "y"]
        assert first["Inputs"][0]["Format/Datatype"] == "Row major linear FP32"


def test_the_inspector_shows_precision_reformats_and_quantization(trt: Any, gpu: Any) -> None:
    flags = ["INT8", "FP16"] if hasattr(trt.BuilderFlag, "INT8") else []
    detailed = trt.ProfilingVerbosity.DETAILED
    layers = inspected(trt, build(trt, logger_of(trt), cnn(quantized=True), flags, profiling_verbosity=detailed))[
        "Layers"
    ]
    origins = [layer.get("Origin") for layer in layers]
    assert origins.count("QDQ") == 1, "one Q at the input; the others are inside kernels"
    convs = [layer for layer in layers if layer["LayerType"] == "CaskConvolution"]
    assert len(convs) == 2 and all("Int8" in json.dumps(layer["Inputs"][0]) for layer in convs)
    if flags:
        half = inspected(trt, build(trt, logger_of(trt), cnn(), ["FP16"], profiling_verbosity=detailed))["Layers"]
        assert [layer["Name"] for layer in half if layer.get("Origin") == "REFORMAT"] == [
            "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1",
            "Reformatting CopyNode for Output Tensor 0 to fc",
        ]
        assert all("FP16" in layer["Outputs"][0]["Format/Datatype"] for layer in half[:-1])


def profiler(trt: Any) -> Any:
    """A profiler that keeps what it is told."""

    class Kept(trt.IProfiler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: List[Tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.append((layer_name, ms))

    return Kept()


def test_the_profiler_is_told_each_layer(trt: Any, gpu: Any) -> None:
    one = Running(trt, gpu, build(trt, logger_of(trt), cnn()), 4)
    one.context.profiler = kept = profiler(trt)
    one.feed(images(4))
    assert one.context.execute_async_v3(one.stream.handle)
    assert len(kept.times) == one.engine.num_layers
    assert all(name.endswith("[profile 1]") and ms >= 0 for name, ms in kept.times)
    kept.times.clear()
    one.context.enqueue_emits_profile = False
    assert one.context.report_to_profiler() is False
    assert one.context.execute_async_v3(one.stream.handle)
    one.stream.synchronize()
    assert not kept.times
    assert one.context.report_to_profiler() is True
    assert len(kept.times) == one.engine.num_layers
    with pytest.raises(TypeError):
        one.context.profiler = object()


def test_an_output_allocator_is_asked_and_told(trt: Any, surface: str, gpu: Any) -> None:
    one = Running(trt, gpu, build(trt, logger_of(trt), cnn()))

    class Growing(trt.IOutputAllocator):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.seen: List[Any] = []

        def reallocate_output(self, tensor_name: str, memory: Any, size: int, alignment: int) -> Any:
            self.seen.append((tensor_name, size))
            return one.ends[1].address

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.seen.append((tensor_name, tuple(shape)))

    growing = Growing()
    assert one.context.set_output_allocator("y", growing) is True
    assert one.context.set_output_allocator("x", growing) is False
    one.feed(images(1))
    assert one.context.execute_async_v3(one.stream.handle)
    np.testing.assert_array_equal(one.result(), expected(cnn(), images(1)))
    assert growing.seen == [("y", 40), ("y", (1, 10))]


def test_the_engine_says_what_it_takes(trt: Any, gpu: Any) -> None:
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(build(trt, logger_of(trt), cnn()))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["x", "y"]
    assert [engine.get_tensor_mode(name) for name in names] == [trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT]
    assert engine.get_tensor_dtype("x") == trt.float32
    assert tuple(engine.get_tensor_shape("x")) == (-1, 3, 8, 8)
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 1)] == [(4, 3, 8, 8)] * 3
    assert engine.num_optimization_profiles == 2
    assert engine.get_tensor_location("x") == trt.TensorLocation.DEVICE
    again = trt.Runtime(trt.Logger()).deserialize_cuda_engine(engine.serialize())
    assert again.num_layers == engine.num_layers
