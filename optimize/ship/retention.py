"""Which versions a node keeps, and how the others go: never the active one, the one before it, or one in use."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from engines import jsonfile
from engines.errors import OptimizeError, UsageError
from optimize.ship import fetch, journal, link, records


def before(folder: Path) -> Optional[str]:
    """The variant that a rollback goes back to: the one that was active before, if it is still there.

    The record of the active version tells; where that is lost, the journal does.
    """
    active = link.pointed(folder)
    if active is None:
        return None
    there = records.present(folder)
    known = records.read(folder, active)
    if known["activated"]:
        return known["before"] if known["before"] in there else None
    found, _ = journal.lines(folder, 1000)
    return next(
        (line["active"] for line in reversed(found) if line["active"] in there and line["active"] != active), None
    )


def retain(folder: Path, keep: int) -> List[str]:
    """Remove versions beyond the last `keep`, besides the active one, the one before it and the one pulled last.

    Args:
        folder: Of the node, held.
        keep: How many more are kept, those that were pulled or activated last.

    Returns:
        Variants that were removed; one in use stays until the next time.
    """
    known = records.all_of(folder)
    with _no_download(folder) as quiet:
        if not quiet:
            return []
        return _retained(folder, known, keep)


def _retained(folder: Path, known: List[Dict[str, Any]], keep: int) -> List[str]:
    held = {link.pointed(folder), before(folder), *(record["variant"] for record in known[:1])}
    others = [record for record in known if record["variant"] not in held]
    others.sort(key=lambda record: -max(record["pulled"], record["activated"]))
    return [record["variant"] for record in others[keep:] if _removed(folder, record, "more versions than are kept")]


def remove(folder: Path, record: Dict[str, Any], force: bool = False) -> None:
    """Remove a version that a user names.

    Args:
        folder: Of the node, held.
        record: Of the version.
        force: Also the one that a rollback would go back to.

    Raises:
        UsageError: It is active, or, without `force`, the one before.
        OptimizeError: It is in use.
    """
    name = records.title(record)
    if record["variant"] == link.pointed(folder):
        raise UsageError(f"{name} is active", "activate another first: optimize node activate NAME")
    if record["variant"] == before(folder) and not force:
        raise UsageError(f"{name} is what optimize node rollback goes back to", "--force removes it all the same")
    with _no_download(folder) as quiet:
        if not quiet:
            raise OptimizeError(f"a download into {folder} is under way", "try again when it has ended")
        if not _removed(folder, record, "asked for"):
            raise OptimizeError(f"{name} is in use", "stop what runs it, and try again")


def unfinished(folder: Path) -> List[Dict[str, Any]]:
    """What interrupted downloads have left: `variant` and `bytes` of each."""
    place = records.versions(folder) / fetch.INCOMING
    if not place.is_dir():
        return []
    found = []
    for path in sorted(p for p in place.iterdir() if p.is_dir() and not p.is_symlink()):
        sizes = [p.lstat().st_size for p in path.rglob("*") if p.is_file()]
        found.append({"variant": path.name, "bytes": sum(sizes)})
    return found


def remove_unfinished(folder: Path) -> List[str]:
    """Remove what interrupted downloads have left; returns their variants.

    Raises:
        OptimizeError: One is under way.
    """
    with _no_download(folder) as quiet:
        if not quiet:
            raise OptimizeError(f"a download into {folder} is under way", "try again when it has ended")
        found = [one["variant"] for one in unfinished(folder)]
        for name in found:
            shutil.rmtree(records.versions(folder) / fetch.INCOMING / name)
        return found


@contextlib.contextmanager
def _no_download(folder: Path) -> Iterator[bool]:
    """Yield whether no version is being downloaded: one may be copied from those here, or mended in its place."""
    from filelock import FileLock, Timeout

    place = records.versions(folder) / fetch.INCOMING
    if not place.is_dir():
        yield True
        return
    lock = FileLock(str(place / "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _removed(folder: Path, record: Dict[str, Any], reason: str) -> bool:
    """Remove a version unless it is in use: it goes in one rename, so that no half of one ever stands there."""
    path = records.versions(folder) / record["variant"]
    with link.unused(path) as free:
        if not free:
            return False
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.old")
        os.replace(path, aside)
    jsonfile.fsync_folder(path.parent)
    forget(folder, record, reason)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def forget(folder: Path, record: Dict[str, Any], reason: str) -> None:
    """Note that a version was removed, then remove its record: a crash between the two leaves something to note."""
    number = max(records.next_number(folder), record["pulled"] + 1, record["activated"] + 1)
    journal.add(folder, number, "removed", link.pointed(folder), reason=reason, **records.whence(record))
    with contextlib.suppress(FileNotFoundError):
        records.path_of(folder, record["variant"]).unlink()
