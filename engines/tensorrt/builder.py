"""From an ONNX graph to plans: one code path for TensorRT 8.5 to 11, chosen by what the version has."""

from __future__ import annotations

import statistics
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from engines import jsonfile, onnxfile, scratch
from engines.cuda import Context
from engines.errors import BuildError, IncompatibleError
from engines.spec import Progress, RunnerSpec, quiet
from engines.tensorrt import compat, layers, timing, workspace
from engines.tensorrt.attempt import Made, Request, attempt
from engines.tensorrt.trtexec import equivalent

_TRIAL_S = 0.3
"""Seconds of queries that rank one of several plans, for each batch."""

Measure = Callable[[bytes, Sequence[int]], float]
"""`measure(plan, batches)`: latency of a plan, ms."""


def build(
    onnx: Path,
    out: Path,
    precision: str,
    batches: Sequence[int],
    options: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
    measure: Optional[Measure] = None,
) -> Dict[str, Any]:
    """Build `model.plan`, or one plan for each batch, into `out`; see `engines.backend.Backend.build`.

    Args:
        onnx: FP32 graph; with Q/DQ pairs for int8 unless TensorRT calibrates; with FP16 types where they cannot be
            asked for by flags.
        out: Existing folder.
        precision: fp32 (no TF32), fp16 or int8 (with FP16 beside it).
        batches: One optimisation profile each.
        options: `workspace` (auto or bytes), `timing_cache` (path; unused where several plans are built, which it
            would make alike), `dla`, `gpu_fallback`, `int8_mode` (explicit or implicit), `calibration` ({feeds, batch,
            algorithm, cache, of} or {imported, sha256, batch, cache}: see `cachefile`), `builds`, `keep` (best or
            median), `optimization_level`, `avg_timing`, `sparse`, `keep_fp32`, `split_batches`, `strongly_typed`,
            `clocks`, `gpu`.
        progress: Told the builder's steps, or the seconds.
        measure: Ranks several plans; by default a short run of each.

    Returns:
        See `engines.backend.Backend.build`. `options` also has `trtexec`, `workspace_bytes`, `profiles` ({batch,
        device_memory_bytes}), `builds` ({batches, seconds, bytes, workspace_bytes, median_ms, kept}), `timing_cache`
        ({file, bytes} as it was before), `clocks`, `tensorrt`, `compute_capability`, `reformats`, `qdq`, `int8_mode`,
        and `plans` by batch where there are several.

    Raises:
        BuildError: TensorRT does not take the graph, calibrates on too little, or runs out of memory.
        DataError: The calibration images are not what the graph takes.
        IncompatibleError: No GPU, no such accelerator, or a calibration cache of another model.
        UsageError: Options that do not fit.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
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
    with Context(int(asked.get("gpu", 0))) as gpu:
        try:
            job = _Job(trt, gpu, onnx, model, precision, asked, progress, measure)
            built = [job.plans(group, out / name) for group, name in zip(groups, names)]
            seen = [job.look(kept.plan, group) for group, (_, kept) in zip(groups, built)]
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # what they hold of TensorRT must go before the context does
            raise
        capability = gpu.compute_capability
    chosen = [kept for _, kept in built]
    flags = ["clocks-free"] if (asked.get("clocks") or {}).get("state") == "free" else []
    flags += list(dict.fromkeys(flag for one in chosen for flag in one.flags))
    recorded: Dict[str, Any] = {
        "tensorrt": str(trt.__version__),
        "compute_capability": capability,
        "int8_mode": asked.get("int8_mode") if precision == "int8" else None,
        "dla": asked.get("dla"),
        "gpu_fallback": bool(asked.get("gpu_fallback")),
        "workspace_bytes": min(one.workspace for one in chosen),
        "profiles": [profile for _, profiles in seen for profile in profiles],
        "builds": [
            {"batches": group, **one.to_json(), "kept": one is kept}
            for group, (made, kept) in zip(groups, built)
            for one in made
        ],
        "timing_cache": job.timing_before,
        "clocks": asked.get("clocks"),
        "reformats": seen[0][0]["reformats"],
        "qdq": seen[0][0]["qdq"],
        "trtexec": equivalent(trt, onnx.name, precision, _shapes(model, batches), asked, chosen[0].workspace),
    }
    if len(groups) > 1:
        recorded["plans"] = {str(group[0]): name for group, name in zip(groups, names)}
    found = seen[0][0]["layers"]
    return {
        "files": names,
        "options": recorded,
        "achieved": onnxfile.counts(found),
        "layers": found,
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
        measure: Optional[Measure],
    ) -> None:
        self.trt, self.gpu, self.onnx, self.model, self.precision = trt, gpu, onnx, model, precision
        self.options, self.progress = options, progress
        self._where = {"gpu": gpu.device, "dla": options.get("dla")}
        self.count = int(options.get("builds") or 1)
        self.measure = measure or self._time
        self.log = compat.logger(trt)
        self.timing_file: Optional[Path] = None
        self.timing_before: Optional[Dict[str, Any]] = None
        if options.get("timing_cache") and self.count == 1:
            clocks = options.get("clocks") or {}
            base, version = Path(options["timing_cache"]), str(trt.__version__)
            file = timing.file_for(base, gpu.name, gpu.compute_capability, version, clocks)
            size = file.stat().st_size if file.is_file() else 0
            self.timing_file, self.timing_before = file, {"file": file.name, "bytes": size}

    def plans(self, batches: Sequence[int], file: Path) -> Tuple[List[Made], Made]:
        """Build as many plans as were asked for and write the one to keep to `file`.

        Returns:
            All of them in order, and the one that was kept: the best, or the (lower) median.
        """
        made: List[Made] = []
        for number in range(self.count):
            what = f"building plan {number + 1} of {self.count}" if self.count > 1 else "building"
            one = self._smaller_until_it_fits(batches, what)
            if self.count > 1:
                one.median_ms = self.measure(one.plan, batches)
            made.append(one)
        ranked = sorted(made, key=lambda m: m.median_ms or 0.0)
        keep = ranked[(self.count - 1) // 2] if self.options.get("keep") == "median" else ranked[0]
        with jsonfile.replacing_file(file) as part:
            part.write_bytes(keep.plan)
        return made, keep

    def _smaller_until_it_fits(self, batches: Sequence[int], what: str) -> Made:
        asked = self.options.get("workspace", "auto")
        first = workspace.automatic(self.gpu) if asked == "auto" else int(asked)
        request = Request(self.onnx, self.model, self.precision, batches, self.options, self.timing_file, what)
        for limit in workspace.limits(first):
            if limit != first:
                self.progress(f"out of memory: again with a workspace of {limit >> 20} MiB", 0, 0)
            self.log.lines.clear()
            made = attempt(self.trt, self.gpu, self.log, request, limit, self.progress)
            if made is not None:
                made.flags += ["workspace-reduced"] if limit != first else []
                return made
            if not workspace.ran_out(self.log.lines):
                break
        lines = self.log.lines
        raise BuildError(
            f"{self.onnx}: TensorRT {self.trt.__version__} builds no plan: {self.log.errors()}", workspace.hint(lines)
        )

    def _time(self, plan: bytes, batches: Sequence[int]) -> float:
        """Geometric mean over the batches of a plan's median wall time, ms."""
        from engines.tensorrt.run import load

        rng = np.random.default_rng(0)
        medians = []
        with scratch.folder() as folder:
            file = Path(folder, "trial.plan")
            file.write_bytes(plan)
            spec = RunnerSpec(str(file), "onnx", backend="tensorrt", options=self._where)
            with load(spec) as runner:
                for batch in batches:
                    self.progress(f"timing the plan at batch {batch}", 0, 0)
                    sizes = {t.name: ((batch, *t.shape[1:]), t.dtype) for t in runner.inputs}
                    feeds = {name: rng.random(shape).astype(dtype) for name, (shape, dtype) in sizes.items()}
                    medians.append(_median_ms(runner.bind(feeds)))
        return float(statistics.geometric_mean(medians))

    def look(self, plan: bytes, batches: Sequence[int]) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
        """What a plan consists of (see `engines.tensorrt.layers.inspect`), and for each of its batches the scratch
        memory of an execution context, bytes."""
        try:
            runtime = self.trt.Runtime(self.log)
        except TypeError:  # what the bindings make of a null pointer
            raise BuildError(f"TensorRT makes no runtime ({self.log.errors()})", "optimize doctor") from None
        if self._where["dla"] is not None:
            runtime.DLA_core = self._where["dla"]
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"TensorRT does not read the plan that it has just built ({self.log.errors()})")
        found = layers.inspect(self.trt, engine)
        memory = [{"batch": batch, "device_memory_bytes": _scratch(engine, i)} for i, batch in enumerate(batches)]
        del engine, runtime  # in this order
        return found, memory


def _shapes(model: Any, batches: Sequence[int]) -> List[str]:
    """Input shapes of each batch in trtexec's words; empty where the graph fixes them."""
    free = [(name, shape) for name, shape in onnxfile.inputs(model) if None in shape]
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


def _median_ms(query: Callable[[], Any]) -> float:
    for _ in range(3):
        query()
    times: List[float] = []
    end = time.perf_counter() + _TRIAL_S
    while time.perf_counter() < end or len(times) < 5:
        begun = time.perf_counter()
        query()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)
