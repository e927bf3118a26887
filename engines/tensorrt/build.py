"""From an ONNX graph to plans: one code path for TensorRT 8.5 to 11, chosen by what the version has."""

from __future__ import annotations

import contextlib
import re
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from engines import jsonfile, onnxfile
from engines.cuda import Context
from engines.errors import BuildError, IncompatibleError, UsageError
from engines.spec import Progress, RunnerSpec, quiet
from engines.tensorrt import calibrator as calibration
from engines.tensorrt import compat, layers, network, timing
from engines.tensorrt.trtexec import equivalent

_SHARE = 0.5
"""Of the free memory, for the builder's scratch: on a board that shares its memory the rest is for weights, tactics
under test and the system. trtexec takes all of the device's memory, which a desktop bears and an 8 GB board cannot."""

_LEAST = 16 << 20
"""Bytes of workspace below which no smaller one is tried."""

_MEMORY = re.compile(r"out ?of ?memory|OutOfMemory|insufficient (?:memory|workspace)|cudaErrorMemoryAllocation", re.I)

_TRIAL_S = 0.3
"""Seconds of queries that rank one of several plans, for each batch."""


@dataclass
class Made:
    """One plan that was built."""

    plan: bytes
    seconds: float
    workspace: int
    flags: List[str]
    median_ms: Optional[float] = None

    def to_json(self) -> Dict[str, Any]:
        """Its line in the manifest."""
        return {"seconds": round(self.seconds, 3), "bytes": len(self.plan), "median_ms": self.median_ms}


def build(
    onnx: Path,
    out: Path,
    precision: str,
    batches: Sequence[int],
    options: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Build `model.plan`, or one plan for each batch, into `out`; see `engines.backend.Backend.build`.

    Args:
        onnx: FP32 graph; with Q/DQ pairs for int8 unless TensorRT calibrates; with FP16 types where they cannot be
            asked for by flags.
        out: Existing folder.
        precision: fp32 (no TF32), fp16 or int8 (with FP16 beside it).
        batches: One optimisation profile each.
        options: `workspace` (auto or bytes), `timing_cache` (path), `dla`, `gpu_fallback`, `int8_mode` (explicit or
            implicit), `calibration` ({feeds, batch, algorithm, cache, identity}), `builds`, `keep` (best or median),
            `optimization_level`, `keep_fp32`, `split_batches`, `strongly_typed`, `clocks`, `gpu`.
        progress: Told the builder's steps, or the seconds.

    Returns:
        See `engines.backend.Backend.build`. `options` also has `trtexec`, `workspace_bytes`, `profiles` ({batch,
        device_memory_bytes}), `builds`, `timing_cache`, `clocks`, `tensorrt`, `reformats`, `qdq`, `int8_mode`, and
        `plans` by batch where there are several.

    Raises:
        BuildError: TensorRT does not take the graph, calibrates on too little, or runs out of memory.
        IncompatibleError: No GPU, no such accelerator, or a calibration cache of another model.
        UsageError: Options that do not fit.
    """
    asked = dict(options or {})
    trt = compat.tensorrt()
    model = onnxfile.load(onnx)
    implicit = precision == "int8" and asked.get("int8_mode") == "implicit"
    onnxfile.check_precision(onnx, model, "fp32" if implicit else precision)
    onnxfile.check_batches(onnx, model, batches)
    if implicit and not compat.has_calibrator(trt):
        raise IncompatibleError(f"TensorRT {trt.__version__} has no calibrator of its own", "--int8-mode explicit")
    one_each = bool(asked.get("split_batches")) or asked.get("dla") is not None
    groups = [[batch] for batch in batches] if one_each and len(batches) > 1 else [list(batches)]
    names = [f"model-b{group[0]}.plan" for group in groups] if len(groups) > 1 else ["model.plan"]
    flags: List[str] = ["clocks-free"] if (asked.get("clocks") or {}).get("state") == "free" else []
    builds: List[Dict[str, Any]] = []
    chosen: List[Made] = []
    with Context(int(asked.get("gpu", 0))) as gpu:
        job = _Job(trt, gpu, onnx, model, precision, asked, progress)
        for group, name in zip(groups, names):
            made = job.plans(group, out / name)
            chosen.append(made[-1])
            builds += [{"batches": group, **one.to_json()} for one in made[:-1]]
        found = job.inspect(chosen[0].plan)
        profiles = [p for group, one in zip(groups, chosen) for p in job.memory(group, one.plan)]
        capability, cache = gpu.compute_capability, job.timing_file
    for one in chosen:
        flags += [flag for flag in one.flags if flag not in flags]
    recorded: Dict[str, Any] = {
        "tensorrt": str(trt.__version__),
        "compute_capability": capability,
        "int8_mode": asked.get("int8_mode") if precision == "int8" else None,
        "workspace_bytes": chosen[0].workspace,
        "profiles": profiles,
        "builds": builds,
        "timing_cache": cache.name if cache else None,
        "clocks": asked.get("clocks"),
        "reformats": found["reformats"],
        "qdq": found["qdq"],
        "trtexec": equivalent(trt, onnx.name, precision, job.shapes(batches), asked, chosen[0].workspace),
    }
    if len(groups) > 1:
        recorded["plans"] = {str(group[0]): name for group, name in zip(groups, names)}
    return {
        "files": names,
        "options": recorded,
        "achieved": onnxfile.counts(found["layers"]),
        "layers": found["layers"],
        "flags": flags,
    }


class _Job:
    """What all plans of one build share."""

    def __init__(
        self,
        trt: Any,
        gpu: Context,
        onnx: Path,
        model: Any,
        precision: str,
        options: Dict[str, Any],
        progress: Progress,
    ) -> None:
        self.trt, self.gpu, self.onnx, self.model, self.precision = trt, gpu, onnx, model, precision
        self.options, self.progress = options, progress
        self.log = compat.logger(trt)
        base = options.get("timing_cache")
        self.timing_file = (
            timing.file_for(
                Path(base), gpu.name, gpu.compute_capability, str(trt.__version__), options.get("clocks") or {}
            )
            if base
            else None
        )

    def plans(self, batches: Sequence[int], file: Path) -> List[Made]:
        """Build as many plans as were asked for and write the one to keep to `file`.

        Returns:
            All of them in order, and last the one that was kept.
        """
        count = int(self.options.get("builds", 1))
        made: List[Made] = []
        for number in range(count):
            what = f"building plan {number + 1} of {count}" if count > 1 else "building"
            one = self._smaller_until_it_fits(batches, what, reuse=count == 1)
            if count > 1:
                one.median_ms = self._time(one.plan, batches, file)
            made.append(one)
        ranked = sorted(made, key=lambda m: m.median_ms or 0.0)
        keep = ranked[(count - 1) // 2] if self.options.get("keep") == "median" else ranked[0]
        with jsonfile.replacing_file(file) as part:
            part.write_bytes(keep.plan)
        return [*made, keep]

    def _smaller_until_it_fits(self, batches: Sequence[int], what: str, reuse: bool) -> Made:
        asked = self.options.get("workspace", "auto")
        workspace = int(self.gpu.memory()[0] * _SHARE) if asked == "auto" else int(asked)
        tries = 4
        for attempt in range(tries):
            self.log.lines.clear()
            made = self._once(batches, workspace, what, reuse)
            if made is not None:
                return made
            said = " ".join(text for _, text in self.log.lines)
            if not _MEMORY.search(said) or workspace // 2 < _LEAST or attempt == tries - 1:
                break
            workspace //= 2
            self.progress(f"out of memory: again with a workspace of {workspace >> 20} MiB", 0, 0)
        hint = "close other programs, a smaller --batch, or --workspace 256MiB" if _MEMORY.search(said) else ""
        raise BuildError(f"{self.onnx}: TensorRT {self.trt.__version__} builds no plan: {self.log.errors()}", hint)

    def _once(self, batches: Sequence[int], workspace: int, what: str, reuse: bool) -> Optional[Made]:
        """One attempt: None where TensorRT gives no plan."""
        trt, options = self.trt, self.options
        begun = time.perf_counter()
        try:
            builder = trt.Builder(self.log)
        except TypeError:
            raise BuildError(f"TensorRT makes no builder ({self.log.errors()})", "optimize doctor") from None
        strongly = bool(options.get("strongly_typed")) and self.precision != "fp32"
        graph, parser = network.parse(trt, self.log, builder, self.onnx, self.model, strongly)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        flags = self._precision(builder, graph, config, strongly)
        flags += self._level(config)
        if options.get("dla") is not None:
            network.use_dla(trt, builder, config, int(options["dla"]), bool(options.get("gpu_fallback")))
        profiles = network.add_profiles(builder, graph, config, batches)
        measuring, cached = self._calibrator(builder, graph, config)
        if self.timing_file is not None and reuse:
            flags += timing.load(config, self.timing_file)[1]
        built = None
        try:
            with self._watched(config, what):
                built = builder.build_serialized_network(graph, config)
        finally:
            if measuring is not None:
                measuring.finish(built is not None)
        if built is None:
            return None
        if self.timing_file is not None and reuse:
            timing.save(config, self.timing_file)
        if measuring is not None and not cached and measuring.written:
            self._write_cache(measuring.written)
        del profiles, parser  # they live as long as the build
        return Made(bytes(built), time.perf_counter() - begun, workspace, flags)

    def _precision(self, builder: Any, graph: Any, config: Any, strongly_typed: bool) -> List[str]:
        trt = self.trt
        if self.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
            return []
        if strongly_typed or not compat.weakly_typed(trt):
            return []
        flags = []
        config.set_flag(trt.BuilderFlag.FP16)
        if not getattr(builder, "platform_has_fast_fp16", True):
            flags.append("no-fast-fp16")
        if self.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
        network.keep_fp32(trt, graph, config, self.options.get("keep_fp32") or [])
        return flags

    def _level(self, config: Any) -> List[str]:
        level = self.options.get("optimization_level")
        if level is None:
            return []
        if not hasattr(config, "builder_optimization_level"):
            return ["no-optimization-level"]
        config.builder_optimization_level = int(level)
        return []

    def _calibrator(self, builder: Any, graph: Any, config: Any) -> Tuple[Any, bool]:
        """The calibrator of an implicit INT8 build, and whether a cache spares the feeding."""
        if self.precision != "int8" or self.options.get("int8_mode") != "implicit":
            return None, False
        about = self.options.get("calibration")
        if not about:
            raise UsageError("TensorRT's calibrator needs images", "--data cifar10, a folder or an .npz file")
        cached = None
        if about.get("cache"):
            cached = calibration.read_cache(
                Path(about["cache"]), about.get("identity", ""), about["algorithm"], str(self.trt.__version__)
            )
        with np.load(about["feeds"], allow_pickle=False) as stored:
            feeds = {name: stored[name] for name in stored.files}
        made = calibration.make(self.trt, self.gpu, feeds, int(about["batch"]), about["algorithm"], cached)
        made.profile = network.calibration_profile(builder, graph, config, int(about["batch"]))
        config.int8_calibrator = made
        return made, cached is not None

    def _write_cache(self, content: bytes) -> None:
        about = self.options["calibration"]
        if about.get("cache"):
            calibration.write_cache(
                Path(about["cache"]), content, about.get("identity", ""), about["algorithm"], str(self.trt.__version__)
            )

    @contextlib.contextmanager
    def _watched(self, config: Any, what: str) -> Iterator[None]:
        """Tell progress: the builder's own steps where it has a monitor, else the seconds."""
        if hasattr(config, "progress_monitor"):
            monitor = _monitor(self.trt, self.progress, what)
            config.progress_monitor = monitor
            yield
            if monitor.failed is not None:
                raise monitor.failed
            return
        over = threading.Event()
        begun = time.monotonic()

        def tell() -> None:
            while not over.wait(1):
                self.progress(f"{what} ({time.monotonic() - begun:.0f} s)", 0, 0)

        self.progress(what, 0, 0)
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()

    def _time(self, plan: bytes, batches: Sequence[int], file: Path) -> float:
        """Geometric mean over the batches of a plan's median wall time, ms."""
        from engines.tensorrt.run import load

        trial = file.with_name(f".{file.name}.trial.plan")
        try:
            trial.write_bytes(plan)
            medians = []
            with load(RunnerSpec(str(trial), "onnx", backend="tensorrt")) as runner:
                for batch in batches:
                    feeds: Dict[str, Any] = {t.name: np.zeros((batch, *t.shape[1:]), t.dtype) for t in runner.inputs}
                    medians.append(_median_ms(runner.bind(feeds)))
        finally:
            trial.unlink(missing_ok=True)
        return float(statistics.geometric_mean(medians))

    def _engine(self, plan: bytes) -> Tuple[Any, Any]:
        runtime = self.trt.Runtime(self.log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"TensorRT does not read the plan that it has just built ({self.log.errors()})")
        return runtime, engine

    def inspect(self, plan: bytes) -> Dict[str, Any]:
        """Layers, reformats and Q/DQ layers: see `engines.tensorrt.layers.inspect`."""
        runtime, engine = self._engine(plan)
        found = layers.inspect(self.trt, engine)
        del engine, runtime
        return found

    def memory(self, batches: Sequence[int], plan: bytes) -> List[Dict[str, Any]]:
        """Scratch memory of an execution context for each batch, bytes."""
        runtime, engine = self._engine(plan)
        found = [{"batch": batch, "device_memory_bytes": _scratch(engine, i)} for i, batch in enumerate(batches)]
        del engine, runtime
        return found

    def shapes(self, batches: Sequence[int]) -> List[str]:
        """Input shapes of each batch in trtexec's words; empty where the graph fixes them."""
        free = [(name, shape) for name, shape in onnxfile.inputs(self.model) if None in shape]
        return [
            ",".join(f"{name}:{'x'.join(str(batch if n is None else n) for n in shape)}" for name, shape in free)
            for batch in batches
            if free
        ]


def _scratch(engine: Any, profile: int) -> Optional[int]:
    """Device memory of a context with this profile; versions differ in whether and how they tell it by profile."""
    for name in ("get_device_memory_size_for_profile_v2", "get_device_memory_size_for_profile"):
        if hasattr(engine, name):
            return int(getattr(engine, name)(profile))
    for name in ("device_memory_size_v2", "device_memory_size"):
        if hasattr(engine, name):
            return int(getattr(engine, name))
    return None


def _median_ms(query: Any) -> float:
    for _ in range(3):
        query()
    times: List[float] = []
    end = time.perf_counter() + _TRIAL_S
    while time.perf_counter() < end or len(times) < 5:
        begun = time.perf_counter()
        query()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def _monitor(trt: Any, progress: Progress, what: str) -> Any:
    """Tells the steps of the innermost phase; an exception of `progress` stops the build and is kept in `failed`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failed: Optional[BaseException] = None
            self.steps: Dict[str, int] = {}

        def _tell(self, phase: str, done: int) -> None:
            if self.failed is None:
                try:
                    progress(f"{what}: {phase}", done, self.steps.get(phase, 0))
                except BaseException as error:  # TensorRT would swallow it: raised after the build
                    self.failed = error

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.failed is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self.steps.pop(phase_name, 0))

    return Monitor()
