"""A whole program as one writes it for a Jetson: calibrate, build, save, load, execute, and clean up.

`python program.py MODEL.onnx` works wherever `tensorrt`, pycuda and a driver are: with the doubles or the real ones. It
prints one JSON line: inputs and outputs at FP32, what calibration was fed, and what is left on the device.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any, Dict, List

import numpy as np
import tensorrt as trt

from engines.cuda import Context

SHAPE = (2, 3, 8, 8)
CALIBRATION = 4


def images(seed: int) -> np.ndarray:
    """A batch of shape SHAPE, float32."""
    return np.random.default_rng(seed).uniform(-2, 2, SHAPE).astype(np.float32)


def build(model: bytes, logger: Any, flags: List[str], calibrator: Any = None) -> bytes:
    """The plan of a model with one profile, timed with a timing cache."""
    builder = trt.Builder(logger)
    kinds = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise SystemExit("\n".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=32 << 20)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if calibrator is not None:
        config.int8_calibrator = calibrator
    profile = builder.create_optimization_profile()
    profile.set_shape("x", min=SHAPE, opt=SHAPE, max=SHAPE)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SystemExit("the build failed")
    return bytes(plan)


def calibrate(gpu: Any, model: bytes, logger: Any) -> Dict[str, Any]:
    """Build INT8 from batches in one device buffer; gives how many were asked for, and the cache."""
    fed: Dict[str, Any] = {"batches": 0, "wanted": CALIBRATION, "cache": ""}

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.buffer = gpu.allocate(images(0).nbytes)

        def get_batch_size(self) -> int:
            return SHAPE[0]

        def get_batch(self, names: List[str]) -> Any:
            if fed["batches"] == CALIBRATION:
                return None
            stream = gpu.stream()
            gpu.to_device(self.buffer.address, images(fed["batches"]), stream)
            stream.synchronize()
            fed["batches"] += 1
            return [self.buffer.address]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            fed["cache"] = bytes(cache).decode()

    build(model, logger, ["INT8"], Calibrator())
    return fed


def execute(gpu: Any, plan: bytes, logger: Any) -> List[float]:
    """The outputs of one batch."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    stream = gpu.stream()
    inputs = gpu.host(SHAPE, np.float32)
    inputs.array[...] = images(9)
    context.set_input_shape("x", SHAPE)
    outputs = gpu.host(tuple(context.get_tensor_shape("y")), np.float32)
    source, target = gpu.allocate(inputs.array.nbytes), gpu.allocate(outputs.array.nbytes)
    context.set_tensor_address("x", source.address)
    context.set_tensor_address("y", target.address)
    gpu.to_device(source.address, inputs.array, stream)
    if not context.execute_async_v3(stream.handle):
        raise SystemExit("the execution failed")
    gpu.to_host(outputs.array, target.address, stream)
    stream.synchronize()
    return [float(value) for value in outputs.array.ravel()]


def left() -> Dict[str, int]:
    """What the driver for tests still holds; empty with a real driver."""
    driver = ctypes.CDLL("libcuda.so.1")
    names = ("live_allocations", "live_host", "live_streams", "live_events", "pushed_contexts")
    return {name: int(getattr(driver, f"fakecuda_{name}")()) for name in names if hasattr(driver, f"fakecuda_{name}")}


def main(path: str) -> None:
    """Run it all."""
    with open(path, "rb") as file:
        model = file.read()
    logger = trt.Logger(trt.Logger.WARNING)
    told: Dict[str, Any] = {"inputs": images(9).tolist(), "calibration": None}
    with Context(0) as gpu:
        if hasattr(trt, "IInt8EntropyCalibrator2"):
            told["calibration"] = calibrate(gpu, model, logger)
        told["outputs"] = execute(gpu, build(model, logger, []), logger)
    told["left"] = left()
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
