"""What `optimize bench` measures: engines and the original in each of its forms, their speed and their accuracy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from bench.rounds import Target, distinct, size_of
from bench.telemetry.rails import Rail
from engines import backend as backends
from engines import child, driver, jsonfile, manifest, scratch
from engines.device import DOUBLE
from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import FORMS, Progress, RunnerSpec, quiet
from optimize.pipeline.inputs import child_env
from optimize.sources import recognise

_DEFAULT_FORMS = ("predict", "function", "eager")
"""Measured unless `--forms` says otherwise: those that every user has; xla and compile take minutes to start."""


_NO_DEVICE = "leave --device out: originals then run where they can, and the rows say where"

_BUILT = ("bundle", "onnx")


def bench_targets(
    targets: Sequence[Union[str, Path]],
    baseline: Optional[Union[str, Path]],
    forms: Optional[Sequence[str]],
    backend: str,
    threads: int,
    source: Dict[str, Any],
    device: str = "auto",
    launch: Optional[Dict[str, Any]] = None,
) -> List[Target]:
    """Engines and originals to measure, in the order given, the baseline's forms last.

    Args:
        targets, baseline, forms, backend, threads, source: See `optimize.api.bench`.
        device: auto, cpu or gpu: where the originals run.
        launch: Options of TensorRT's queries.

    Raises:
        UsageError: Nothing to measure, or a form that none of the originals has.
        DamagedError, IncompatibleError: A bundle that will not run here.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise UsageError(f"--device {device}: auto, cpu or gpu is expected")
    if (launch or {}).get("io", "copy") not in ("copy", "zero-copy"):
        raise UsageError(f"--io {launch and launch['io']}: copy or zero-copy is expected")
    gpu, why = driver.ask()
    if device == "gpu" and gpu is None:
        raise IncompatibleError(f"--device gpu: {why}", _NO_DEVICE)
    found: List[Target] = []
    preprocess = source.get("preprocess")
    for path in targets:
        spec = recognise(str(path), **source)
        found += [_engine(spec, backend, threads)] if spec.kind in _BUILT else _originals(spec, forms, threads)
    if baseline is not None:
        spec = recognise(str(baseline), **source)
        if spec.kind == "bundle":
            raise UsageError(f"--baseline {baseline} is an engine bundle; the original model is expected")
        if spec.kind == "onnx":
            found.append(_engine(spec, "onnxruntime", threads)._replace(role="original"))
        else:
            found += _originals(spec, forms, threads)
    originals = list(dict.fromkeys(t.spec.path for t in found if t.role == "original"))
    if len(originals) > 1:
        names = " and ".join(Path(path).name for path in originals)
        raise UsageError(f"{names} are both originals: speed-up and drop need one", "name one with --baseline MODEL")
    _check_launch(found, launch or {})
    if device == "gpu":
        _check_gpu([t for t in found if t.role == "original"])
    for form in forms or ():
        if not any(t.form == form for t in found):
            raise UsageError(f"--forms {form}: none of the targets can be run so", "leave --forms out")
    found = [
        t._replace(spec=t.spec.with_(options={**t.spec.options, **_asked(t, device, launch or {})})) for t in found
    ]
    known = next((t.spec.preprocess for t in found if t.role == "engine" and t.spec.preprocess), None)
    if preprocess is None and known is not None:
        # what the bundle was verified with is what its original must see too
        found = [t if t.spec.preprocess else t._replace(spec=t.spec.with_(preprocess=known)) for t in found]
    return found


_LAUNCH = (
    ("io", "copy", "--io"),
    ("cuda_graph", False, "--cuda-graph"),
    ("spin", False, "--spin"),
    ("transfers", True, "--no-transfers"),
)
"""TensorRT's options of a run: name, default, as it is typed."""


def _check_launch(targets: Sequence[Target], launch: Dict[str, Any]) -> None:
    """Refuse TensorRT's options where nothing here is TensorRT's: they would change nothing, unseen.

    Raises:
        UsageError: Names them.
    """
    given = [option for name, default, option in _LAUNCH if launch.get(name, default) != default]
    if given and not any(target.backend.startswith("tensorrt") for target in targets):
        words = ", ".join(given)
        raise UsageError(f"{words}: only TensorRT has this, and no TensorRT engine is measured", f"leave {words} out")


def _check_gpu(originals: Sequence[Target]) -> None:
    """Make sure, before minutes of measuring, that the originals can run on the GPU.

    Raises:
        IncompatibleError: One cannot, and why.
    """
    for target in originals:
        if target.backend != "tensorflow":
            raise IncompatibleError(f"--device gpu: {target.name} runs on the CPU only ({target.backend})", _NO_DEVICE)
    if originals:
        child.call("engines.tensorflowdevice:check", {}, env=child_env(originals[0].spec))


def _asked(target: Target, device: str, launch: Dict[str, Any]) -> Dict[str, Any]:
    """The options of a run that concern a target."""
    if target.role == "original":
        return {"device": device} if device != "auto" else {}
    return launch if target.backend.startswith("tensorrt") else {}


def _engine(spec: RunnerSpec, backend: str, threads: int) -> Target:
    path = Path(spec.path)
    if spec.kind == "onnx":
        name = backends.choose(backend, backends.RUN_ONNX)
        spec, size = spec.with_(backend=name, threads=threads), size_of(spec.path)
        return Target(path.name, "engine", "", "fp32", name, {}, size, spec, (), jsonfile.sha256(spec.path))
    about = manifest.read(path)
    manifest.runner_spec(path, spec)  # says why it will not run before anything is measured
    spec = spec.with_(threads=threads, preprocess=spec.preprocess or about["preprocess"], task=about["task"])
    size = sum(file["bytes"] for file in about["files"])
    return Target(
        path.name,
        "engine",
        "",
        about["precision"],
        f"{about['backend']} double" if DOUBLE in about["device"]["version"] else about["backend"],
        about["achieved"],
        size,
        spec,
        tuple(about["flags"]),
        about["model"]["sha256"],
    )


def _originals(spec: RunnerSpec, forms: Optional[Sequence[str]], threads: int) -> List[Target]:
    """The original in each form; under a 16-bit policy also in float32, which is the fair baseline on a CPU."""
    known = FORMS[spec.kind]
    wanted = [form for form in known if form in (forms or _DEFAULT_FORMS)]
    mixed = _is_mixed(spec)
    model = jsonfile.sha256(spec.path)
    framework = "torch" if spec.kind.startswith("torch") else "tensorflow"
    return [
        Target(
            Path(spec.path).name,
            "original",
            form,
            "mixed" if mixed and policy == "saved" else "fp32",
            framework,
            {},
            size_of(spec.path),
            spec.with_(form=form, policy=policy, threads=threads),
            (),
            model,
        )
        for policy in (("saved", "float32") if mixed else ("saved",))
        for form in wanted
    ]


def _is_mixed(spec: RunnerSpec) -> bool:
    if not spec.kind.startswith("keras"):
        return False
    from engines import kerasfile

    return kerasfile.read(spec.path, spec.kind).policy.startswith("mixed")


def measure(
    targets: Sequence[Target],
    batches: Sequence[int],
    rounds: int,
    warmup_s: float,
    duration_s: float,
    iterations: int,
    images: Optional[int] = None,
    data: Optional[str] = None,
    out: Optional[Path] = None,
    command: str = "",
    energy: bool = False,
    fresh: bool = False,
    progress: Progress = quiet,
) -> Tuple[Dict[str, Any], List[Tuple[str, str]]]:
    """Speed of all targets in alternating rounds, then accuracy where data is given, as one run.

    Args:
        targets: Of `bench_targets`.
        batches: Ascending.
        rounds, warmup_s, duration_s, iterations: See `bench.rounds.run`.
        images: Test images for accuracy, all by default.
        data: Data set reference.
        out: Run file to write, or None.
        command: That was typed, kept in the run.
        energy: Measure energy too, in a pass of its own.
        fresh: Do not go on from the cells of an interrupted run, which lie beside `out`.
        progress: Told what happens.

    Returns:
        The run and its failures as (target, message).

    Raises:
        IncompatibleError: No sensor for energy.
        OptimizeError: Nothing could be measured.
    """
    from bench import energy as consumption
    from bench import rounds as measuring
    from bench import runs
    from bench.telemetry.rails import rails

    targets = distinct(targets)
    sensors = rails() if energy else []
    if energy:
        consumption.require(sensors)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir() or not os.access(out.parent, os.W_OK):  # told before minutes of measuring, not after
            raise UsageError(f"{out} cannot be written", "name another file with -o runs.json")
    journal = None if out is None else out.with_name(f"{out.name}.partial")
    if journal is not None and fresh:
        journal.unlink(missing_ok=True)
    settings = (rounds, warmup_s, duration_s, iterations, data or "", 0, progress)
    done = measuring.run(targets, batches, *settings, journal=journal)
    failures = list(done.failures)
    if not done.rows:
        raise OptimizeError(f"nothing could be measured: {failures[0][0]}: {failures[0][1]}")
    if energy:
        failures += _add_energy(done.rows, targets, sensors, warmup_s, data or "", progress)
    if data:
        failures += _add_accuracy(done.rows, targets, max(batches), images, data, progress)
    how = {
        "rounds": rounds,
        "warmup_s": warmup_s,
        "duration_s": duration_s,
        "iterations": iterations,
        "device": next((t.spec.options["device"] for t in targets if "device" in t.spec.options), "auto"),
        "data": data,
        "seed": 0,
        "command": command,
    }
    run = runs.make(done.rows, done.before, done.after, how, failures)
    if out is not None:
        runs.write(out, run)
    if journal is not None:
        journal.unlink(missing_ok=True)
    return run, failures


def _add_energy(
    rows: List[Dict[str, Any]],
    targets: Sequence[Target],
    sensors: Sequence[Rail],
    warmup_s: float,
    data: str,
    progress: Progress,
) -> List[Tuple[str, str]]:
    """Watch the sensors while each target queries, after all times were taken: reading them disturbs."""
    from bench.energy import measure as watch

    failures: List[Tuple[str, str]] = []
    for index, target in enumerate(targets):
        same = [r for r in rows if all(r[name] == getattr(target, name_) for name, name_ in _ROW_OF)]
        own = [r for r in same if r["threads"] == (target.spec.threads or None)]
        progress("energy", index, len(targets))
        try:
            env = child_env(target.spec)
            found = watch(target.spec, [r["batch"] for r in own], sensors, warmup_s, data=data, env=env) if own else {}
        except OptimizeError as error:
            failures.append((f"{target.label}, energy", error.message))
            continue
        for one in own:
            one["energy"] = found.get(one["batch"])
    progress("energy", len(targets), len(targets))
    return failures


_ROW_OF = (("target", "name"), ("form", "form"), ("precision", "precision"))
"""Fields of a row that tell its target, and the target's."""


def _add_accuracy(
    rows: List[Dict[str, Any]],
    targets: Sequence[Target],
    batch: int,
    images: Optional[int],
    data: str,
    progress: Progress,
) -> List[Tuple[str, str]]:
    """Measure each engine once, and each original once per dtype policy: its forms compute the same function.

    The drop is against the original in float32 (the last of the originals: `_originals` puts it there).
    """
    from bench import runs
    from bench.accuracy import compare

    failures: List[Tuple[str, str]] = []
    found: Dict[Tuple[str, str], Dict[str, Any]] = {}
    with scratch.folder() as folder:
        for target in sorted(targets, key=lambda t: t.form == "predict"):  # the compiled form is the quicker one
            key = (target.name, target.precision)
            if key in found or target.spec.task != "classify" or not any(r["target"] == target.name for r in rows):
                continue
            out = Path(folder, f"{len(found)}.npz")
            arguments = {"spec": target.spec.to_json(), "data": data, "out": str(out), "batch": batch, "images": images}
            try:
                found[key] = child.call("bench.accuracy:evaluate", arguments, progress, child_env(target.spec))
            except OptimizeError as error:
                failures.append((f"{target.label}, accuracy", error.message))
        originals = [
            found.get((t.name, t.precision)) for t in targets if t.role == "original" and t.precision == "fp32"
        ]
        base = next((one for one in originals if one is not None), None)
        for (name, precision), one in found.items():
            against = compare(Path(base["predictions"]), Path(one["predictions"])) if base else {}
            runs.add_accuracy(rows, name, {**one, **against}, precision=precision)
    return failures
