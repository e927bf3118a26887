"""Shipments as OCI documents: an image manifest for each variant, and an index of the variants of a name.

Media types and fields are those of the OCI image specification 1.1. Documents of ours are canonical JSON (sorted keys,
no spaces, UTF-8), so that equal content has an equal digest; those of others need only be strict.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from engines import fields, jsonfile
from engines.device import DeviceKey
from engines.errors import DamagedError
from optimize.ship import shipment, trust

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
BUNDLE = "application/vnd.optimize.bundle.v1"
CONFIG = "application/vnd.optimize.shipment.v1+json"
FILE = "application/octet-stream"

TITLE = "org.opencontainers.image.title"
DEVICE = "org.optimize.device"
MODEL = "org.optimize.model"
PRECISION = "org.optimize.precision"

MOST_VARIANTS = 1024

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""What OCI calls an instruction set; others keep their name."""

_OTHER = "name another shipment; optimize ship makes one"


class Blob(NamedTuple):
    """A file of a variant: its plain name, digest and size in bytes."""

    name: str
    digest: str
    size: int


class Entry(NamedTuple):
    """A variant in an index.

    Attributes:
        digest, size: Of its image manifest.
        device: What its engine is tied to.
        model: SHA-256 of the model that it was built from, in hex.
        precision: What was asked of the build.
    """

    digest: str
    size: int
    device: DeviceKey
    model: str
    precision: str


class Index(NamedTuple):
    """What NAME:TAG points to, with the digest of the document that told it."""

    name: str
    tag: str
    digest: str
    entries: Tuple[Entry, ...]


def digest_of(content: bytes) -> str:
    """`sha256:` and the hash of a document."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, without spaces, in UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def parse(content: bytes, what: str) -> Dict[str, Any]:
    """Strict JSON of an object.

    Raises:
        DamagedError: Too large, not strict JSON, or no object.
    """
    if len(content) > shipment.LARGEST_DOCUMENT:
        raise DamagedError(f"{what}: larger than {shipment.LARGEST_DOCUMENT >> 20} MiB", _OTHER)
    try:
        value = jsonfile.loads(content.decode("utf-8"))
    except ValueError as error:
        raise DamagedError(f"{what}: not valid JSON ({error})", _OTHER) from None
    if not isinstance(value, dict):
        raise DamagedError(f"{what}: a JSON object is expected", _OTHER)
    return value


def blobs(folder: Path) -> List[Blob]:
    """Every file of a shipment that is whole, shipment.json first and its signature last."""
    value = shipment.read(folder)
    found = [_measured(folder, shipment.NAME)]
    found += [Blob(entry["path"], f"sha256:{entry['sha256']}", entry["bytes"]) for entry in value["files"]]
    if (folder / trust.NAME).exists():
        found.append(_measured(folder, trust.NAME))
    return found


def _measured(folder: Path, name: str) -> Blob:
    return Blob(name, "sha256:" + jsonfile.sha256(folder / name), (folder / name).stat().st_size)


def variant(folder: Path) -> bytes:
    """The image manifest of a shipment that is whole."""
    config, *layers = blobs(folder)
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": BUNDLE,
            "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
            "layers": [
                {"mediaType": FILE, "digest": one.digest, "size": one.size, "annotations": {TITLE: one.name}}
                for one in layers
            ],
        }
    )


def read_variant(content: bytes) -> List[Blob]:
    """The files of a variant by its image manifest, shipment.json first.

    Raises:
        DamagedError: Not the manifest of a shipment, or beyond the limits of one.
    """
    what = "image manifest"
    value = parse(content, what)
    if value.get("mediaType", MANIFEST) != MANIFEST or value.get("artifactType") != BUNDLE:
        kind = value.get("artifactType") or value.get("mediaType")
        raise DamagedError(f"{what}: {str(kind)[:80]!r} is no shipment of engines", _OTHER)
    _MANIFEST(what, value)
    config = value["config"]
    found = [Blob(shipment.NAME, config["digest"], config["size"])]
    for layer in value["layers"]:
        found.append(Blob(layer["annotations"][TITLE], layer["digest"], layer["size"]))
    if len(found) > shipment.MOST_FILES + 2:
        raise DamagedError(f"{what}: {len(found)} files, at most {shipment.MOST_FILES} are taken", _OTHER)
    if sum(one.size for one in found) > shipment.MOST_BYTES + shipment.LARGEST_DOCUMENT:
        raise DamagedError(f"{what}: more than {shipment.MOST_BYTES >> 30} GiB in all", _OTHER)
    if config["size"] > shipment.LARGEST_DOCUMENT:
        raise DamagedError(f"{what}: {shipment.NAME} is larger than {shipment.LARGEST_DOCUMENT >> 20} MiB", _OTHER)
    names = [one.name.lower() for one in found]
    if len(set(names)) != len(names):
        raise DamagedError(f"{what}: a file is listed twice", _OTHER)
    return found


def entry(folder: Path, content: bytes) -> Entry:
    """The entry of a shipment, given its image manifest."""
    value = shipment.read(folder)
    device = DeviceKey.from_json(value["device"])
    return Entry(digest_of(content), len(content), device, value["model"]["sha256"], value["precision"])


def index(entries: Sequence[Entry]) -> bytes:
    """The index of some variants, in the order of their digests."""
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "artifactType": BUNDLE,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "artifactType": BUNDLE,
                    "digest": one.digest,
                    "size": one.size,
                    "platform": platform(one.device),
                    "annotations": {
                        DEVICE: canonical(one.device.to_json()).decode("utf-8"),
                        MODEL: one.model,
                        PRECISION: one.precision,
                    },
                }
                for one in sorted(entries, key=lambda one: one.digest)
            ],
        }
    )


def platform(device: DeviceKey) -> Dict[str, str]:
    """A device as OCI names its operating system and instruction set."""
    return {"os": device.os, "architecture": _ARCHITECTURES.get(device.arch, device.arch)}


def read_index(content: bytes, name: str, tag: str, digest: Optional[str] = None) -> Index:
    """The variants of an index.

    Raises:
        DamagedError: Not the index of shipments, or two variants of one device.
    """
    what = f"index of {name}"
    value = parse(content, what)
    if value.get("mediaType", INDEX) != INDEX or not isinstance(value.get("manifests"), list):
        raise DamagedError(f"{what}: {str(value.get('mediaType'))[:80]!r} is no index of shipments", _OTHER)
    if len(value["manifests"]) > MOST_VARIANTS:
        raise DamagedError(f"{what}: more than {MOST_VARIANTS} variants", _OTHER)
    _INDEX(what, value)
    found = []
    for one in value["manifests"]:
        notes = one["annotations"]
        try:
            device = DeviceKey.from_json(jsonfile.loads(notes[DEVICE]))
        except ValueError as error:
            raise DamagedError(f"{what}: {DEVICE} is not valid JSON ({error})", _OTHER) from None
        found.append(Entry(one["digest"], one["size"], device, notes[MODEL], notes[PRECISION]))
    if len({one.device for one in found}) != len(found):
        raise DamagedError(f"{what}: two variants for one device", _OTHER)
    return Index(name, tag, digest or digest_of(content), tuple(found))


_digest = fields.matching(DIGEST, "a digest such as sha256:<64 hex digits>")
_size = fields.whole(0, shipment.MOST_BYTES)

_MANIFEST = fields.an_object(
    schemaVersion=fields.whole(2, 2),
    config=fields.an_object(mediaType=fields.one_of(CONFIG), digest=_digest, size=_size),
    layers=fields.a_list(
        fields.an_object(
            digest=_digest,
            size=_size,
            annotations=fields.an_object(**{TITLE: fields.matching(shipment.FILE, "a plain file name")}),
        ),
        1,
    ),
)

_INDEX = fields.an_object(
    schemaVersion=fields.whole(2, 2),
    manifests=fields.a_list(
        fields.an_object(
            digest=_digest,
            size=fields.whole(1, shipment.LARGEST_DOCUMENT),
            annotations=fields.an_object(
                **{
                    DEVICE: fields.word,
                    MODEL: fields.matching(re.compile(r"[0-9a-f]{64}"), "a SHA-256 in hex"),
                    PRECISION: fields.word,
                }
            ),
        )
    ),
)
