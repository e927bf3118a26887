"""The folder of an inference node: versions of engines side by side, and one of them active.

    node.json         what the node asks of shipments, and how many it keeps
    trust/            public keys
    versions/         whole shipments, each under the digest of its manifest; partial ones in versions/.incoming
    records/          where each came from, and what was checked when it was activated
    active            a link to one of the versions: the only thing that decides which engine runs
    journal.jsonl     what happened
    lock              held by the one that writes

Whoever writes holds the lock, and begins by making up for what a killed writer has left undone. Whoever reads needs no
lock: everything here appears, changes and goes in one step.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from engines import fields, jsonfile
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.pipeline.stages import now
from optimize.ship import journal, link, lock, oci, records, retention, shipment, trust

SCHEMA = "optimize.node/1"
NAME = "node.json"

_DEFAULT = "~/.local/share/optimize/node"
_POLICY: Dict[str, Any] = {"require_signature": False, "keep": 3}

_MOST = 1000

Folder = Union[str, Path, None]
"""Of a node, as a user names it: see `home`."""

active = link.active
using = link.using


def home(given: Folder = None) -> Path:
    """The folder of the node: the one given, else `OPTIMIZE_NODE`, else the user's."""
    return Path(os.path.abspath(os.path.expanduser(given or os.environ.get("OPTIMIZE_NODE") or _DEFAULT)))


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True, progress: Progress = quiet) -> Iterator[None]:
    """Hold a node as its one writer; it is made where it is not there, and put in order where a writer was killed.

    Args:
        folder: Of the node.
        wait: For another writer, or fail.
        progress: Told of waiting, and of what cannot be put in order.

    Raises:
        OptimizeError: Another writer holds it, without `wait`; or the disk is full.
        IncompatibleError: It cannot be written, or its file system lacks links or locks.
        UsageError: It is no node.
        DamagedError: node.json is gone.
        NewerError: It is of a newer version of optimize.
    """
    try:
        _make(folder)
        with lock.held(folder, wait, progress):
            _prepare(folder)
            _mend(folder, progress)
            yield
    except OSError as error:
        raise _told(folder, error) from None


def policy(folder: Path) -> Dict[str, Any]:
    """What the node asks: `require_signature`, and `keep`, versions beyond the active one and the one before it.

    Raises:
        UsageError: It is no node.
        DamagedError: node.json is not whole, or gone from a node that has something.
        NewerError: It is of a newer version of optimize.
    """
    try:
        value = jsonfile.checked(folder / NAME, SCHEMA, lambda v: _check(NAME, v), "update optimize on this node")
    except (FileNotFoundError, NotADirectoryError):
        if _something(folder) and not records.versions(folder).is_dir():
            raise UsageError(f"{folder} is no node, and not empty", "choose another folder with --node DIR") from None
        if _something(folder):
            raise DamagedError(
                f"{folder}: {NAME} is gone, and with it whether signatures are required",
                f"optimize node policy --node {folder} --require-signature, or --no-require-signature",
            ) from None
        value = {}
    return {key: value.get(key, default) for key, default in _POLICY.items()}


def set_policy(
    folder: Path,
    require_signature: Optional[bool] = None,
    keep: Optional[int] = None,
    wait: bool = True,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Change what the node asks; returns it.

    Args:
        folder: Of the node.
        require_signature: Take only shipments that a trusted key has signed; None leaves it.
        keep: Versions kept besides the active one and the one before it; None leaves it.
        wait: For another writer.
        progress: See `locked`.

    Raises:
        UsageError: Not a number of versions; or none is trusted whose signature could be required.
        OptimizeError: See `locked`.
    """
    if keep is not None and not 0 <= keep <= _MOST:
        raise UsageError(f"--keep {keep}: a number from 0 to {_MOST} is expected")
    if require_signature is not None and records.versions(folder).is_dir() and not (folder / NAME).exists():
        jsonfile.write(folder / NAME, {"schema": SCHEMA, **_POLICY, "require_signature": require_signature})
    with locked(folder, wait, progress):
        asked = policy(folder)
        given = {"require_signature": require_signature, "keep": keep}
        new = {**asked, **{key: value for key, value in given.items() if value is not None}}
        if new["require_signature"] and not trust.trusted(folder / "trust"):
            raise UsageError(
                "no key is trusted here: every shipment would be refused", "optimize node trust add KEY.pub"
            )
        if new != asked:
            jsonfile.write(folder / NAME, {**jsonfile.read(folder / NAME), **new})
        return new


def signatures(folder: Path) -> trust.Policy:
    """What a shipment's signature must be for this node, as `shipment.check` takes it.

    Raises:
        DamagedError: node.json or a key is not what it was.
    """
    return trust.Policy(policy(folder)["require_signature"], trust.trusted(folder / "trust"))


def received(
    folder: Path,
    variant: str,
    name: str,
    tag: Optional[str],
    digest: Optional[str],
    url: Optional[str],
    wait: bool = True,
    progress: Progress = quiet,
) -> Path:
    """Record a version that was put under `versions/` whole, and remove those that are too many.

    Args:
        folder: Of the node.
        variant: Digest of its manifest, in hex.
        name: Of the shipment.
        tag: That it was pulled by; None for none.
        digest: Of the index, `sha256:...`.
        url: Of the store, without secrets.
        wait: For another writer.
        progress: See `locked`.

    Returns:
        Where it is.

    Raises:
        OptimizeError: It is not there; see `locked`.
    """
    with locked(folder, wait, progress):
        path = records.versions(folder) / variant
        if variant not in records.present(folder):
            raise OptimizeError(f"{path}: gone, though it was pulled", "run the same command again")
        known = records.read(folder, variant)
        about = {"name": name, "tag": tag, "digest": digest, "url": url}
        fresh = known["pulled_at"] is None or any(known[key] != value for key, value in about.items())
        number = records.next_number(folder)
        content = oci.digest_of(oci.variant(path))
        record = {**known, **about, "content": content, "pulled": number, "pulled_at": now()}
        if fresh:
            journal.add(folder, number, "pulled", link.pointed(folder), **records.whence(record))
        records.write(folder, record)
        retention.retain(folder, policy(folder)["keep"])
        return path


def whole(folder: Path, record: Dict[str, Any]) -> Dict[str, Any]:
    """Hold every byte of a version against what was pulled, and its signature against the policy; nothing is loaded.

    Returns:
        See `shipment.check`.

    Raises:
        DamagedError, TrustError: See `shipment.check`.
    """
    path = records.versions(folder) / record["variant"]
    value = shipment.check(path, signatures(folder), record["name"])
    # shipment.json lists the hashes of the others, and not its own
    if oci.digest_of(oci.variant(path)) not in (record["content"], f"sha256:{record['variant']}"):
        raise DamagedError(f"{path}: {shipment.NAME} or its signature changed since it was pulled", "pull it again")
    return value


def refused(folder: Path, error: OptimizeError, **about: Any) -> None:
    """Note in the journal of a node that is held why a version was not taken.

    Args:
        folder: Of the node.
        error: Says why.
        about: `name`, `tag`, `digest`, `variant`, `url`: what is known.
    """
    number = records.next_number(folder)
    journal.add(folder, number, "refused", link.pointed(folder), reason=error.message, **about)


def remove(
    folder: Folder, reference: str, force: bool = False, wait: bool = True, progress: Progress = quiet
) -> Dict[str, Any]:
    """Remove a version from the disk.

    Args:
        folder: Of the node; see `home`.
        reference: See `records.find`.
        force: Also the one that a rollback would go back to.
        wait: For another writer, or fail.
        progress: See `locked`.

    Returns:
        `name`, `tag`, `digest`, `variant` and `url` of what was removed.

    Raises:
        UsageError: No such version; it is active; or, without `force`, the one before.
        OptimizeError: It is in use, or a download is under way; see `locked`.
    """
    place = home(folder)
    with locked(place, wait, progress):
        record = records.find(place, reference)
        retention.remove(place, record, force)
    return records.whence(record)


def remove_unfinished(folder: Folder = None, wait: bool = True, progress: Progress = quiet) -> List[str]:
    """Remove what interrupted downloads have left, which the next pull of the same would go on with.

    Args:
        folder: Of the node; see `home`.
        wait: For another writer, or fail.
        progress: See `locked`.

    Returns:
        The variants.

    Raises:
        OptimizeError: A download is under way; see `locked`.
    """
    place = home(folder)
    with locked(place, wait, progress):
        return retention.remove_unfinished(place)


def status(folder: Folder = None, check: bool = False, progress: Progress = quiet) -> Dict[str, Any]:
    """What a node has. Nothing is written, and no lock is needed.

    Args:
        folder: Of the node, which need not be there; see `home`.
        check: Also hold every file against its hash, and the signatures against the policy.
        progress: Told of the versions that are checked.

    Returns:
        `node`; `active`, a version with `since` and `path`, or null; `rollback`, the variant that a rollback goes back
        to, or null; `versions`, the one pulled last first: `variant`, `name`, `tag`, `digest`, `url`, `pulled_at`,
        `activated_at`, `active`, `verified` (the golden inputs passed when it was activated), `golden` (what they
        gave), `health`, `precision`, `device`, `bytes`, and with `check` `damage` (null where it is whole); `policy`;
        `trusted`, ids of keys; `unfinished`, interrupted downloads (`variant`, `bytes`); `problems`, in words.

    Raises:
        DamagedError: It is no node.
        NewerError: It is of a newer version of optimize.
    """
    folder = home(folder)
    asked = policy(folder)
    problems: List[str] = []
    pointed = _tried(problems, lambda: link.pointed(folder))
    keys = _tried(problems, lambda: sorted(trust.trusted(folder / "trust"))) or []
    known = records.all_of(folder)
    found = []
    for index, record in enumerate(known):
        if check:
            progress("checking the versions", index, len(known))
        found.append(_shown(folder, record, pointed, check))
    here = next((one for one in found if one["active"]), None)
    if pointed and not here:
        problems.append(f"the active version {pointed[:12]} is gone: optimize node activate")
    if here and here["health"] == "pending":
        problems.append("the activation was interrupted before its health check: optimize node activate NAME")
    return {
        "node": str(folder),
        "active": here and {**here, "since": here["activated_at"], "path": str(folder / link.NAME)},
        "rollback": _tried(problems, lambda: retention.before(folder)) if here else None,
        "versions": found,
        "policy": asked,
        "trusted": keys,
        "unfinished": retention.unfinished(folder),
        "problems": list(dict.fromkeys(problems)),
    }


def _shown(folder: Path, record: Dict[str, Any], pointed: Optional[str], check: bool) -> Dict[str, Any]:
    path = records.versions(folder) / record["variant"]
    about: Dict[str, Any] = {}
    damage = None
    try:
        about = whole(folder, record) if check else shipment.read(path)
    except OptimizeError as error:
        damage = error.message
    names = ("variant", "name", "tag", "digest", "url", "pulled_at", "activated_at", "verified", "golden", "health")
    return {
        **{key: record[key] for key in names},
        "active": record["variant"] == pointed,
        "precision": about.get("precision"),
        "device": about.get("device"),
        "bytes": sum(entry["bytes"] for entry in about["files"]) if about else None,
        **({"damage": damage} if check else {}),
    }


def _tried(problems: List[str], ask: Any) -> Any:
    try:
        return ask()
    except DamagedError as error:
        problems.append(f"{error.message}: {error.hint}" if error.hint else error.message)
        return None


def _something(folder: Path) -> bool:
    """Whether a folder holds more than a first writer leaves when it is killed."""
    try:
        return any(not p.name.startswith(".") and p.name != lock.NAME for p in folder.iterdir())
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise UsageError(f"{folder} is a file, where the folder of a node is expected", "--node DIR") from None


def _make(folder: Path) -> None:
    """Make a folder and those above it, on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        jsonfile.fsync_folder(path.parent)


def _prepare(folder: Path) -> None:
    if not (folder / NAME).exists():
        policy(folder)  # refuses a folder that has something
        link.need_links(folder)
        jsonfile.write(folder / NAME, {"schema": SCHEMA, **_POLICY})
    policy(folder)
    for name in ("trust", "versions", "records"):
        _make(folder / name)


def _mend(folder: Path, progress: Progress) -> None:
    """Make up for what a killed writer left undone. A full disk is no reason to refuse: a rollback may follow."""
    try:
        for place in (folder, folder / "trust", folder / "versions", folder / "records"):
            jsonfile.sweep(place)
        pointed, line = link.pointed(folder), journal.last(folder)
        if pointed != (line["active"] if line else None):
            about = records.whence(records.read(folder, pointed)) if pointed else {}
            event = "activated" if pointed else "rolled-back"
            reason = f"the link {link.NAME} says so, the journal did not"
            journal.add(folder, records.next_number(folder), event, pointed, reason=reason, **about)
        there = records.present(folder)
        for path in sorted((folder / "records").glob("*.json")):
            if path.stem not in there:
                retention.forget(folder, records.read(folder, path.stem), "it was found removed")
        for variant in there:
            if not records.path_of(folder, variant).exists():
                records.write(folder, {**records.read(folder, variant), "pulled": records.next_number(folder)})
    except OSError as error:
        progress(f"warning: what an earlier command left could not be put in order: {error}", 0, A_LINE)


def _told(folder: Path, error: OSError) -> Exception:
    """An error of the disk, with what helps on a node."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return IncompatibleError(
            f"{folder}: this node cannot be written here ({error.strerror})",
            "run it as the user who owns the folder, or choose another with --node DIR",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OptimizeError(
            f"no space left for {error.filename or folder} ({error.strerror})",
            "free some space (optimize node remove VERSION), then run the same command again",
        )
    if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL) and error.filename:
        where = error.filename2 or error.filename
        return DamagedError(
            f"{folder}: the node is damaged: {where}: {error.strerror}", f"ls -ld {where}, and remove it"
        )
    return error


_check = fields.an_object(require_signature=fields.truth, keep=fields.whole(0, _MOST))
