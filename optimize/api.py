"""The functions behind the commands, for Python: files in, files and plain values out, errors as exceptions."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import engines
from engines import backend as backends
from engines import child
from engines.device import device_key
from engines.errors import UsageError
from engines.spec import A_LINE, Progress, Runner, RunnerSpec, quiet
from optimize import tuning
from optimize.comparison import compare
from optimize.inspection import inspect
from optimize.pipeline import build as pipeline
from optimize.pipeline import engine as bundles
from optimize.pipeline import results
from optimize.pipeline.inputs import child_env
from optimize.pipeline.options import (
    BuildOptions,
    check_layout,
    check_opset,
    parse_batches,
    parse_precisions,
    parse_streams,
    parse_threads,
)
from optimize.pipeline.tensorrt import TensorRTOptions
from optimize.prediction import predict
from optimize.profiling import profile
from optimize.reporting import report
from optimize.selection.choose import select
from optimize.serving import GRPC_PORT, HOST, HTTP_PORT
from optimize.ship.activate import activate, rollback
from optimize.ship.node import status as node_status
from optimize.ship.pull import pull
from optimize.ship.send import ship
from optimize.sources import recognise
from optimize.verification import verify
from optimize.worstcase import wcet
from optimize.zoo import library
from optimize.zoo.files import zoo_make, zoo_train

if TYPE_CHECKING:
    from optimize.serving.server import Server

__all__ = [
    "activate",
    "bench",
    "build",
    "compare",
    "export",
    "inspect",
    "load",
    "node_status",
    "plan",
    "predict",
    "profile",
    "pull",
    "report",
    "rollback",
    "select",
    "serve",
    "ship",
    "verify",
    "wcet",
    "zoo_make",
    "zoo_train",
]

PathLike = Union[str, Path]
Words = Union[str, int, Iterable[Union[str, int]]]


def _options(
    precision: Words, batch: Words, out: Optional[PathLike], backend: str, data: Optional[str], **rest: Any
) -> BuildOptions:
    own = {f.name: rest.pop(f.name) for f in fields(TensorRTOptions) if f.name in rest}
    return BuildOptions(
        tensorrt=TensorRTOptions(**own),
        precisions=parse_precisions(_words(precision)),
        batches=parse_batches(_words(batch)),
        out=Path(out) if out else None,
        backend=backend,
        data=data,
        **rest,
    )


def _words(value: Words) -> List[str]:
    return [str(value)] if isinstance(value, (str, int)) else [str(v) for v in value]


_SOURCE = ("custom_objects", "factory", "input_shape", "preprocess", "task")


def _original(model: PathLike, source: Dict[str, Any]) -> RunnerSpec:
    """What a build starts from."""
    spec = recognise(str(model), **source)
    if spec.kind == "bundle":
        raise UsageError(f"{model} is an engine already", f"optimize bench {shlex.quote(str(model))}")
    return spec


def build(
    model: PathLike,
    precision: Words = "fp16",
    batch: Words = (1, 64),
    data: Optional[str] = None,
    backend: str = "auto",
    out: Optional[PathLike] = None,
    progress: Progress = quiet,
    **options: Any,
) -> results.Build:
    """Build verified engine bundles of one model.

    Args:
        model: Keras, SavedModel, PyTorch or ONNX model.
        precision: fp32, fp16, int8, best; several with commas or as a sequence.
        batch: Batch sizes.
        data: cifar10, synthetic, a folder or an .npz file; None measures no accuracy.
        backend: auto, tensorrt, openvino or onnxruntime.
        out: Output folder, by default `<model>.optimized` beside the model.
        progress: Told what happens.
        options: The others of `optimize.pipeline.options.BuildOptions` and of `TensorRTOptions`, and custom_objects,
            factory, input_shape, preprocess, task of `optimize.sources.recognise`.

    Returns:
        The bundles with their manifests; a failed gate is in `manifest["gate"]`, not an exception.

    Raises:
        UsageError, ModelError, DataError, BuildError, GateError, IncompatibleError: See `engines.errors`.
    """
    source = {k: options.pop(k) for k in _SOURCE if k in options}
    asked = _options(precision, batch, out, backend, data, **options)
    spec = _original(model, source)
    return pipeline.build(spec, asked, progress)


def plan(
    model: PathLike,
    precision: Words = "fp16",
    batch: Words = (1, 64),
    data: Optional[str] = None,
    backend: str = "auto",
    out: Optional[PathLike] = None,
    progress: Progress = quiet,
    **options: Any,
) -> Dict[str, Any]:
    """What `build` would make, without making it: `--dry-run`.

    A model that needs code of the user (custom objects, a factory) is loaded with it in a child process, since only
    that tells whether it would build.

    Returns:
        `model`, `kind`, `backend`, `out`, `bundles` (path and whether one is there) and `lines` for a reader.

    Raises:
        UsageError, ModelError, IncompatibleError: What the build would say before its export.
    """
    source = {k: options.pop(k) for k in _SOURCE if k in options}
    asked = _options(precision, batch, out, backend, data, **options)
    spec = _original(model, source)
    name = pipeline.backend_for(asked)
    key = device_key(name)
    folder = pipeline.output_folder(Path(spec.path), asked)
    made = [folder / bundles.bundle_name(p, name, key.version, key.compute_capability) for p in asked.precisions]
    code = spec.custom_objects or spec.factory
    if code:
        child.call("optimize.exporters.trial:load", {"spec": spec.to_json()}, progress, child_env(spec))
    lines = [
        f"{spec.path}: {spec.kind}, would be exported to ONNX opset {asked.opset} and built with {name} {key.version}"
    ]
    lines += [f"  it loads with {code}"] if code else []
    lines += [f"  {path}{' (there is one already)' if path.exists() else ''}" for path in made]
    return {
        "model": spec.path,
        "kind": spec.kind,
        "backend": name,
        "out": str(folder),
        "bundles": [{"path": str(path), "exists": path.exists()} for path in made],
        "lines": lines,
    }


def next_command(done: results.Build, data: Optional[str] = None, **given: Any) -> str:
    """The command that a user would type after a build: measure its accuracy, or its speed."""
    model = shlex.quote(library.name_of(done.model) or str(done.model))
    source = "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(given[name]))}"
        for name in ("custom_objects", "factory", "input_shape", "preprocess", "task")
        if given.get(name)
    )
    if data is None:
        words = ",".join(dict.fromkeys(b.precision for b in done.bundles))
        where = f" -o {shlex.quote(str(given['out']))}" if given.get("out") else ""
        if given.get("calibration_cache"):
            where = f" --calibration-cache {shlex.quote(str(given['calibration_cache']))}{where}"
        backend = f" --backend {given['backend']}" if given.get("backend", "auto") != "auto" else ""
        batch = ",".join(_words(given.get("batch") or "1,64"))
        batch = f" --batch {batch}" if batch != "1,64" else ""
        same = f"{source}{batch}{backend}{where}"
        return f"accuracy is unmeasured; next: optimize build {model} --precision {words}{same} --data cifar10"
    paths = " ".join(shlex.quote(str(b.path)) for b in done.bundles)
    return f"next: optimize bench {paths} --baseline {model}{source} --data {shlex.quote(data)}"


def export(
    model: PathLike,
    out: Optional[PathLike] = None,
    opset: int = 17,
    batch: Union[str, int] = "dynamic",
    layout: str = "",
    verify: bool = True,
    data: Optional[str] = None,
    n: int = 64,
    seed: int = 0,
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Write a model as a true FP32 ONNX graph and check it against the source.

    Returns:
        `onnx` (path), `opset`, `graph` (what it holds), `spec` of the source and `check` (None where not asked for).

    Raises:
        UsageError, ModelError, IncompatibleError: See `engines.errors`.
    """
    check_opset(opset)
    check_layout(layout)
    size: Union[str, int] = batch if batch == "dynamic" else parse_batches([str(batch)])[0]
    spec = recognise(str(model), **source)
    target = Path(out) if out else library.beside(Path(spec.path), Path(spec.path).name.rsplit(".", 1)[0] + ".onnx")
    if target.resolve() == Path(spec.path):
        raise UsageError(f"{target} is the model itself", "name another file with -o F.onnx")
    arguments = {"spec": spec.to_json(), "out": str(target.resolve()), "opset": opset, "batch": size, "layout": layout}
    done = child.call("optimize.exporters:export", arguments, progress, child_env(spec))
    filled = _with_preprocess(RunnerSpec.from_json(done["spec"]))
    check = None
    if verify:
        arguments = {"spec": filled.to_json(), "onnx": done["onnx"], "data": data or "", "n": n, "seed": seed}
        check = child.call("optimize.exporters.check:against_source", arguments, progress, child_env(spec))
    return {**done, "spec": filled.to_json(), "check": check}


def _with_preprocess(spec: RunnerSpec) -> RunnerSpec:
    """What the user said of preprocessing, else `unit`, marked as inferred."""
    if spec.preprocess is not None or spec.task != "classify":
        return spec
    from calib.preprocess import parse

    return spec.with_(preprocess={**parse("unit").to_json(), "inferred": True})


def load(bundle: PathLike) -> Runner:
    """Load an engine bundle (or an ONNX file) after verifying it; use it as a context manager.

    Raises:
        DamagedError: The bundle is not what its manifest says.
        IncompatibleError: It was made for another device, or its backend is missing.
    """
    return engines.open(_runnable(recognise(str(bundle)), "auto"))


def _runnable(spec: RunnerSpec, backend: str) -> RunnerSpec:
    """An ONNX file gets the backend that runs it; other kinds know theirs."""
    if spec.kind != "onnx" or spec.backend:
        return spec
    return spec.with_(backend=backends.choose(backend, backends.RUN_ONNX))


def bench(
    targets: Sequence[PathLike],
    batch: Words = (1, 64),
    baseline: Optional[PathLike] = None,
    forms: Optional[Words] = None,
    backend: str = "auto",
    threads: Words = 0,
    streams: Words = 1,
    warmup: Union[str, float] = "200ms",
    rounds: int = 5,
    duration: Union[str, float] = "1s",
    iterations: int = 10,
    images: Optional[int] = None,
    data: Optional[str] = None,
    out: Optional[PathLike] = "runs.json",
    command: str = "",
    device: str = "auto",
    io: str = "copy",
    cuda_graph: bool = False,
    spin: bool = False,
    transfers: bool = True,
    energy: bool = False,
    passes: int = 0,
    tune: bool = False,
    lock_clocks: bool = False,
    power_modes: Words = "",
    usage: bool = False,
    layers: bool = False,
    fresh: bool = False,
    load: Words = (),
    load_duration: Union[str, float] = "10s",
    load_qps: Optional[float] = None,
    load_latency: Union[str, float] = "15ms",
    progress: Progress = quiet,
    **source: Any,
) -> Tuple[Dict[str, Any], List[Tuple[str, str]]]:
    """Measure engines and originals in fresh, alternating processes, and their accuracy where data is given.

    Args:
        targets, batch, baseline, forms, backend, threads: What is measured, and how it is loaded; several numbers of
            threads measure everything with each.
        streams: Queries that run side by side, each in a thread of its own; several numbers measure with each.
        warmup, rounds, duration, iterations: See `bench.rounds.run`.
        images, data: Of the accuracy and the passes.
        out: Run file, or None.
        command: Kept in the run.
        device: auto, cpu or gpu for the originals, or both: `cpu,gpu`.
        io: copy, or zero-copy where TensorRT and the GPU share the memory.
        cuda_graph, spin: How TensorRT's queries are launched and waited for.
        transfers: Whether the pass by events, beside the wall times, includes the copies.
        energy: Measure energy too, in a pass of its own, by the machine's power sensors.
        passes: Time so many whole passes over the test images too, at each batch.
        tune: Measure each engine with the `threads` and `streams` of `optimize.tuning.candidates`, and keep the best in
            its bundle; the originals with their defaults only.
        lock_clocks: Hold the machine's clocks meanwhile, and give them back (`optimize.device`).
        power_modes: Of a Jetson: measure in each, its clocks held, in a run file each (`runs.15W.json`).
        usage: Show how busy and how large each target is, and watch the GPUs for it in a pass of their own.
        layers: Time the layers of each engine too, after all times were taken.
        fresh: Measure everything, also what an interrupted run of the same has kept beside `out`.
        load: Standard loads that MLPerf LoadGen drives afterwards: single-stream, multi-stream, offline, server.
        load_duration, load_qps, load_latency: See `bench.loadgen.measure`.
        progress: Told what happens.
        source: custom_objects, factory, input_shape, preprocess, task of `optimize.sources.recognise`.

    Returns:
        The run (`optimize.run/1`), and what failed as (target, message); the rest was kept.

    Raises:
        UsageError: No target, a bad option, or a form that a model does not have.
        OptimizeError: Every target failed.
    """
    from optimize import loads
    from optimize.benchmark import in_power_modes
    from optimize.targets import OTHER_FILE, bench_targets

    asked = [w for word in _words(forms) for w in word.split(",")] if forms else None
    launch = {"io": io, "cuda_graph": cuda_graph, "graph": cuda_graph, "spin": spin, "transfers": transfers}
    grid = [(count, side) for count in parse_threads(_words(threads)) for side in parse_streams(_words(streams))]
    modes = list(dict.fromkeys(w for word in _words(power_modes) for w in word.split(",") if w))
    if tune:
        if grid != [(0, 1)]:
            raise UsageError("--tune tries numbers of threads and streams itself", "leave --threads and --streams out")
        if len(modes) > 1:
            raise UsageError("--tune keeps one setting a bundle: it takes one power mode", f"--power-mode {modes[0]}")
        grid = tuning.settings()
    found = [
        target
        for count, side in grid
        for target in bench_targets(targets, baseline, asked, backend, count, source, device, launch, side)
    ]
    for name in dict.fromkeys(t.name for t in found if OTHER_FILE in t.flags):
        words = "speed-up and drop compare two models unless both files hold one; optimize build makes it anew"
        progress(f"warning: {name} was built from another file than the original: {words}", 0, A_LINE)
    if tune:
        usual = [t for t in found if t.role == "original" and (t.spec.threads, t.streams) == (0, 1)]
        found = [tuning.untuned(t) for t in found if t.role == "engine"] + usual
        if not any(target.spec.kind == "bundle" for target in found):
            raise UsageError("--tune keeps what it finds in bundles, and none is measured", "optimize build MODEL")
    settings: Dict[str, Any] = {
        "batches": parse_batches(_words(batch)),
        "rounds": rounds,
        "warmup_s": seconds(warmup),
        "duration_s": seconds(duration),
        "iterations": iterations,
        "images": images,
        "data": data,
        "command": command,
        "energy": energy,
        "usage": usage,
        "layers": layers,
        "passes": passes,
        "load": loads.loads(_words(load), seconds(load_duration), load_qps, seconds(load_latency)),
        "fresh": fresh,
        "progress": progress,
    }
    run, failures = in_power_modes(modes, lock_clocks, found, Path(out) if out else None, settings)
    if tune:
        for line in tuning.lines(tuning.keep(run, found)):
            progress(line, 0, A_LINE)
    return run, failures


@contextlib.contextmanager
def serve(
    bundles: Sequence[PathLike],
    node: Optional[PathLike] = None,
    name: Optional[str] = None,
    host: str = HOST,
    http_port: int = HTTP_PORT,
    grpc_port: int = GRPC_PORT,
    batch: Words = (),
    delay: Union[str, float] = "0.1ms",
    threads: int = 0,
    progress: Progress = quiet,
) -> Iterator[Server]:
    """Open engines for a KServe v2 server; its `run` answers until it is told to stop.

    Args:
        bundles: Folders; none where a node is given.
        node: Folder of a node whose active engine is served. It is held as long as it is served: another one that is
            activated meanwhile is served from the next start on.
        name: Of the model, for one bundle; by default `<model>-<precision>`.
        host, http_port, grpc_port: Where to listen; port 0 takes a free one.
        batch: Sizes to run; by default those of each bundle.
        delay: How long a request may wait for others while the engine is idle.
        threads: CPU threads; 0 as in the bundle.
        progress: Told what happens.

    Raises:
        UsageError: No bundle, a node beside bundles, a bad name, or a port that is taken.
        DamagedError, IncompatibleError: A bundle that will not run here, told before it is loaded; MLServer is missing.
    """
    from optimize.serving.server import prepared

    if bool(bundles) == (node is not None):
        raise UsageError("bundles or a node are served, one of the two", "optimize serve BUNDLE, or --node DIR")
    sizes = parse_batches(_words(batch)) if batch else ()
    with contextlib.ExitStack() as stack:
        paths = [Path(one) for one in bundles]
        if node is not None:
            from optimize.ship.node import using

            paths = [stack.enter_context(using(Path(os.path.abspath(os.path.expanduser(node)))))]
        delay_us = round(1e6 * seconds(delay))
        given = (name, host, http_port, grpc_port, sizes, threads, delay_us, progress)
        yield stack.enter_context(prepared(paths, *given))


def seconds(value: Union[str, float]) -> float:
    """Read a time such as `200ms`, `1s`, `1.5` (seconds).

    Raises:
        UsageError: Not a time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|)", str(value).strip())
    if match is None:
        raise UsageError(f"{value!r} is not a time", "for example 200ms or 1.5s")
    return float(match.group(1)) * (0.001 if match.group(2) == "ms" else 1.0)
