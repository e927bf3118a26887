"""How to build: flags, limits, profiles, the calibrator, the timing cache."""

# ruff: noqa: A002 - arguments are named as TensorRT names them
from __future__ import annotations

import json
import struct
from typing import Any, Callable, Dict, List, Optional

from tensorrt import _driver
from tensorrt._check import Guarded, checked, setter, stored
from tensorrt._log import error, misused
from tensorrt._plan import IHostMemory
from tensorrt._real import NUMBERS, REAL

_CACHE = struct.Struct("<4s3H2HI")


def enum(kind: str, member: str) -> Callable[[], Any]:
    """A default that is read when it is wanted."""
    return lambda: getattr(REAL[kind], member)


@checked()
class IOptimizationProfile(Guarded):
    """The smallest, best and largest shape of each input."""

    def _setup(self, logger: Any = None) -> None:
        self._logger = logger
        self._shapes: Dict[str, List[List[int]]] = {}

    extra_memory_target = stored("float", 1.0)
    profile_stream = stored("int", 0)

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [list(min), list(opt), list(max)]
        low, best, high = shapes
        fits = len(low) == len(best) == len(high) and all(a <= b <= c for a, b, c in zip(low, best, high))
        if not fits or any(value < 0 for value in low):
            misused(self._logger, "IOptimizationProfile::setDimensions", f"dims of {input}: min <= opt <= max")
            raise ValueError(f"Shape provided for min/opt/max is inconsistent for input: {input}")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> Any:
        return [REAL["Dims"](shape) for shape in self._shapes.get(input, [])]


@checked(lacks=("key", "value"))
class ITimingCache(Guarded):
    """The tactics that were timed before, for one version and one device."""

    def _setup(self, entries: Optional[Dict[str, str]] = None, capability: Any = None, logger: Any = None) -> None:
        self._entries = dict(entries or {})
        self._device = tuple(capability or _driver.compute_capability())
        self._logger = logger

    def serialize(self) -> Any:
        text = json.dumps(self._entries, sort_keys=True).encode()
        return IHostMemory._make(_CACHE.pack(b"trtc", *NUMBERS, *self._device, len(text)) + text)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if input_cache is self:
            return False
        if input_cache._device != self._device and not ignore_mismatch:
            error(self._logger, "the timing caches are of different devices", 3, "API Usage Error")
            return False
        self._entries.update({key: value for key, value in input_cache._entries.items() if key not in self._entries})
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True


def read_timing_cache(content: bytes, logger: Any) -> Any:
    """A timing cache from its bytes: None where it is damaged or of another version."""
    if not content:
        return ITimingCache._make(logger=logger)
    if len(content) >= _CACHE.size:
        magic, major, minor, patch, high, low, size = _CACHE.unpack_from(content)
        text = content[_CACHE.size :]
        if magic == b"trtc" and (major, minor, patch) == NUMBERS and len(text) == size:
            return ITimingCache._make(json.loads(text), (high, low), logger)
    error(
        logger,
        "Serialization assertion stdVersionRead == serializationVersion failed. Timing cache",
        1,
        "Serialization",
    )
    return None


@checked()
class IBuilderConfig(Guarded):
    """How to build one engine."""

    def _setup(self, builder: Any) -> None:
        self._builder, self._logger = builder, builder._logger
        self.reset()

    DLA_core = stored("int", -1)
    algorithm_selector = stored("object", optional=True)
    avg_timing_iterations = stored("int", 1)
    min_timing_iterations = stored("int", 1)
    build_route = stored("object", optional=True)
    builder_optimization_level = stored("int", 3)
    default_device_type = stored("DeviceType", enum("DeviceType", "GPU"))
    engine_capability = stored("EngineCapability", enum("EngineCapability", "STANDARD"))
    hardware_compatibility_level = stored("HardwareCompatibilityLevel", enum("HardwareCompatibilityLevel", "NONE"))
    int8_calibrator = stored("IInt8Calibrator", optional=True)
    l2_limit_for_tiling = stored("int", 0)
    max_aux_streams = stored("int", -1)
    max_num_tactics = stored("int", -1)
    plugins_to_serialize = stored("List[str]", list)
    profile_stream = stored("int", 0)
    profiling_verbosity = stored("ProfilingVerbosity", enum("ProfilingVerbosity", "LAYER_NAMES_ONLY"))
    progress_monitor = stored("IProgressMonitor", optional=True)
    quantization_flags = stored("int", 0)
    remote_auto_tuning_config = stored("str", "")
    runtime_platform = stored("RuntimePlatform", enum("RuntimePlatform", "SAME_AS_BUILD"))
    tiling_optimization_level = stored("TilingOptimizationLevel", enum("TilingOptimizationLevel", "NONE"))
    num_optimization_profiles = property(lambda self: len(self._profiles))

    @property
    def flags(self) -> int:
        """The builder flags as bits."""
        return self._bits

    @flags.setter
    def flags(self, value: int) -> None:
        self._bits = setter("int")(value, "flags")

    @property
    def max_workspace_size(self) -> int:
        """Bytes of scratch memory: the old name of the workspace pool."""
        return self._pool("WORKSPACE")

    @max_workspace_size.setter
    def max_workspace_size(self, value: int) -> None:
        self._pools["WORKSPACE"] = setter("int")(value, "max_workspace_size")

    def reset(self) -> None:
        self._bits = 1 << int(REAL["BuilderFlag"].TF32)
        self._pools: Dict[str, int] = {}
        self._profiles: List[Any] = []
        self._calibration: Any = None
        self._devices: Dict[int, Any] = {}
        self._preview: Dict[str, bool] = {}
        self._sources = sum(1 << int(one) for one in REAL["TacticSource"].__members__.values())
        self._timing: Any = None

    def _has(self, flag: str) -> bool:
        member = getattr(REAL["BuilderFlag"], flag, None)
        return member is not None and bool(self._bits & 1 << int(member))

    def _pool(self, name: str) -> int:
        defaults = {
            "WORKSPACE": 8 << 30,
            "DLA_MANAGED_SRAM": 0,
            "DLA_LOCAL_DRAM": 1 << 30,
            "DLA_GLOBAL_DRAM": 512 << 20,
        }
        return self._pools.get(name, defaults.get(name, 48 << 10))

    def set_flag(self, flag: Any) -> None:
        self._bits |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._bits &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._bits & 1 << int(flag))

    def set_quantization_flag(self, flag: Any) -> None:
        self.quantization_flags |= 1 << int(flag)

    def clear_quantization_flag(self, flag: Any) -> None:
        self.quantization_flags &= ~(1 << int(flag))

    def get_quantization_flag(self, flag: Any) -> bool:
        return bool(self.quantization_flags & 1 << int(flag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if pool_size < 0:
            raise TypeError("set_memory_pool_limit(): incompatible function arguments. pool_size is unsigned")
        self._pools[pool.name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pool(pool.name)

    def add_optimization_profile(self, profile: Any) -> int:
        if not profile._shapes:
            misused(self._logger, "IBuilderConfig::addOptimizationProfile", "profile is valid")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: Any) -> bool:
        self._calibration = profile
        return True

    def get_calibration_profile(self) -> Any:
        return self._calibration

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        return read_timing_cache(bytes(serialized_timing_cache), self._logger)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._device != _driver.compute_capability() and not ignore_mismatch:
            error(self._logger, "the timing cache is of another device", 3, "API Usage Error")
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timing

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = tactic_sources
        return True

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._preview[feature.name] = enable

    def get_preview_feature(self, feature: Any) -> bool:
        return self._preview.get(feature.name, False)

    def set_device_type(self, layer: Any, device_type: Any) -> None:
        self._devices[id(layer)] = device_type

    def get_device_type(self, layer: Any) -> Any:
        return self._devices.get(id(layer), self.default_device_type)

    def is_device_type_set(self, layer: Any) -> bool:
        return id(layer) in self._devices

    def reset_device_type(self, layer: Any) -> None:
        self._devices.pop(id(layer), None)

    def can_run_on_DLA(self, layer: Any) -> bool:
        from tensorrt._operators import ON_DLA

        return layer._kind in ON_DLA and self._builder.num_DLA_cores > 0
