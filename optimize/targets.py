"""What `optimize bench` measures: the engines, and the original in each of its forms, on the devices asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from bench.rounds import Target, size_of
from engines import backend as backends
from engines import child, driver, jsonfile, kserve, manifest, served
from engines.device import DOUBLE
from engines.errors import IncompatibleError, UsageError
from engines.spec import FORMS, RunnerSpec
from optimize.pipeline.inputs import child_env
from optimize.sources import parse_shape, recognise

_DEFAULT_FORMS = ("predict", "function", "eager")
"""Measured unless `--forms` says otherwise: those that every user has; xla and compile take minutes to start."""


_NO_DEVICE = "leave --device out: originals then run where they can, and the rows say where"

_BUILT = ("bundle", "onnx")

OTHER_FILE = "another file"
"""Flag of a bundle that was not built from the original beside it: of another model, or of a copy in another format."""


def bench_targets(
    targets: Sequence[Union[str, Path]],
    baseline: Optional[Union[str, Path]],
    forms: Optional[Sequence[str]],
    backend: str,
    threads: int,
    source: Dict[str, Any],
    device: str = "auto",
    launch: Optional[Dict[str, Any]] = None,
    streams: int = 1,
) -> List[Target]:
    """Engines and originals to measure, in the order given, the baseline's forms last.

    Args:
        targets, baseline, forms, backend, threads, source: See `optimize.api.bench`.
        device: auto, cpu or gpu: where the originals run; both by `cpu,gpu`.
        launch: Options of TensorRT's queries.
        streams: Queries that run side by side.

    Raises:
        UsageError: Nothing to measure, or a form that none of the originals has.
        DamagedError, IncompatibleError: A bundle that will not run here.
    """
    devices = list(dict.fromkeys(device.split(",")))
    if devices != ["auto"] and not set(devices) <= {"cpu", "gpu"}:
        raise UsageError(f"--device {device}: auto, cpu, gpu or cpu,gpu is expected")
    if (launch or {}).get("io", "copy") not in ("copy", "zero-copy"):
        raise UsageError(f"--io {launch and launch['io']}: copy or zero-copy is expected")
    gpu, why = driver.ask()
    if "gpu" in devices and gpu is None:
        raise IncompatibleError(f"--device gpu: {why}", _NO_DEVICE)
    found: List[Target] = []
    preprocess = source.get("preprocess")
    for path in targets:
        if kserve.is_url(path):
            found.append(_served(str(path), source))
            continue
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
    if "gpu" in devices:
        _check_gpu([t for t in found if t.role == "original"])
    for form in forms or ():
        if not any(t.form == form for t in found):
            raise UsageError(f"--forms {form}: none of the targets can be run so", "leave --forms out")
    found = [
        t._replace(spec=t.spec.with_(options={**t.spec.options, **_asked(t, one, launch or {})}))
        for t in found
        for one in (devices if t.role == "original" else devices[:1])
    ]
    if streams > 1:
        found = [t._replace(spec=t.spec.with_(options={**t.spec.options, "streams": streams})) for t in found]
    found = [t._replace(flags=(*t.flags, OTHER_FILE)) if _of_another_file(t, found) else t for t in found]
    known = next((t.spec.preprocess for t in found if t.role == "engine" and t.spec.preprocess), None)
    if preprocess is None and known is not None:
        # what the bundle was verified with is what its original must see too
        found = [t if t.spec.preprocess else t._replace(spec=t.spec.with_(preprocess=known)) for t in found]
    return found


def _of_another_file(target: Target, targets: Sequence[Target]) -> bool:
    """Whether a bundle was built from another file than the original that is measured beside it."""
    files = {one.model_sha256 for one in targets if one.role == "original"}
    built = target.spec.kind in ("bundle", "served") and bool(target.model_sha256)
    return built and bool(files) and target.model_sha256 not in files


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
        {"path": str(path.resolve()), **manifest.identity(about)},
    )


def _served(url: str, source: Dict[str, Any]) -> Target:
    """A model on a server; what it was built as is known where this project wrote its configuration."""
    about = served.describe(url)
    told, given = about["told"], source.get("preprocess")
    if isinstance(given, str):
        from calib.preprocess import parse

        given = parse(given).to_json()
    spec = RunnerSpec(
        path=url,
        kind="served",
        input_shape=parse_shape(source.get("input_shape")),
        layout=str(told.get("layout") or ""),
        preprocess=given or told.get("preprocess"),
        task=source.get("task") or str(told.get("task") or "classify"),
    )
    precision = str(told.get("precision") or "")
    backend = f"served by {about['server'] or 'a server'}{', ' * bool(about['platform'])}{about['platform']}"
    achieved = told.get("achieved") or {}
    model = str(told.get("model_sha256") or "")
    return Target(kserve.place(url).model, "engine", "", precision, backend, achieved, 0, spec, (), model)


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
            ("random weights",) if spec.options.get("weights") == "random" else (),
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
