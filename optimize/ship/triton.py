"""A model repository for NVIDIA's Triton out of bundles, and Triton told to load it.

    <repository>/<model>/config.pbtxt, labels.txt
    <repository>/<model>/<version>/model.plan | model.onnx | model.xml + model.bin

A version appears in one rename, whole, and the configuration is replaced after it, so that a Triton that reads at any
time finds a model that it can load. Earlier versions stay: Triton serves the highest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence
from urllib.parse import quote

from engines import jsonfile, kserve, manifest
from engines.errors import DamagedError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.ship import tritonconfig
from optimize.ship.prepare import default_name

SCHEME = "triton:"

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Model(NamedTuple):
    """A model of the repository.

    Attributes:
        name: Its folder.
        bundle: Where its engine comes from.
        files: Names in the version's folder -> files of the bundle.
        config: See `tritonconfig.config`.
        labels: Of the classes; empty where they are not known.
    """

    name: str
    bundle: Path
    files: Dict[str, Path]
    config: Dict[str, Any]
    labels: Sequence[str]


def write_repository(
    bundles: Sequence[Path],
    target: str,
    name: Optional[str] = None,
    queue_delay_us: int = tritonconfig.QUEUE_DELAY_US,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Put bundles into a model repository, as models that Triton serves as they are.

    A bundle is checked against its manifest first; that it runs on this machine is not asked. Where the newest version
    of the model holds the same engine already, nothing is copied, and only the configuration is brought up to date.

    Args:
        bundles: Folders.
        target: The repository: a folder or `file://` URL, also with `triton:` before it.
        name: Of the model, for one bundle; by default `<model>-<precision>`.
        queue_delay_us: How long Triton lets a request wait for others, microseconds.
        progress: Told the files done, and remarks.

    Returns:
        `repository` and `models`: `name`, `version`, `bundle`, `copied` (bytes), `remarks`.

    Raises:
        UsageError: No bundle, a bad name, or two bundles of one name.
        DamagedError: A bundle is not what its manifest says.
        IncompatibleError: The package tritonclient is missing.
        OSError: The repository cannot be written.
    """
    root = folder_of(target)
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
    texts = {model.name: tritonconfig.text(model.config) for model in models}
    done = []
    for index, model in enumerate(models):
        progress("writing the repository", index, len(models))
        version, copied = _write(root, model, texts[model.name])
        remarks = tritonconfig.remarks(manifest.read(model.bundle))
        for line in remarks:
            progress(f"{model.name}: {line}", 0, A_LINE)
        done.append(
            {
                "name": model.name,
                "version": version,
                "bundle": str(model.bundle),
                "copied": copied,
                "remarks": remarks,
            }
        )
    progress("writing the repository", len(models), len(models))
    return {"repository": str(root), "models": done}


def folder_of(target: str) -> Path:
    """The folder that `triton:DIR`, `triton:file:///DIR` or either without `triton:` names.

    Raises:
        UsageError: Another scheme.
    """
    rest = target[len(SCHEME) :] if target.startswith(SCHEME) else target
    if rest.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(rest)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"file://{parts.netloc}: a folder of this machine is expected", "triton:DIR")
        rest = unquote(parts.path)
    elif "://" in rest:
        scheme = rest.partition("://")[0]
        raise UsageError(
            f"a model repository is written into a folder, not to {scheme}://",
            "triton:DIR, a folder that Triton sees, or copy it there afterwards",
        )
    if not rest:
        raise UsageError("triton: names no folder", "--to triton:models")
    return Path(os.path.abspath(os.path.expanduser(rest)))


def load(server: str, names: Sequence[str], progress: Progress = quiet) -> List[Dict[str, Any]]:
    """Tell a Triton in explicit mode (`--model-control-mode=explicit`) to load models, or load them anew.

    Args:
        server: `http://node:8000`.
        names: Of the models.
        progress: Told the models done.

    Returns:
        What its repository lists of them: `name`, `version`, `state`, `reason`.

    Raises:
        OptimizeError: The server is not reached, or could not load one; its own words are in the message.
    """
    return _control(server, names, "load", progress)


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
    base = check_name(name or default_name(about))
    files = manifest.engine_files(about)
    labels = about["classes"] if about["task"] == "classify" else ()
    plans: Mapping[str, str] = about["options"].get("plans") or {}
    if plans:
        for batch, file in sorted(plans.items(), key=lambda item: int(item[0])):
            model = f"{base}-b{batch}"
            value = tritonconfig.config(about, model, int(batch), queue_delay_us)
            yield Model(model, bundle, {"model.plan": bundle / file}, value, labels)
        return
    value = tritonconfig.config(about, base, queue_delay_us=queue_delay_us)
    main = value["default_model_filename"]
    named = {Path(main).stem + Path(file).suffix: bundle / file for file in files}
    yield Model(base, bundle, named, value, labels)


def check_name(name: str) -> str:
    """The name, where a folder and a URL may be called so.

    Raises:
        UsageError: They may not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a model", "letters, digits, dots, dashes and underscores: --name N")
    return name


def _write(root: Path, model: Model, config: str) -> Any:
    """Bring one model's folder up to date; its version, and the bytes that were copied."""
    folder = root / model.name
    for place in (root, folder):
        if place.is_symlink() and not place.exists():
            raise UsageError(f"{place} is a link to nothing", "name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    jsonfile.sweep(folder)
    versions = sorted(int(one.name) for one in folder.iterdir() if _VERSION.fullmatch(one.name) and one.is_dir())
    copied = 0
    if versions and _same(folder / str(versions[-1]), model.files):
        version = versions[-1]
    else:
        version = versions[-1] + 1 if versions else 1
        with jsonfile.replacing_folder(folder / str(version)) as part:
            for name, source in model.files.items():
                shutil.copyfile(source, part / name)
                copied += source.stat().st_size
            _check(model, part)
            os.chmod(part, 0o755)  # noqa: S103  (Triton runs as a user of its own)
    if model.labels:
        _replace(folder / tritonconfig.LABELS, "".join(f"{label}\n" for label in model.labels))
    _replace(folder / "config.pbtxt", config)
    return version, copied


def _check(model: Model, part: Path) -> None:
    """The copies against the manifest: the bundle may have been built anew meanwhile."""
    listed = {entry["path"]: entry["sha256"] for entry in manifest.read(model.bundle)["files"]}
    for name, source in model.files.items():
        if jsonfile.sha256(part / name) != listed[source.name]:
            raise DamagedError(f"{source}: changed while it was copied", "run the same command again")


def _same(version: Path, files: Mapping[str, Path]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return {one.name for one in version.iterdir()} == set(files) and all(
            jsonfile.sha256(version / name) == jsonfile.sha256(source) for name, source in files.items()
        )
    return False


def _replace(path: Path, text: str) -> None:
    if path.is_file() and path.read_bytes() == text.encode("utf-8"):
        return
    with jsonfile.replacing_file(path) as part:
        part.write_text(text, encoding="utf-8")
