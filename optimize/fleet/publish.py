"""Shipments of a fleet: made on the board that builds, fetched, put into the store, pulled by every board of the class.

What comes from a board is checked before it is used: names, the archive's members, every hash, the device.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence
from urllib.parse import unquote, urlsplit

from engines import fields, jsonfile, manifest
from engines.errors import DamagedError, GateError, OptimizeError
from engines.spec import Progress, quiet
from optimize.fleet import jobs, playbook
from optimize.fleet import plan as plans
from optimize.fleet.boards import Board
from optimize.ship import fetch, oci, shipment, trust
from optimize.ship.prepare import prepare
from optimize.ship.url import open_store

ARCHIVE = "shipments.tar"

_LINE = re.compile(r"\\?([0-9a-f]{64}) [ *](.+)")

_KEPT = re.compile(
    r"store\.json|blobs/sha256/[0-9a-f]{64}|refs/[a-z0-9][a-z0-9._-]{0,127}/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\.json"
)
"""Files of a folder store."""


def bundles(answer: playbook.Answer, plan: plans.Plan) -> Dict[str, Any]:
    """What a board has built and may be shipped, by the answer of `optimize build --json`.

    Returns:
        `names`: the bundle's folder of each shipment's name; `failures`: precision and why of those that are missing.

    Raises:
        OptimizeError: Nothing; with the reason, and GateError where it was built and is not good enough.
    """
    if answer.lost or not answer.commands:
        raise OptimizeError(answer.message or "it did not build")
    value = playbook.document(answer.commands[-1]) or {}
    names: Dict[str, str] = {}
    failures = {str(one.get("precision")): str(one.get("message")) for one in _objects(value.get("failures"))}
    for one in _objects(value.get("bundles")):
        precision, gate = jobs.plain(one.get("precision")), one.get("gate")
        if isinstance(gate, dict) and gate.get("passed") is not True:
            reasons = gate.get("reasons")
            failures[precision] = "; ".join(map(str, reasons if isinstance(reasons, list) else []))
            failures[precision] = failures[precision] or "the gate was not met"
            continue
        names[f"{plan.name}-{precision}"] = jobs.plain(Path(str(one.get("path"))).name)
    if names:
        return {"names": names, "failures": failures}
    error = playbook.error_of(answer.commands[-1])
    if error and error.get("exit_code") == GateError.exit_code:
        raise GateError(answer.message)
    raise OptimizeError(answer.message or "no bundle was built")


def received(folder: Path, built: Dict[str, Any], plan: plans.Plan, board: Board) -> Dict[str, Any]:
    """Take the shipments out of the archive that a board has sent, and check them.

    Args:
        folder: Of the class; `ARCHIVE` is there.
        built: Of `bundles`.
        plan: Gives the tag.
        board: The one that has built; its engines must be for its device.

    Returns:
        `built` with `variants`: by name `variant` (digest), `precision`, `build_key`, `flags`, `folder`.

    Raises:
        DamagedError: The archive or a shipment in it is not what it must be, or is for another device.
    """
    incoming = folder / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    _unpack(folder / ARCHIVE, incoming)
    store = open_store(str(incoming))
    variants: Dict[str, Dict[str, Any]] = {}
    try:
        for name in built["names"]:
            index = fetch.find(store, name, plan.tag)
            fits = [entry for entry in index.entries if entry.device == board.key]
            if len(fits) != 1:
                raise DamagedError(f"{name}: {len(fits)} variants for the device that {board.name} says it is")
            place = fetch.fetch(store, name, fits[0], folder / "shipments")
            about = manifest.read(place)
            variants[name] = {
                "variant": fits[0].digest,
                "precision": about["precision"],
                "build_key": about["build_key"],
                "flags": about["flags"],
                "folder": place.name,
            }
    finally:
        store.close()
        shutil.rmtree(incoming, ignore_errors=True)
    (folder / ARCHIVE).unlink()
    return {**built, "variants": variants}


def whole(folder: Path, built: Mapping[str, Any]) -> bool:
    """Whether what was fetched of a class is still there, byte for byte."""
    try:
        for one in built.get("variants", {}).values():
            shipment.check(folder / "shipments" / one["folder"])
        return all(
            jsonfile.sha256(folder / f"{name}.plan") == digest for name, digest in built.get("plans", {}).items()
        )
    except (OptimizeError, OSError):
        return False


def signed(folder: Path, built: Mapping[str, Any], key: Path) -> Dict[str, Any]:
    """Sign the shipments of a class, on the control node: copies beside them, of hard links.

    Returns:
        `built` with the `variants` that the signatures make of them, and `signed_by`, the id of the key, in each.
    """
    variants: Dict[str, Dict[str, Any]] = {}
    for name, one in built["variants"].items():
        about = {**one, "signed_by": trust.signer(key)}
        about["folder"] = f"{one['folder']}-{about['signed_by']}"
        place = folder / "shipments" / about["folder"]
        prepare(folder / "shipments" / one["folder"], place, name, key)
        variants[name] = {**about, "variant": oci.digest_of(oci.variant(place))}
    return {**built, "variants": variants}


def publish(
    folder: Path, built: Mapping[str, Any], store: str, plan: plans.Plan, progress: Progress = quiet
) -> Dict[str, Any]:
    """Put the shipments of a class into the store of the fleet, beside those of other classes.

    Returns:
        By name: `digest` of the index, `variant`, `precision`.

    Raises:
        OptimizeError: The store failed, or it holds something else than what was built.
    """
    from optimize.ship.send import ship

    found: Dict[str, Any] = {}
    for name, one in built["variants"].items():
        done = ship([folder / "shipments" / one["folder"]], store, name=name, tag=plan.tag, progress=progress)
        if [entry["variant"] for entry in done["variants"]] != [one["variant"]]:
            raise DamagedError(f"{name}: what was published is not what was built")
        found[name] = {"digest": done["digest"], "variant": one["variant"], "precision": one["precision"]}
    return found


def current(store: str, published: Mapping[str, Mapping[str, Any]], plan: plans.Plan) -> Dict[str, Any]:
    """The same with the digest that each name points to now: the class that is published last changes it for all.

    Raises:
        DamagedError: A variant is not in the index any more.
    """
    found: Dict[str, Any] = {}
    opened = open_store(store)
    try:
        for name, one in published.items():
            index = fetch.find(opened, name, plan.tag)
            if one["variant"] not in [entry.digest for entry in index.entries]:
                raise DamagedError(f"{store}: {name}:{plan.tag} does not hold the variant of this class any more")
            found[name] = {**one, "digest": index.digest}
    finally:
        opened.close()
    return found


def is_folder(store: str) -> bool:
    """Whether a store is a folder, which boards do not reach."""
    return ":" not in store or store.startswith("file://")


def pack(store: str, published: Mapping[str, Mapping[str, Any]], plan: plans.Plan, target: Path) -> None:
    """Write an archive of the part of a folder store that one class needs."""
    root = Path(unquote(urlsplit(store).path) if store.startswith("file://") else store)
    names = {"store.json"} if (root / "store.json").is_file() else set()
    opened = open_store(store)
    try:
        for name, one in published.items():
            variant = opened.get_document(name, one["variant"], shipment.LARGEST_DOCUMENT)
            digests = [one["digest"], one["variant"], *(blob.digest for blob in oci.read_variant(variant))]
            names |= {f"blobs/sha256/{digest.partition(':')[2]}" for digest in digests}
            names.add(f"refs/{name}/{plan.tag}.json")
    finally:
        opened.close()
    with jsonfile.replacing_file(target) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(names):
            archive.add(root / name, name, recursive=False, filter=_bare)


def _bare(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and times, so that equal content gives an equal archive, which is not sent twice."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = 0, 0o644
    return member


def _unpack(archive: Path, target: Path) -> None:
    """Unpack a folder store that a board has packed: plain files under the names of a store, and nothing else.

    Raises:
        DamagedError: Anything else is in it, or too much.
    """
    try:
        with tarfile.open(archive, "r:") as opened:
            left, count = shipment.MOST_BYTES, 0
            for member in opened:
                name = member.name[2:] if member.name.startswith("./") else member.name
                if member.isdir():
                    continue
                left, count = left - member.size, count + 1
                if not member.isreg() or member.size < 0 or not _KEPT.fullmatch(name):
                    raise DamagedError(f"{archive}: {member.name[:80]!r} is no file of a store")
                if left < 0 or count > 16 * shipment.MOST_FILES:
                    raise DamagedError(f"{archive}: more than a store of this plan may hold")
                source = opened.extractfile(member)
                assert source is not None
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with source, open(path, "xb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, FileExistsError, FileNotFoundError) as error:
        raise DamagedError(f"{archive}: not a whole archive ({error})") from None


def files(folder: Path, built: Mapping[str, Any]) -> Dict[str, Dict[str, str]]:
    """SHA-256 of every file of a class's shipments, by name and file."""
    found: Dict[str, Dict[str, str]] = {}
    for name, one in built["variants"].items():
        place = folder / "shipments" / one["folder"]
        found[name] = {path.name: jsonfile.sha256(path) for path in sorted(place.iterdir())}
    return found


def pulled(answer: playbook.Answer, expected: Mapping[str, Mapping[str, str]]) -> Dict[str, Any]:
    """See that a board has every file of its class's build, byte for byte, by what sha256sum says there.

    Args:
        answer: Its last command lists hashes and paths.
        expected: Of `files`.

    Returns:
        `places`: by name the folder of the board that holds the shipment; `files`: how many were compared.

    Raises:
        DamagedError: A file is missing, too much, or another one.
    """
    there: Dict[str, Dict[str, str]] = {}
    for line in str(answer.commands[-1]["stdout"]).splitlines():
        found = _LINE.fullmatch(line)
        parts = Path(found.group(2)).parts if found else ()
        if found is None or len(parts) < 3 or any(part.startswith(".") for part in parts):
            continue
        there.setdefault("/".join(map(jobs.plain, parts[:-1])), {})[parts[-1]] = found.group(1)
    places: Dict[str, str] = {}
    for name, wanted in expected.items():
        place = next((p for p, has in there.items() if p.split("/")[1] == name and has == wanted), None)
        if place is None:
            raise DamagedError(f"{name}: the files on the board are not those that were shipped")
        places[name] = place
    return {"places": places, "files": sum(map(len, expected.values()))}


def active(answer: playbook.Answer, name: str, expected: Mapping[str, Any]) -> Dict[str, Any]:
    """See that the node of a board serves what it should, by the answer of `optimize node status --json`.

    Raises:
        DamagedError: It serves something else.
    """
    value = serving(answer)
    serves = value["variant"] if value else ""
    if value is None or serves.replace("sha256:", "") != expected["variant"].replace("sha256:", ""):
        raise DamagedError(f"{name}: the node serves {serves[:80] or 'nothing'}, not {expected['variant']}")
    return {key: value.get(key) for key in ("name", "tag", "digest", "variant", "verified")}


def serving(answer: playbook.Answer) -> Optional[Dict[str, Any]]:
    """What the node of a board has active, by the answer of `optimize node status --json`; None where nothing is.

    Raises:
        DamagedError: It does not tell that.
    """
    value: Optional[Dict[str, Any]] = None
    if answer.commands:
        value = (playbook.document(answer.commands[-1]) or {}).get("active")
    _ACTIVE("active", value)
    return value


_ACTIVE = fields.null_or(
    fields.an_object(variant=fields.word, **dict.fromkeys(("name", "tag"), fields.null_or(fields.word)))
)


def told(built: Mapping[str, Any], published: Mapping[str, Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """The bundles of a class as `--json` prints them."""
    found: List[Dict[str, Any]] = []
    for name, one in built.get("variants", {}).items():
        about = {key: one[key] for key in ("precision", "build_key", "flags", "variant")}
        about["signed_by"] = one.get("signed_by", "")
        found.append({**about, "name": name, "digest": published.get(name, {}).get("digest", "")})
    for name, digest in built.get("plans", {}).items():
        precision = name.partition("-")[0]
        about = {"precision": precision, "build_key": digest, "flags": [], "name": name}
        found.append({**about, **dict.fromkeys(("variant", "signed_by", "digest"), "")})
    return found


def _objects(value: Any) -> Sequence[Dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
