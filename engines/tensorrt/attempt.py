"""One attempt to build one plan, with a given limit of scratch memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from engines.cuda import Context
from engines.errors import BuildError, UsageError
from engines.spec import Progress, TensorSpec
from engines.tensorrt import cachefile, compat, network, timing, watch
from engines.tensorrt import calibrator as calibration


@dataclass
class Request:
    """What to build; see `engines.tensorrt.builder.build` for `precision` and `options`.

    Attributes:
        onnx, model: The graph's file, and the same loaded.
        batches: One optimisation profile each.
        timing_file: Of this device and TensorRT, or None for no timing cache.
        what: In words, for progress.
    """

    onnx: Path
    model: Any
    precision: str
    batches: Sequence[int]
    options: Dict[str, Any]
    timing_file: Optional[Path]
    what: str = "building"

    @property
    def implicit(self) -> bool:
        """Whether TensorRT calibrates."""
        return self.precision == "int8" and self.options.get("int8_mode") == "implicit"


@dataclass
class Made:
    """One plan that was built; `workspace` in bytes."""

    plan: bytes
    seconds: float
    workspace: int
    flags: List[str] = field(default_factory=list)
    median_ms: Optional[float] = None

    def to_json(self) -> Dict[str, Any]:
        """Its line in the manifest."""
        return {
            "seconds": round(self.seconds, 3),
            "bytes": len(self.plan),
            "workspace_bytes": self.workspace,
            "median_ms": self.median_ms,
        }


def attempt(trt: Any, gpu: Context, log: Any, request: Request, workspace: int, progress: Progress) -> Optional[Made]:
    """Build once: None where TensorRT gives no plan; its log says why.

    Raises:
        BuildError: TensorRT does not take the graph, or calibrated on too little.
        IncompatibleError: No such accelerator, or a calibration cache of another model.
        UsageError: Options that do not fit the graph.
    """
    options = request.options
    begun = time.perf_counter()
    try:
        builder = trt.Builder(log)
    except TypeError:  # what the bindings make of a null pointer
        raise BuildError(f"TensorRT makes no builder ({log.errors()})", "optimize doctor") from None
    strongly = bool(options.get("strongly_typed")) and request.precision != "fp32"
    graph, parser = network.parse(trt, log, builder, request.onnx, request.model, strongly)
    config = builder.create_builder_config()
    if config is None:
        raise BuildError(f"TensorRT makes no builder config ({log.errors()})", "optimize doctor")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector tells types and tactics
    flags = _precision(trt, builder, graph, config, request, strongly)
    flags += _effort(trt, config, options)
    if options.get("dla") is not None:
        fallback = bool(options.get("gpu_fallback"))
        network.use_dla(trt, builder, config, int(options["dla"]), fallback, request.precision)
    tensors = network.inputs(trt, graph)
    profiles = network.add_profiles(builder, tensors, config, request.batches)
    if request.timing_file is not None:
        flags += timing.load(config, request.timing_file)
    measuring = _calibrator(trt, gpu, builder, tensors, config, request)
    built = None
    try:
        built = watch.run(
            trt, gpu, config, lambda: builder.build_serialized_network(graph, config), progress, request.what
        )
    finally:
        if measuring is not None:
            measuring.finish(built is not None)
    if built is None:
        return None
    if request.timing_file is not None:
        flags += timing.save(config, request.timing_file)
    if measuring is not None:
        _write_cache(trt, options["calibration"], measuring)
    del profiles, parser  # they live as long as the build
    return Made(bytes(built), time.perf_counter() - begun, workspace, flags)


def _precision(trt: Any, builder: Any, graph: Any, config: Any, request: Request, strongly_typed: bool) -> List[str]:
    """Ask for a precision by flags, where the graph does not tell it; flags of ours say what the device lacks."""
    if request.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: 10 bits of mantissa
        return []
    if strongly_typed or not compat.weakly_typed(trt):
        return []
    config.set_flag(trt.BuilderFlag.FP16)
    flags = [] if getattr(builder, "platform_has_fast_fp16", True) else ["no-fast-fp16"]
    if request.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
        flags += [] if getattr(builder, "platform_has_fast_int8", True) else ["no-fast-int8"]
    network.keep_fp32(trt, graph, config, request.options.get("keep_fp32") or [])
    return flags


def _effort(trt: Any, config: Any, options: Dict[str, Any]) -> List[str]:
    """How long to search, and among what."""
    flags = []
    level, repeats = options.get("optimization_level"), options.get("avg_timing")
    if level is not None:
        if hasattr(config, "builder_optimization_level"):
            config.builder_optimization_level = int(level)
        else:
            flags.append("no-optimization-level")
    if repeats:
        config.avg_timing_iterations = int(repeats)
    if options.get("sparse"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    return flags


def _calibrator(
    trt: Any, gpu: Context, builder: Any, tensors: Sequence[TensorSpec], config: Any, request: Request
) -> Any:
    """The calibrator of an implicit INT8 build, or None. Its batch is the graph's, where that is fixed: TensorRT reads
    no more of a buffer than the graph's shape says."""
    if not request.implicit:
        return None
    about = request.options.get("calibration")
    if not about:
        raise UsageError("TensorRT's calibrator needs images", "--data cifar10, a folder or an .npz file")
    batch = network.fixed_batch(tensors) or int(about["batch"])
    algorithm, cached, feeds = about.get("algorithm", "entropy"), None, {}
    if about.get("imported"):
        algorithm, cached = _imported(trt, Path(about["imported"]))
    else:
        if about.get("cache"):
            cached = cachefile.require(Path(about["cache"]), about.get("of") or {}, algorithm, str(trt.__version__))
        feeds = calibration.read_feeds(Path(about["feeds"]), tensors, batch)
    profile = network.calibration_profile(builder, tensors, config, batch)
    made = calibration.make(trt, gpu, feeds, batch, algorithm, cached)
    made.profile = profile  # lives as long as the build
    config.int8_calibrator = made
    return made


def _imported(trt: Any, file: Path) -> Tuple[str, bytes]:
    """The algorithm and the text of a cache that is used because the user says so.

    TensorRT skips a cache with the header of another version; the scales are the same, so it gets its own.
    """
    cache = cachefile.read(file)
    return cache.algorithm, cachefile.render(cache._replace(version=cachefile.tag(str(trt.__version__))))


def _write_cache(trt: Any, about: Dict[str, Any], measuring: Any) -> None:
    """Keep the cache beside the plan, for the next build and for trtexec."""
    if not about.get("cache"):
        return
    file, version = Path(about["cache"]), str(trt.__version__)
    if about.get("imported"):
        algorithm, content = _imported(trt, Path(about["imported"]))
        cachefile.write(file, content, {"imported": about.get("sha256")}, algorithm, version)
    elif measuring.fed and measuring.written:
        cachefile.write(file, measuring.written, about.get("of") or {}, about.get("algorithm", "entropy"), version)
