"""Where each thing lies in a store made of files, as a path below its root; names from outside are checked here."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Tuple

from engines import fields, jsonfile
from engines.errors import DamagedError, UsageError
from optimize.ship.store import AGAIN

STORE = "store.json"
STORE_SCHEMA = "optimize.store/1"
REF_SCHEMA = "optimize.ref/1"
BLOBS = "blobs/sha256"
REFS = "refs"

PARTS = (".*.part", f"{BLOBS}/.*.part", f"{REFS}/*/.*.part")
"""Where what is not whole yet lies; see `is_part`."""

_PART = re.compile(r"\.(?:[0-9a-f]{64}|.+\.[0-9a-f]{16})\.part")

FORGOTTEN_S = 24 * 3600
"""Seconds after which a part that nobody has added to is one that nobody goes on with."""

DOCUMENT = 4 << 20
"""Largest document, bytes: no manifest of a registry is larger (the distribution specification's bound)."""

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LONGEST_NAME = 128


def name(text: str) -> str:
    """The name, where it is one.

    Raises:
        UsageError: It is none: it could lead out of the store.
    """
    if not is_name(text):
        raise UsageError(
            f"{text!r} is no name", "lower-case letters, digits, and single . _ - between them, as resnet34-fp16"
        )
    return text


def is_name(text: str) -> bool:
    """Whether it is one."""
    return len(text) <= _LONGEST_NAME and bool(_NAME.fullmatch(text))


def tag(text: str) -> str:
    """The tag, where it is one.

    Raises:
        UsageError: It is none.
    """
    if not _TAG.fullmatch(text):
        raise UsageError(f"{text!r} is no tag", "letters, digits, . _ -, as latest or v1.2")
    return text


def hexadecimal(digest: str) -> str:
    """The 64 digits of `sha256:<64 hex>`.

    Raises:
        DamagedError: Another form, as a hostile document could hold.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise DamagedError(f"{digest!r} is no digest: sha256: and 64 hexadecimal digits are expected")
    return match.group(1)


def blob(digest: str) -> str:
    """Of a blob or document."""
    return f"{BLOBS}/{hexadecimal(digest)}"


def part(digest: str) -> str:
    """Of a blob that is not whole yet."""
    return f"{BLOBS}/.{hexadecimal(digest)}.part"


def is_part(name_: str) -> bool:
    """Whether a file is named as what is not whole yet: of a blob (`part`) or a document (`.NAME.<16 hex>.part`)."""
    return _PART.fullmatch(name_) is not None


def ref(name_: str, tag_: str) -> str:
    """Of the file that says what a name and tag point to."""
    return f"{REFS}/{name(name_)}/{tag(tag_)}.json"


def named(key: str) -> Tuple[str, str]:
    """Name and tag of a `ref` key; two empty words for a file that is none."""
    pieces = key.split("/")
    if len(pieces) != 3 or pieces[0] != REFS or not pieces[2].endswith(".json"):
        return "", ""
    found = pieces[1], pieces[2][: -len(".json")]
    return found if _NAME.fullmatch(found[0]) and _TAG.fullmatch(found[1]) else ("", "")


def to_ref(digest: str) -> bytes:
    """The file that points to a digest."""
    hexadecimal(digest)
    return text({"schema": REF_SCHEMA, "digest": digest})


def text(value: object) -> bytes:
    """JSON in one line, keys sorted: equal values are equal bytes."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def from_ref(data: bytes, where: str) -> str:
    """Digest in a file that points to one.

    Raises:
        DamagedError: It is no such file.
        NewerError: Of a newer schema.
    """
    digest = document(data, REF_SCHEMA, where).get("digest")
    if not isinstance(digest, str):
        raise DamagedError(f"{where}: the digest is missing", AGAIN)
    hexadecimal(digest)
    return digest


def document(data: bytes, schema: str, where: str) -> Dict[str, Any]:
    """A small JSON document of ours.

    Raises:
        DamagedError: Not strict JSON, not an object, or of another schema.
        NewerError: Of a newer major of this schema.
    """
    try:
        value = jsonfile.loads(data.decode("utf-8"))
    except ValueError as error:
        raise DamagedError(f"{where}: not valid JSON ({error})") from None
    found = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(value, dict) or found != schema:
        raise fields.other_schema(found, schema, where)
    return value
