"""A model repository for NVIDIA's Triton out of bundles, and Triton told to load it.

    <repository>/<model>/config.pbtxt, labels.txt
    <repository>/<model>/<version>/model.plan | model.onnx | model.xml + model.bin

A version appears in one rename, whole, and the configuration is replaced after it, so that a Triton that reads at any
time finds a model that it can load; in a bucket, which renames nothing, the configuration names the version instead.
Earlier versions stay: Triton serves the highest, or the one that is named.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import quote

from calib.preprocess import differ
from engines import kserve, manifest, served
from engines.errors import DamagedError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.ship import tritonconfig
from optimize.ship.prepare import default_name
from optimize.ship.repository.place import CONFIG, LARGEST_VERSION, SCHEME, Repository, Source, open_repository
from optimize.ship.store import Moved

__all__ = ["SCHEME", "check_name", "load", "unload", "write_repository"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

_OTHER = "--name OTHER"


class Model(NamedTuple):
    """A model of the repository.

    Attributes:
        name: Its folder.
        bundle: Where its engine comes from.
        files: Names in the version's folder -> files of the bundle, the one that Triton is told of last.
        config: See `tritonconfig.config`.
        labels: Of the classes; empty where they are not known.
    """

    name: str
    bundle: Path
    files: Dict[str, Source]
    config: Dict[str, Any]
    labels: Sequence[str]


def write_repository(
    bundles: Sequence[Union[str, Path]],
    target: str,
    name: Optional[str] = None,
    queue_delay_us: int = tritonconfig.QUEUE_DELAY_US,
    limit: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Put bundles into a model repository, as models that Triton serves as they are.

    A bundle is checked against its manifest first; that it runs on this machine is not asked. Where the newest version
    of the model holds the same engine already, nothing is copied, and only the configuration is brought up to date.

    Args:
        bundles: Folders.
        target: The repository: a folder, or a URL of `repository.place.FORMS`.
        name: Of the model, for one bundle; by default that of the shipment, or `<model>-<precision>`.
        queue_delay_us: How long Triton lets a request wait for others, microseconds.
        limit: Bytes per second; 0 for none.
        progress: Told the bytes, and remarks.

    Returns:
        `repository` and `models`: `name`, `version`, `bundle`, `copied` (bytes), `remarks`.

    Raises:
        UsageError: No bundle, a bad name, two bundles of one name, or a target that is none.
        DamagedError: A bundle is not what its manifest says.
        IncompatibleError: The package tritonclient is missing.
        OptimizeError, OSError: The repository cannot be written.
    """
    if limit < 0:
        raise UsageError(f"--bandwidth: {limit} bytes a second")
    if name is not None and len(bundles) != 1:
        raise UsageError("--name is for one bundle", "leave --name out")
    models = [model for bundle in bundles for model in _models(Path(bundle), name, queue_delay_us)]
    if not models:
        raise UsageError("no bundle was given", "optimize build MODEL --precision fp16")
    taken: Dict[str, Path] = {}
    for model in models:
        if model.name in taken:
            raise UsageError(
                f"{taken[model.name]} and {model.bundle} are both {model.name}", "ship them apart, each with --name"
            )
        taken[model.name] = model.bundle
    for model in models:
        tritonconfig.text(model.config)  # what Triton would refuse is told before any work
    repository = open_repository(target)
    try:
        with repository.alone():
            before = [_check_owner(repository, model.name) for model in models]
            done = [_shipped(repository, model, was, limit, progress) for model, was in zip(models, before)]
    finally:
        repository.close()
    return {"repository": repository.root, "models": done}


def _check_owner(repository: Repository, name: str) -> Dict[str, Any]:
    """Refuse a model that somebody else put there: its versions and its configuration are theirs; returns what is told
    of ours."""
    repository.versions(name)
    config = repository.config(name)
    if config is not None and tritonconfig.MARK.encode() not in config:
        raise UsageError(f"{repository.root}: the model {name} there is another's, with a {CONFIG} of its own", _OTHER)
    return served.told(tritonconfig.read(config)) if config is not None else {}


def _shipped(
    repository: Repository, model: Model, before: Mapping[str, Any], limit: int, progress: Progress
) -> Dict[str, Any]:
    total = sum(source.path.stat().st_size for source in model.files.values())

    def moved(count: int) -> None:
        progress(f"writing {model.name}", count, total)

    version, copied = _write(repository, model, moved, limit)
    about = manifest.read(model.bundle)
    remarks = tritonconfig.remarks(about)
    otherwise = _otherwise(about["preprocess"], before)
    if otherwise:
        remarks.append(f"clients must send images otherwise than to the version before: {otherwise}")
    for line in remarks:
        progress(f"{model.name}: {line}", 0, A_LINE)
    return {
        "name": model.name,
        "version": version,
        "bundle": str(model.bundle),
        "copied": copied,
        "remarks": remarks,
    }


def _otherwise(fed: Any, before: Mapping[str, Any]) -> str:
    """How images must come that they need not before; empty where that is the same, or nothing tells of before."""
    was = before.get("preprocess")
    with contextlib.suppress(DamagedError):
        if isinstance(was, dict):
            return differ(fed, was)
    return ""


def load(
    server: str, names: Sequence[str], progress: Progress = quiet, engines: Optional[Mapping[str, str]] = None
) -> List[Dict[str, Any]]:
    """Tell a Triton in explicit mode (`--model-control-mode=explicit`) to load models, or load them anew.

    Args:
        server: `http://node:8000`.
        names: Of the models.
        progress: Told the models done.
        engines: By name the `engine_sha256` that each must have (`manifest.identity`): a server may read another
            repository, with a model of the same name in it.

    Returns:
        What its repository lists of them: `name`, `version`, `state`, `reason`.

    Raises:
        OptimizeError: The server is not reached, or could not load one; its own words are in the message. Or what it
            loaded is another engine.
    """
    found = _control(server, names, "load", progress)
    connection = kserve.Connection(kserve.place(server, needs_model=False))
    try:
        for name, engine in (engines or {}).items():
            _check_served(connection, name, engine)
    finally:
        connection.close()
    return found


def _check_served(connection: kserve.Connection, name: str, engine: str) -> None:
    """Refuse another engine under the name of one that was loaded; a server that tells nothing of it is believed."""
    try:
        config = connection.json("GET", kserve.path(name, "config"))
    except OptimizeError:  # an extension that a server need not have, or may keep to itself
        return
    told = served.told(config) if isinstance(config, dict) else {}
    if told and told.get("engine_sha256") != engine:
        raise OptimizeError(
            f"{connection.where.server}: the engine that it serves as {name} is not the one that was written",
            "does it read another repository (tritonserver --model-repository)?",
        )


def unload(server: str, names: Sequence[str], progress: Progress = quiet) -> List[Dict[str, Any]]:
    """Tell a Triton in explicit mode to let go of models; see `load`."""
    return _control(server, names, "unload", progress)


def _control(server: str, names: Sequence[str], what: str, progress: Progress) -> List[Dict[str, Any]]:
    connection = kserve.Connection(kserve.place(server, needs_model=False), patience_s=600.0)  # a large plan loads long
    try:
        for index, name in enumerate(names):
            progress(f"{what}ing models", index, len(names))
            connection.json("POST", f"/v2/repository/models/{quote(name, safe='')}/{what}", {})
        progress(f"{what}ing models", len(names), len(names))
        listed = connection.json("POST", "/v2/repository/index", {})
    finally:
        connection.close()
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise DamagedError(f"{connection.where.server}: no list of models")
    found = [one for one in listed if one.get("name") in names]
    for name in names if what == "load" else ():
        states = [one for one in found if one.get("name") == name]
        if not any(one.get("state") == "READY" for one in states):
            why = "; ".join(str(one.get("reason") or one.get("state") or "") for one in states) or "it is not listed"
            raise OptimizeError(f"{connection.where.server}: {name} was not loaded: {why}")
    return found


def _models(bundle: Path, name: Optional[str], queue_delay_us: int) -> Iterator[Model]:
    """The models of a bundle: one, or one for each plan where there are several."""
    about = manifest.read(bundle)
    manifest.check_files(bundle)
    base = check_name(name or default_name(bundle))
    files = manifest.engine_files(about)
    sums = {entry["path"]: entry["sha256"] for entry in about["files"]}
    labels = about["classes"] if about["task"] == "classify" else ()
    plans: Mapping[str, str] = about["options"].get("plans") or {}
    if plans:
        for batch, file in sorted(plans.items(), key=lambda item: int(item[0])):
            model = f"{base}-b{batch}"
            value = tritonconfig.config(about, model, int(batch), queue_delay_us)
            yield Model(model, bundle, {"model.plan": Source(bundle / file, sums[file])}, value, labels)
        return
    value = tritonconfig.config(about, base, queue_delay_us=queue_delay_us)
    main = value["default_model_filename"]
    named = {
        Path(main).stem + Path(file).suffix: Source(bundle / file, sums[file])
        for file in sorted(files, key=lambda file: Path(file).suffix == Path(main).suffix)
    }
    yield Model(base, bundle, named, value, labels)


def check_name(name: str) -> str:
    """The name, where a folder and a URL may be called so.

    Raises:
        UsageError: They may not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a model", "letters, digits, dots, dashes and underscores: --name N")
    return name


def _write(repository: Repository, model: Model, moved: Moved, limit: int) -> Tuple[int, int]:
    """Bring one model's folder up to date; its version, and the bytes that were copied."""
    versions = repository.versions(model.name)
    copied = 0
    if versions and repository.holds(model.name, versions[-1], model.files):
        version = versions[-1]
    else:
        version = versions[-1] + 1 if versions else 1
        if version > LARGEST_VERSION:
            raise UsageError(f"{model.name} has the version {versions[-1]}, after which none is left", _OTHER)
        repository.add(model.name, version, model.files, moved, limit)
        copied = sum(source.path.stat().st_size for source in model.files.values())
    if model.labels:
        repository.replace(model.name, tritonconfig.LABELS, "".join(f"{label}\n" for label in model.labels).encode())
    pinned = {} if repository.at_once else {"version_policy": {"specific": {"versions": [version]}}}
    repository.replace(model.name, CONFIG, tritonconfig.text({**model.config, **pinned}).encode())
    return version, copied
