"""What a node knows of each version: where it came from, when it was activated and over which, and what was checked.

A version is a whole shipment under `versions/<variant>`; its record lies beside, in `records/<variant>.json`, so that
nothing is ever added to a shipment. A record is written before the step that makes it true: it counts only once the
version is there, and the fields of an activation only while the link `active` points to it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Match, Optional

from engines import fields, jsonfile
from engines.errors import DamagedError, OptimizeError, UsageError
from optimize.ship import journal, shipment

SCHEMA = "optimize.version/1"

VARIANT = re.compile(r"[0-9a-f]{64}")

_REFERENCE = re.compile(
    r"(?P<name>[a-z0-9]+(?:[._-][a-z0-9]+)*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_PREFIX = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{8,64})")

_PULL = "optimize pull NAME --from URL"


def versions(folder: Path) -> Path:
    """Where the whole shipments of a node are, a folder each, named by the digest of their manifest."""
    return folder / "versions"


def present(folder: Path) -> List[str]:
    """Variants that are there, whole: they appear in one rename."""
    place = versions(folder)
    if not place.is_dir():
        return []
    return sorted(p.name for p in place.iterdir() if VARIANT.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def path_of(folder: Path, variant: str) -> Path:
    """The file of a record."""
    return folder / "records" / f"{variant}.json"


def read(folder: Path, variant: str) -> Dict[str, Any]:
    """The record of a version that is there; what is not known, or cannot be read any more, is null or nothing."""
    found: Dict[str, Any] = {}
    try:
        found = jsonfile.checked(path_of(folder, variant), SCHEMA, lambda value: _check("record", value))
    except (FileNotFoundError, DamagedError):
        found = {"name": _named(versions(folder) / variant)}
    return {**_UNKNOWN, **found, "schema": SCHEMA, "variant": variant}


def write(folder: Path, record: Dict[str, Any]) -> None:
    """Keep a record: on the disk when this returns."""
    _check("record", record)
    jsonfile.write(path_of(folder, record["variant"]), record)


def all_of(folder: Path) -> List[Dict[str, Any]]:
    """The records of every version that is there, the last one pulled first."""
    return sorted((read(folder, v) for v in present(folder)), key=lambda r: (-r["pulled"], r["variant"]))


def next_number(folder: Path) -> int:
    """A number larger than all that records and journal hold: the order of things, which no clock tells."""
    line = journal.last(folder)
    numbers = [line["sequence"]] if line else []
    for record in all_of(folder):
        numbers += [record["pulled"], record["activated"]]
    return 1 + max((number for number in numbers if number < journal.MOST), default=0)


def find(folder: Path, reference: Optional[str]) -> Dict[str, Any]:
    """The version that a user means.

    Args:
        folder: Of the node.
        reference: NAME, NAME:TAG, NAME@sha256:DIGEST, or eight digits or more of a digest; None is the one pulled last.

    Returns:
        Its record; of several the one that was pulled last.

    Raises:
        UsageError: No such version here; names those that are.
    """
    known = all_of(folder)
    if not known:
        raise UsageError(f"{folder}: no version was pulled yet", _PULL)
    if reference is None:
        return known[0]
    match = _REFERENCE.fullmatch(reference)
    named = next((one for one in known if _is_named(one, match)), None) if match else None
    if named is not None:
        return named
    prefix = _PREFIX.fullmatch(reference)
    if prefix:
        begun = [r for r in known if any(d.startswith(prefix["hex"]) for d in _digests(r))]
        if len({r["variant"] for r in begun}) > 1:
            raise UsageError(f"{reference} is the beginning of {len(begun)} digests", "give more digits of it")
        if begun:
            return begun[0]
    raise UsageError(f"{reference}: no such version on this node; there are {', '.join(map(title, known))}", _PULL)


def _is_named(record: Dict[str, Any], match: Match[str]) -> bool:
    tag, digest = match["tag"] or record["tag"], match["digest"]
    digests = (None, record["digest"], f"sha256:{record['variant']}")
    return (record["name"], record["tag"]) == (match["name"], tag) and digest in digests


def title(record: Dict[str, Any]) -> str:
    """NAME:TAG, and the beginning of the variant that tells it from others."""
    tag = f":{record['tag']}" if record["tag"] else ""
    return f"{record['name']}{tag} ({record['variant'][:12]})"


def whence(record: Dict[str, Any]) -> Dict[str, Any]:
    """The fields of a record that stand in a line of the journal."""
    return {key: record[key] for key in ("name", "tag", "digest", "variant", "url")}


def _digests(record: Dict[str, Any]) -> List[str]:
    return [record["variant"], (record["digest"] or "").replace("sha256:", "")]


def _named(version: Path) -> str:
    try:
        return str(shipment.read(version)["name"])
    except (OSError, OptimizeError):
        return "unknown"


_UNKNOWN: Dict[str, Any] = {
    "name": "unknown",
    "tag": None,
    "digest": None,
    "url": None,
    "content": None,
    "pulled": 0,
    "pulled_at": None,
    "activated": 0,
    "activated_at": None,
    "before": None,
    "verified": False,
    "golden": None,
    "health": None,
}

_variant = fields.matching(VARIANT, "64 hex digits")
_count = fields.whole(0, journal.MOST)
_some = fields.null_or(fields.word)
_check = fields.an_object(
    variant=_variant,
    name=fields.word,
    tag=_some,
    digest=_some,
    url=_some,
    content=_some,
    pulled=_count,
    pulled_at=_some,
    activated=_count,
    activated_at=_some,
    before=fields.null_or(_variant),
    verified=fields.truth,
    golden=fields.null_or(fields.an_object()),
    health=_some,
)
