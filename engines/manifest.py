"""The manifest of a bundle: what an engine is, what it was checked against, and whether it will run here.

A bundle is a folder with `manifest.json` beside the untouched engine files. Everything here reads the manifest and the
bytes of the files; nothing of an engine is loaded before `runner_spec` has said that it is whole and fits.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from engines import fields, jsonfile
from engines.backend import ORDER, hint, unavailable
from engines.device import DeviceKey, device_key, mismatch
from engines.errors import DamagedError, IncompatibleError, UsageError
from engines.spec import PRECISIONS, RunnerSpec, TensorSpec

_AGAIN = "build the bundle again"

SCHEMA = "optimize.manifest/1"
NAME = "manifest.json"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_PLAN = re.compile(r"model-b[1-9][0-9]{0,6}\.plan")
_HASH = re.compile(r"[0-9a-f]{64}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_DTYPES = re.compile(r"bool|float(16|32|64)|u?int(8|16|32|64)")

_LARGEST = 1 << 40
"""Bytes of one engine file; a larger number in a manifest is no size."""

_ENGINE: Dict[str, Tuple[str, ...]] = {
    "openvino": (".xml", ".bin"),
    "onnxruntime": (".onnx",),
    "tensorrt": (".plan",),
}
"""Files that a backend loads, the one it is told about first; each must be listed with its hash."""


def path_of(bundle: Path) -> Path:
    """Where the manifest of a bundle is.

    Raises:
        FileNotFoundError, NotADirectoryError: No such bundle.
        DamagedError: A folder without a manifest, or one that is a link to somewhere else.
    """
    path = Path(bundle) / NAME
    if not stat.S_ISDIR(os.stat(bundle).st_mode):
        raise UsageError(f"{bundle} is not an engine bundle (a folder)", "optimize build MODEL --precision fp16")
    if path.is_symlink():
        raise DamagedError(f"{path}: a link, where a file is expected", _AGAIN)
    if not path.is_file():
        raise DamagedError(f"{bundle}: no {NAME} in it, so it is not a whole bundle", _AGAIN)
    return path


def read(bundle: Path) -> Dict[str, Any]:
    """Read and validate the manifest of a bundle; unknown fields are kept.

    Raises:
        DamagedError: It is missing, not strict JSON, of another schema, or a field is not what it must be.
    """
    path = path_of(bundle)
    value = jsonfile.read(path, SCHEMA)
    try:
        validate(value)
    except DamagedError as error:
        raise DamagedError(f"{path}: {error.message}", error.hint or _AGAIN) from None
    return value


def inside(folder: Path) -> List[str]:
    """Names of the bundles in a folder that is none itself, such as what `optimize build` makes; else none."""
    if os.path.lexists(Path(folder) / NAME):
        return []
    return sorted(one.parent.name for one in Path(folder).glob(f"*/{NAME}"))


def write(bundle: Path, value: Dict[str, Any]) -> None:
    """Validate a manifest and put it into the folder `bundle`, atomically.

    Raises:
        DamagedError: A field is not what it must be.
    """
    validate(value)
    jsonfile.write(Path(bundle) / NAME, value)


def validate(value: Any) -> None:
    """Check a manifest.

    Raises:
        DamagedError: Names the field that is missing or wrong.
    """
    fields.of_schema(value, "a manifest", SCHEMA, _AGAIN)
    for name, check in _FIELDS.items():
        if name not in value:
            raise DamagedError(f"the field {name} is missing", _AGAIN)
        check(name, value[name])
    for name, check in _OPTIONAL.items():
        if name in value:
            check(name, value[name])
    device = DeviceKey.from_json(value["device"])
    if device.backend != value["backend"]:
        raise DamagedError(f"device.backend is {device.backend!r}, backend is {value['backend']!r}", _AGAIN)
    names = [entry["path"].lower() for entry in value["files"]]
    if len(set(names)) != len(names):
        raise DamagedError("files: a name is listed twice", _AGAIN)
    engine_files(value)


def identity(value: Dict[str, Any]) -> Dict[str, str]:
    """Which engine a manifest is of, whatever else it tells: `build_key`, and `engine_sha256` over names and hashes.

    Builds are not deterministic, so that the key alone does not tell one engine from the next of the same build.
    """
    files = sorted((entry["path"], entry["sha256"]) for entry in value["files"])
    text = "".join(f"{sha256}  {path}\n" for path, sha256 in files)
    return {"build_key": value["build_key"], "engine_sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}


def engine_files(value: Dict[str, Any]) -> List[str]:
    """Names of the files that the backend loads, the first being the one it is told about.

    Raises:
        DamagedError: The manifest does not list one of them.
    """
    first, *others = _ENGINE[value["backend"]]
    names = [entry["path"] for entry in value["files"]]
    split = value["options"].get("plans")
    if split:
        for name in split.values():
            if name not in names:
                raise DamagedError(f"files: {name} is not listed", _AGAIN)
        return list(split.values())
    mains = [name for name in names if name.endswith(first)]
    if len(mains) != 1:
        raise DamagedError(f"files: one *{first} is expected for {value['backend']}, not {len(mains)}", _AGAIN)
    found = mains + [mains[0][: -len(first)] + other for other in others]
    for name in found[1:]:
        if name not in names:
            raise DamagedError(f"files: {name} is not listed", _AGAIN)
    return found


def check_files(bundle: Path) -> None:
    """Compare every file of a bundle with its manifest: there, a plain file, of the same size and SHA-256.

    Raises:
        DamagedError: Names the first file that is not.
    """
    for entry in read(bundle)["files"]:
        path = Path(bundle) / entry["path"]
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            raise DamagedError(f"{path}: missing, its manifest lists it", _AGAIN) from None
        if not stat.S_ISREG(found.st_mode):
            raise DamagedError(f"{path}: a link or special file, where a plain file is expected", _AGAIN)
        if found.st_size != entry["bytes"]:
            raise DamagedError(f"{path}: {found.st_size} bytes, its manifest says {entry['bytes']}", _AGAIN)
        if jsonfile.sha256(path) != entry["sha256"]:
            raise DamagedError(f"{path}: one byte or more changed since it was built (SHA-256 differs)", _AGAIN)


def why_not(bundle: Path) -> str:
    """Why a bundle will not run on this machine, from its manifest alone; empty where it will.

    Raises:
        DamagedError: The manifest is not whole.
    """
    return _why_not(read(bundle))[0]


def runner_spec(bundle: Path, base: Optional[RunnerSpec] = None) -> RunnerSpec:
    """How to load the engine of a bundle, after it is known to be whole and to fit this machine.

    Args:
        bundle: The folder.
        base: What it was opened with; its threads, given preprocessing and options are kept.

    Raises:
        IncompatibleError: Made for another device or backend version, or the backend is missing; says which.
        DamagedError: The manifest or a file is not what it was when it was built.
    """
    if os.path.islink(bundle):  # the link of a node may move on meanwhile: what is checked must be what is loaded
        bundle = Path(os.path.realpath(bundle))
    value = read(bundle)
    why, what_to_do = _why_not(value)
    if why:
        raise IncompatibleError(f"{bundle} will not run here: {why}", what_to_do)
    check_files(bundle)
    path = str(Path(bundle).resolve() / engine_files(value)[0])
    start = base if base is not None else RunnerSpec(path=path, kind="onnx")
    return start.with_(
        kind="onnx",
        path=path,
        backend=value["backend"],
        inputs=tuple(TensorSpec.from_json(item) for item in value["inputs"]),
        outputs=tuple(TensorSpec.from_json(item) for item in value["outputs"]),
        layout=value["layout"],
        task=value["task"],
        preprocess=start.preprocess if start.preprocess is not None else value["preprocess"],
        options={**value["options"], **start.options},
        form="",
        custom_objects=None,
        factory=None,
    )


def _why_not(value: Dict[str, Any]) -> Tuple[str, str]:
    """Reason and what to do; empty where it will run."""
    backend = value["backend"]
    here, made_for = device_key(backend), DeviceKey.from_json(value["device"])
    again = f"optimize build {value['model']['name']} --precision {value['precision']} --backend {backend}"
    missing = unavailable(backend)
    if missing and here.os == made_for.os and here.arch == made_for.arch:
        return missing, hint(backend)
    why = mismatch(made_for, here)
    if not why:
        return "", ""
    if backend != "tensorrt" and not mismatch(replace(made_for, version=here.version), here):
        return why, f"pip install {backend}=={made_for.version}, or: {again}"
    return why, again


_sha256 = fields.matching(_HASH, "a SHA-256 in hex")
_dataset = fields.an_object(name=fields.word, n=fields.whole(0, 1 << 40), sha256=fields.null_or(_sha256))
_tensors = fields.a_list(
    fields.an_object(
        name=fields.word,
        shape=fields.a_list(fields.null_or(fields.whole(0, 1 << 31))),
        dtype=fields.matching(_DTYPES, "a dtype such as float32"),
    ),
    1,
)


def _options(name: str, value: Any) -> None:
    """Free, but for what a backend acts on when it loads."""
    fields.an_object()(name, value)
    if "threads" in value:
        fields.whole(0, 4096)(f"{name}.threads", value["threads"])
    if "plans" in value:
        fields.an_object()(f"{name}.plans", value["plans"])
        for batch, file in value["plans"].items():
            fields.matching(_PLAN, "a plan of this bundle")(f"{name}.plans.{batch}", file)
    if "inference_precision" in value:
        fields.one_of("f32", "bf16", "f16")(f"{name}.inference_precision", value["inference_precision"])


_FIELDS: Dict[str, fields.Check] = {
    "name": fields.word,
    "created": fields.matching(_UTC, "a UTC time such as 2024-05-01T12:00:00Z"),
    "version": fields.word,
    "model": fields.an_object(name=fields.word, kind=fields.word, sha256=_sha256),
    "backend": fields.one_of(*ORDER),
    "precision": fields.one_of(*PRECISIONS),
    "achieved": fields.counts,
    "layers": fields.a_list(fields.an_object(name=fields.word, type=fields.word, precision=fields.word)),
    "files": fields.a_list(
        fields.an_object(
            path=fields.matching(_PLAIN, "a plain file name, without folders,"),
            sha256=_sha256,
            bytes=fields.whole(0, _LARGEST),
        ),
        1,
    ),
    "device": fields.an_object(),
    "inputs": _tensors,
    "outputs": _tensors,
    "layout": fields.one_of("", "NHWC", "NCHW"),
    "task": fields.one_of("classify", "tensors"),
    "preprocess": fields.null_or(fields.an_object()),
    "classes": fields.a_list(fields.word),
    "batches": fields.a_list(fields.whole(1, 1 << 20), 1),
    "options": _options,
    "onnx": fields.an_object(sha256=_sha256, opset=fields.whole(1, 1000)),
    "calibration": fields.null_or(
        fields.an_object(dataset=_dataset, samples=fields.whole(0, 1 << 31), method=fields.anything)
    ),
    "accuracy": fields.null_or(
        fields.an_object(
            top1=fields.null_or(fields.number),
            top1_drop=fields.null_or(fields.number),
            agreement=fields.null_or(fields.number),
            dataset=_dataset,
        )
    ),
    "check": fields.null_or(fields.an_object(data=fields.word, n=fields.whole(0, 1 << 31), max_abs=fields.number)),
    "gate": fields.null_or(fields.an_object(passed=fields.truth)),
    "build_key": fields.word,
    "flags": fields.a_list(fields.word),
    "seconds": fields.number,
}
"""Required fields, and what each must be."""

_OPTIONAL: Dict[str, fields.Check] = {
    "comparison": fields.an_object(
        asked=fields.whole(0, 1 << 31),
        met=fields.whole(0, 1 << 31),
        unread=fields.whole(0, 1 << 31),
        differ=fields.a_list(fields.an_object(name=fields.word, type=fields.word, asked=fields.word, ran=fields.word)),
    ),
}
"""Fields that manifests of earlier builds lack, and what each must be where it is."""
