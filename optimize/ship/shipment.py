"""A shipment: a bundle and what a node needs besides, listed with their hashes in `shipment.json`.

Reading one trusts nothing: the list is held against its schema and its limits, the folder against the list, and every
byte against its hash, before anything of it is loaded.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Dict, List

from engines import fields, jsonfile, manifest
from engines.device import DeviceKey
from engines.errors import DamagedError
from engines.spec import PRECISIONS
from optimize.ship import trust

SCHEMA = "optimize.shipment/1"
NAME = "shipment.json"

MOST_FILES = 256
MOST_BYTES = 64 << 30
LARGEST_DOCUMENT = 4 << 20
"""Limits of what is taken: files, bytes of all of them, bytes of one JSON document."""

ROLES = ("manifest", "engine", "graph", "calibration", "golden")

REF = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
"""A name of a shipment, of at most `LONGEST_NAME` characters: a repository of the OCI distribution specification."""

LONGEST_NAME = 128

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""A plain file name: no folder, no hidden file, nothing that a shell or a file system reads otherwise."""

_HASH = re.compile(r"[0-9a-f]{64}")
_AGAIN = "ship it again, or pull it again"


def read(folder: Path) -> Dict[str, Any]:
    """Read shipment.json of a folder; unknown fields are kept.

    Raises:
        DamagedError: It is missing, a link, too large, not strict JSON, of another schema, or a field is wrong.
    """
    path = Path(folder) / NAME
    _plain(path)
    if os.stat(path).st_size > LARGEST_DOCUMENT:
        raise DamagedError(f"{path}: larger than {LARGEST_DOCUMENT >> 20} MiB, not a shipment", _AGAIN)
    return jsonfile.checked(path, SCHEMA, validate, _AGAIN)


def is_shipment(folder: Path) -> bool:
    """Whether a folder says of itself that it is a shipment, and not a bundle only."""
    return os.path.lexists(Path(folder) / NAME)


def validate(value: Any) -> None:
    """Check the value of a shipment.json.

    Raises:
        DamagedError: Names the field that is missing or wrong.
    """
    fields.of_schema(value, "a shipment", SCHEMA, _AGAIN)
    for name, check_field in _FIELDS.items():
        if name not in value:
            raise DamagedError(f"the field {name} is missing", _AGAIN)
        check_field(name, value[name])
    DeviceKey.from_json(value["device"])
    files = value["files"]
    if len(files) > MOST_FILES:
        raise DamagedError(f"files: {len(files)}, at most {MOST_FILES} are taken", _AGAIN)
    if sum(entry["bytes"] for entry in files) > MOST_BYTES:
        raise DamagedError(f"files: more than {MOST_BYTES >> 30} GiB in all", _AGAIN)
    names = [entry["path"].lower() for entry in files]
    if len(set(names)) != len(names):
        raise DamagedError("files: a name is listed twice", _AGAIN)
    for own in (NAME, trust.NAME):
        if own in names:
            raise DamagedError(f"files: {own} cannot list itself or its signature", _AGAIN)
    for role, least, most in (("manifest", 1, 1), ("engine", 1, MOST_FILES), ("graph", 0, 1), ("golden", 0, 1)):
        count = sum(entry["role"] == role for entry in files)
        if not least <= count <= most:
            raise DamagedError(f"files: {count} of the role {role}", _AGAIN)
    about = {**value["manifest"], "path": manifest.NAME, "role": "manifest"}
    if not any({key: entry[key] for key in about} == about for entry in files):
        raise DamagedError(f"files: {manifest.NAME} is not listed as `manifest` says it is", _AGAIN)
    golden = value["golden"]
    if golden is not None and not any((e["path"], e["role"]) == (golden["file"], "golden") for e in files):
        raise DamagedError(f"golden: {golden['file']} is not listed", _AGAIN)


def files(value: Dict[str, Any], role: str) -> List[str]:
    """The names of the files of a role."""
    return [str(entry["path"]) for entry in value["files"] if entry["role"] == role]


def check(folder: Path, policy: trust.Policy = trust.ANY, name: str = "") -> Dict[str, Any]:
    """Hold a shipment against its own list, byte for byte, and its signature against a policy; nothing is loaded.

    Args:
        folder: The shipment.
        policy: Which signatures are asked.
        name: See `trust.verify`.

    Returns:
        The value of shipment.json, with `signed_by`: the id of the trusted key that signed it, or None.

    Raises:
        DamagedError: A file is missing, too much, a link, special, or not what its hash says; or a document is wrong.
        TrustError: See `trust.verify`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DamagedError(f"{folder}: no such shipment", _AGAIN)
    _plain(folder / NAME)
    signed_by = trust.verify(folder, policy, name)
    value = read(folder)
    listed = {entry["path"]: entry for entry in value["files"]}
    for path in sorted(folder.iterdir()):
        _plain(path)
        if path.name not in listed and path.name not in (NAME, trust.NAME):
            raise DamagedError(f"{path}: a file that {NAME} does not list", _AGAIN)
    for file, entry in listed.items():
        _plain(folder / file)
        size = os.lstat(folder / file).st_size
        if size != entry["bytes"]:
            raise DamagedError(f"{folder / file}: {size} bytes, {NAME} says {entry['bytes']}", _AGAIN)
    for file, entry in listed.items():
        if jsonfile.sha256(folder / file) != entry["sha256"]:
            raise DamagedError(f"{folder / file}: one byte or more changed on the way (SHA-256 differs)", _AGAIN)
    _same_as_manifest(folder, value, listed)
    return {**value, "signed_by": signed_by}


def _same_as_manifest(folder: Path, value: Dict[str, Any], listed: Dict[str, Dict[str, Any]]) -> None:
    about = manifest.read(folder)
    told = {
        "device": DeviceKey.from_json(about["device"]) == DeviceKey.from_json(value["device"]),
        "precision": about["precision"] == value["precision"],
        "model": about["model"]["sha256"] == value["model"]["sha256"],
    }
    for name, same in told.items():
        if not same:
            raise DamagedError(f"{folder}: {NAME} and {manifest.NAME} do not tell the same {name}", _AGAIN)
    engine = {name for name, entry in listed.items() if entry["role"] == "engine"}
    if engine != {entry["path"] for entry in about["files"]}:
        raise DamagedError(f"{folder}: {NAME} and {manifest.NAME} do not list the same engine files", _AGAIN)
    for entry in about["files"]:
        if listed[entry["path"]]["sha256"] != entry["sha256"]:
            raise DamagedError(f"{folder / entry['path']}: not the file that was built (SHA-256 differs)", _AGAIN)


def _plain(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing", _AGAIN) from None
    if not stat.S_ISREG(mode):
        raise DamagedError(f"{path}: a link, folder or special file, where a plain file is expected", _AGAIN)


def is_name(text: str) -> bool:
    """Whether a shipment may have this name."""
    return len(text) <= LONGEST_NAME and REF.fullmatch(text) is not None


def _name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not is_name(value):
        raise fields.wrong(name, value, "a name of lower-case letters, digits, '.', '_' and '-'")


_sha256 = fields.matching(_HASH, "a SHA-256 in hex")
_bytes = fields.whole(0, MOST_BYTES)
_file = fields.matching(FILE, "a plain file name, without folders,")
_tolerance = fields.an_object(cosine=fields.between(-1, 1), relative=fields.between(0, 1e6))

_FIELDS: Dict[str, fields.Check] = {
    "name": _name,
    "created": fields.matching(
        re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "a UTC time such as 2024-05-01T12:00:00Z"
    ),
    "manifest": fields.an_object(sha256=_sha256, bytes=_bytes),
    "files": fields.a_list(
        fields.an_object(path=_file, sha256=_sha256, bytes=_bytes, role=fields.one_of(*ROLES)),
        2,
    ),
    "device": fields.an_object(),
    "model": fields.an_object(name=fields.word, sha256=_sha256),
    "precision": fields.one_of(*PRECISIONS),
    "golden": fields.null_or(
        fields.an_object(
            file=_file,
            n=fields.whole(1, 1 << 16),
            tolerance=fields.an_object(engine=_tolerance, float=_tolerance),
            latency_ms=fields.null_or(
                fields.an_object(batch=fields.whole(1, 1 << 20), p50=fields.between(0, 1e9), p99=fields.between(0, 1e9))
            ),
        )
    ),
    "provenance": fields.an_object(),
}
"""Required fields, and what each must be."""
