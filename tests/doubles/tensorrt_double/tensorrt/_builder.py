"""The builder: from a network and a config to a plan, or None with a line in the log."""

from __future__ import annotations

import os
import secrets
from typing import Any, Dict, FrozenSet, List, Mapping, Optional

from tensorrt import _driver
from tensorrt._calibration import calibrate
from tensorrt._check import Guarded, checked, stored, swallowed
from tensorrt._config import IBuilderConfig, IOptimizationProfile
from tensorrt._graph import lower
from tensorrt._layers import fuse
from tensorrt._log import error, misused, say
from tensorrt._network import INetworkDefinition
from tensorrt._operators import ON_DLA
from tensorrt._plan import IHostMemory, pack
from tensorrt._real import MAJOR

_LOW = ("FP16", "BF16", "INT8", "FP8", "INT4", "FP4")
_PHASES = ("Building Engine", "Computing graph optimizations", "Timing tactics", "Serializing")


def dla_cores() -> int:
    """How many accelerators this device has."""
    return int(os.environ.get("OPTIMIZE_DOUBLE_DLA", "0"))


@checked(lacks=("kernel_text", "writer"))
class Builder(Guarded):
    """Makes networks, configs, profiles and plans."""

    def __init__(self, logger: Any) -> None:
        if not _driver.has_context() and _driver.library().cuInit(0):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    max_threads = stored("int", 1)
    max_batch_size = stored("int", 1)
    error_recorder = stored("object", optional=True)
    gpu_allocator = stored("object", optional=True)
    logger = property(lambda self: self._logger)
    num_DLA_cores = property(lambda self: dla_cores())
    max_DLA_batch_size = property(lambda self: 4096)
    platform_has_fast_fp16 = property(lambda self: True)
    platform_has_fast_int8 = property(lambda self: True)
    platform_has_tf32 = property(lambda self: True)

    def create_network(self, flags: int = 0) -> Any:
        return INetworkDefinition._make(self, flags)

    def create_builder_config(self) -> Any:
        return IBuilderConfig._make(self)

    def create_optimization_profile(self) -> Any:
        return IOptimizationProfile._make(self._logger)

    def is_network_supported(self, network: Any, config: Any) -> bool:
        return not _refusal(network, config, self._logger)

    def reset(self) -> None:
        """Forget what was set."""

    def build_engine(self, network: Any, config: Any) -> Any:
        return self._build_engine(network, config)

    def build_engine_with_config(self, network: Any, config: Any) -> Any:
        return self._build_engine(network, config)

    def _build_engine(self, network: Any, config: Any) -> Any:
        from tensorrt._engine import Runtime

        plan = self.build_serialized_network(network, config)
        return None if plan is None else Runtime(self._logger).deserialize_cuda_engine(plan)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        if _refusal(network, config, self._logger):
            return None
        monitor = getattr(config, "progress_monitor", None)
        progress = _Progress(monitor)
        made = _build(network, config, self._logger, progress)
        progress.end()
        return made


def _refusal(network: Any, config: Any, logger: Any) -> bool:
    """Whether this cannot be built; the log has the reason."""
    for why in (
        _bad_network(network),
        _bad_flags(network, config),
        _bad_profiles(network, config),
        _bad_dla(network, config),
    ):
        if why:
            error(logger, why)
            return True
    return False


def _bad_network(network: Any) -> str:
    return "" if network._outputs else "Network must have at least one output"


def _bad_flags(network: Any, config: Any) -> str:
    if network._strongly_typed():
        for flag in _LOW:
            if config._has(flag):
                return f"Builder flag k{flag} is set, but is not allowed for a strongly typed network"
    elif network._explicitly_quantized() and not config._has("INT8"):
        name = next(layer._name for layer in network._layers if layer._kind in ("QUANTIZE", "DEQUANTIZE"))
        return f"{name}: Int8 precision has been set for a layer, but int8 is not configured in the builder"
    return ""


def _bad_profiles(network: Any, config: Any) -> str:
    free = [one for one in network._inputs if -1 in one._shape]
    if free and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for number, profile in enumerate(config._profiles):
        for one in free:
            shapes = profile._shapes.get(one._name)
            if shapes is None:
                return f"{one._name}: dynamic input is missing dimensions in profile {number}."
            for shape in shapes:
                if len(shape) != len(one._shape) or any(a not in (-1, b) for a, b in zip(one._shape, shape)):
                    return f"{one._name}: profile {number} does not match the network's {one._shape}"
        for name in profile._shapes:
            if name not in [one._name for one in network._inputs]:
                return f"{name}: profile {number} is for an input that the network does not have"
    return ""


def _on_dla(config: Any) -> bool:
    return config.default_device_type.name == "DLA"  # type: ignore[no-any-return]


def _bad_dla(network: Any, config: Any) -> str:
    if not _on_dla(config):
        return ""
    if not 0 <= config.DLA_core < dla_cores():
        return f"DLA core {config.DLA_core} was asked for, but this device has {dla_cores()}"
    if not network._strongly_typed() and not (config._has("FP16") or config._has("INT8")):
        return "Default DLA is enabled but layer precision is FP32: DLA layers run in FP16 or INT8 only"
    if len(config._profiles) > 1:
        return "DLA does not support more than one optimization profile"
    for profile in config._profiles:
        if any(low != high for low, _, high in profile._shapes.values()):
            return "DLA does not support dynamic shapes: min, opt and max must be the same"
    if not config._has("GPU_FALLBACK"):
        for layer in network._layers:
            if layer._kind not in (*ON_DLA, "CONSTANT", "QUANTIZE", "DEQUANTIZE", "MATRIX_MULTIPLY"):
                return f"DLA validation failed: {layer._name} is not supported on DLA and GPU fallback is not enabled."
    return ""


class _Progress:
    """The caller's progress monitor, where there is one."""

    def __init__(self, monitor: Any) -> None:
        self.monitor, self.cancelled = monitor, False
        self.open: List[str] = []

    def phase(self, name: str, steps: int) -> None:
        if self.monitor is not None:
            parent = self.open[-1] if self.open else None
            swallowed("phase_start", lambda: self.monitor.phase_start(name, parent, steps), None)
            self.open.append(name)

    def step(self, number: int) -> bool:
        """Report a step; False where the caller wants no more."""
        if self.monitor is not None and not self.cancelled:
            name = self.open[-1]
            self.cancelled = not swallowed("step_complete", lambda: self.monitor.step_complete(name, number), False)
        return not self.cancelled

    def end(self, keep: int = 0) -> None:
        while len(self.open) > keep:
            name = self.open.pop()
            swallowed("phase_finish", lambda name=name: self.monitor.phase_finish(name), None)


def _build(network: Any, config: Any, logger: Any, progress: _Progress) -> Any:
    progress.phase(_PHASES[0], 3)
    scales = _scales(network, config, logger)
    if scales is None or not progress.step(0):
        return None
    half = config._has("FP16") and not network._strongly_typed()
    full = _kept(network, config, logger)
    layers = fuse(network._model, half, scales, full)
    progress.phase(_PHASES[2], len(layers))
    if not _tactics(layers, config, logger, progress):
        return None
    progress.end(1)
    tf32 = config._has("TF32") and not half
    model = lower(network._model, half, tf32, scales, full)
    if not progress.step(1):
        return None
    facts = _facts(network, config, layers)
    say(logger, "INFO", f"Total Device Persistent Memory: 0\nTotal Scratch Memory: {facts['memory'][0]}")
    progress.step(2)
    return IHostMemory._make(pack(facts, model.SerializeToString(), _driver.compute_capability()))


def _scales(network: Any, config: Any, logger: Any) -> Optional[Mapping[str, float]]:
    """Scales from the calibrator; empty where there is nothing to calibrate, None where it failed."""
    if network._strongly_typed() or not config._has("INT8"):
        return {}
    calibrator = config.int8_calibrator
    if network._explicitly_quantized():
        if calibrator is not None:
            say(
                logger,
                "WARNING",
                "Calibrator won't be used in explicit precision mode. Use quantization aware training "
                "to generate network with Quantize/Dequantize nodes.",
            )
        return {}
    if calibrator is None:
        say(
            logger,
            "WARNING",
            "Calibrator is not being used. Users must provide dynamic range for all tensors that are not Int32 or "
            "Bool.",
        )
        return {one._name: one._range[1] / 127.0 for layer in network._layers for one in layer._inputs if one._range}
    profile = config._calibration or (config._profiles[0] if config._profiles else None)
    shapes = {one._name: list(one._shape) for one in network._inputs}
    if profile is not None:
        shapes.update({name: best for name, (_, best, _) in profile._shapes.items()})
    return calibrate(network._model, network._inputs, shapes, calibrator, logger)


def _kept(network: Any, config: Any, logger: Any) -> FrozenSet[str]:
    """The nodes that were asked to stay in FP32, where the config says to heed that."""
    asked = frozenset(layer._node for layer in network._layers if layer._precision == "FLOAT")
    heeded = any(
        config._has(flag) for flag in ("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", "STRICT_TYPES")
    )
    if asked and not heeded:
        say(
            logger,
            "WARNING",
            "Some layers have a precision, but no flag says to obey or prefer precision constraints: ignored",
        )
    return asked if heeded else frozenset()


def _tactics(layers: List[Dict[str, Any]], config: Any, logger: Any, progress: _Progress) -> bool:
    """Choose each layer's tactic: the timing cache's, or one of several alike. False where the build stops."""
    limit = config._pool("WORKSPACE")
    above = int(os.environ.get("OPTIMIZE_DOUBLE_OOM_ABOVE", "0"))
    if above and limit > above:
        say(
            logger,
            "ERROR",
            "[virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory "
            f"(Requested size was {limit} bytes.)",
        )
        error(
            logger,
            "[optimizer.cpp::computeCosts::3728] Could not find any implementation for node " + layers[0]["name"] + ".",
            10,
            "Internal Error",
        )
        return False
    known = {} if config._timing is None or config._has("DISABLE_TIMING_CACHE") else config._timing._entries
    for number, layer in enumerate(layers):
        key = f"{layer['type']}|{layer['precision']}|{layer['name']}"
        layer["tactic"] = known.setdefault(key, f"0x{secrets.token_hex(8)}")
        if not progress.step(number):
            misused(logger, "IBuilder::buildSerializedNetwork", "build was not cancelled by the progress monitor")
            return False
    return True


def _facts(network: Any, config: Any, layers: List[Dict[str, Any]]) -> Dict[str, Any]:
    """What the plan says about the engine."""
    ends = [("INPUT", one) for one in network._inputs] + [("OUTPUT", one) for one in network._outputs]
    profiles = [profile._shapes for profile in config._profiles] or [{}]
    fixed = {one._name: [list(one._shape)] * 3 for one in network._inputs if -1 not in one._shape}
    profiles = [{**fixed, **shapes} for shapes in profiles]
    return {
        "name": network._name,
        "io": [{"name": one._name, "mode": mode, "kind": one._kind, "shape": list(one._shape)} for mode, one in ends],
        "profiles": profiles,
        "layers": layers,
        "verbosity": config.profiling_verbosity.name,
        "refit": config._has("REFIT"),
        "capability": config.engine_capability.name,
        "memory": [_memory(shapes, layers) for shapes in profiles],
        "sharing": MAJOR >= 10 or config._preview.get("PROFILE_SHARING_0806", False),
        "sources": config._sources,
        "dla": config.DLA_core if _on_dla(config) else -1,
    }


def _memory(shapes: Mapping[str, Any], layers: List[Any]) -> int:
    """Bytes of scratch memory at a profile's largest shapes: grows with them, and is a multiple of 512."""
    elements = 0
    for _, _, high in shapes.values():
        count = 1
        for value in high:
            count *= value
        elements += count
    return -(-(elements * 4 * min(len(layers), 8)) // 512) * 512
