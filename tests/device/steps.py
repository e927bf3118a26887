"""The steps that the TensorRT cases share, straight on its API: network, config, plan, engine, execution."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from engines.tensorrt import compat
from tests.device.models import BATCHES, SHAPE, cnn
from tests.device.world import World

WORKSPACE = 256 << 20

TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "int8": 0.1, "measured": 0.35}
"""Largest difference from ONNX Runtime, as a share of the largest output; `measured`: INT8 with a calibrator."""


def network(w: World, model: bytes, typed: bool = False) -> Tuple[Any, Any, Any, Any]:
    """A builder, a network, its parser, and what `parse` gave."""
    builder = w.trt.Builder(w.log)
    made = builder.create_network(compat.network_flags(w.trt, typed))
    parser = w.trt.OnnxParser(made, w.log)
    return builder, made, parser, parser.parse(model)


def config(w: World, builder: Any, flags: Sequence[str] = (), batches: Sequence[int] = BATCHES) -> Any:
    """A builder config without TF32, with a profile of `x` for each batch."""
    made = builder.create_builder_config()
    made.set_memory_pool_limit(w.trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    made.profiling_verbosity = w.trt.ProfilingVerbosity.DETAILED
    made.clear_flag(w.trt.BuilderFlag.TF32)
    for name in flags:
        made.set_flag(getattr(w.trt.BuilderFlag, name))
    for batch in batches:
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *[(batch, *SHAPE)] * 3)
        w.check("the profile is taken", made.add_optimization_profile(profile) >= 0)
    return made


def plan(
    w: World,
    model: Optional[bytes] = None,
    flags: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    typed: bool = False,
    prepare: Optional[Callable[[Any, Any], Any]] = None,
) -> Any:
    """A plan, or None.

    Args:
        w: The case's surroundings.
        model: ONNX; the float CNN by default.
        flags: Builder flags.
        batches: One profile each.
        typed: Strongly.
        prepare: Given builder and config before the build; what it returns lives until the build is over.
    """
    builder, made, parser, parsed = network(w, cnn() if model is None else model, typed)
    w.check("the model is parsed", parsed)
    settings = config(w, builder, flags, batches)
    kept = prepare(builder, settings) if prepare is not None else None
    built = builder.build_serialized_network(made, settings)
    del kept, settings, parser, made
    return built


def engine(w: World, content: Any) -> Any:
    """The engine of a plan, or None; it keeps its runtime."""
    return w.trt.Runtime(w.log).deserialize_cuda_engine(content)


class Execution:
    """An execution context with a stream and buffers of one batch.

    Args:
        w: The case's surroundings.
        context: Its profile and shapes are set by `prepare`, or by the case.
        batch: Images.
        zero_copy: Inputs and outputs stay in the host's memory.
    """

    def __init__(self, w: World, context: Any, batch: int, zero_copy: bool = False) -> None:
        self.w, self.context, self.batch, self.zero_copy = w, context, batch, zero_copy
        self.stream = w.gpu.stream()
        self.source = w.gpu.host((batch, *SHAPE), np.float32, zero_copy)
        self.target = w.gpu.host((batch, 10), np.float32, zero_copy)
        self.memory: List[Any] = []

    def prepare(self, profile: int) -> Execution:
        """Choose the profile, set the shape and the addresses, each checked."""
        w, context = self.w, self.context
        chosen = context.set_optimization_profile_async(profile, self.stream.handle)
        w.check(f"profile {profile} is chosen", chosen)
        self.stream.synchronize()
        w.check("the shape is taken", context.set_input_shape("x", (self.batch, *SHAPE)))
        for name, address in self.addresses().items():
            w.check("an address is taken", context.set_tensor_address(name, address))
        return self

    def addresses(self) -> Dict[str, int]:
        """Where input and output lie for the device."""
        if self.zero_copy:
            return {"x": self.source.address, "y": self.target.address}
        if not self.memory:
            self.memory = [self.w.gpu.allocate(host.array.nbytes) for host in (self.source, self.target)]
        return {"x": self.memory[0].address, "y": self.memory[1].address}

    def enqueue(self) -> bool:
        """Queue the copies and the execution; what `execute_async_v3` gave."""
        addresses = self.addresses()
        if not self.zero_copy:
            self.w.gpu.to_device(addresses["x"], self.source.array, self.stream)
        done = bool(self.context.execute_async_v3(self.stream.handle))
        if not self.zero_copy:
            self.w.gpu.to_host(self.target.array, addresses["y"], self.stream)
        return done

    def run(self, batch: np.ndarray) -> np.ndarray:
        """The outputs of one batch; zeros where it is not executed."""
        self.source.array[...] = batch
        self.target.array[...] = 0
        self.w.check("it executes", self.enqueue())
        self.stream.synchronize()
        return np.array(self.target.array)

    def free(self) -> None:
        """Give everything back but the context."""
        self.context = None
        for one in [*self.memory, self.source, self.target, self.stream]:
            one.free()


def close(w: World, name: str, found: np.ndarray, wanted: np.ndarray, kind: str) -> None:
    """Check outputs against ONNX Runtime's, and keep the largest difference as a share of the largest output."""
    difference = float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-6))
    worst = max(difference, w.seen.get(f"{name}: difference") or 0.0)
    w.seen[f"{name}: difference"] = round(worst, 6) if np.isfinite(worst) else None
    w.check(f"{name} agrees with ONNX Runtime", difference <= TOLERANCE[kind])
