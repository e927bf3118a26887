"""From a store to a folder of versions: found, downloaded where it can go on, checked whole, and put there in one step.

A version is named by the digest of its image manifest, so that what lies under a name is either all of it or not there.
What is under way lies in `.incoming/`, where nothing looks for a version.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import AbstractSet, Any, Dict, List, Optional

from engines import jsonfile
from engines.device import DeviceKey
from engines.errors import DamagedError, OptimizeError, UsageError
from engines.spec import Progress, quiet
from optimize.ship import oci, shipment, trust
from optimize.ship.store import AGAIN, Store

INCOMING = ".incoming"

_TRIES = 2
"""Of a file: what is left of an earlier try may be damaged, and so may what came now."""

_SPARE = 16 << 20
"""Bytes that stay free on the disk."""

_AGAIN = "run the same command again: it goes on where it stopped"


def find(store: Store, name: str, tag: str = "latest", digest: Optional[str] = None) -> oci.Index:
    """The index that a name and tag, or a digest, stand for.

    Args:
        store: Where to look.
        name: Of the shipment.
        tag: Of its index; not looked at where a digest is given.
        digest: Of the index.

    Raises:
        UsageError: No such name or tag; names those that are there.
        DamagedError: What is there is no index of shipments.
        OptimizeError: The store cannot be reached, or the digest is not in it.
    """
    found = store.resolve(name, tag) if digest is None else digest
    if digest is not None and not store.sizes(name, [digest]):
        raise UsageError(f"{name}@{digest}: no such shipment in {store.url}", f"optimize pull {name} --from URL")
    if found is None:
        refs = sorted(f"{ref.name}:{ref.tag}" for ref in store.refs())
        there = f"there are {', '.join(refs[:20])}{' ...' if len(refs) > 20 else ''}" if refs else "it holds none yet"
        known = next((ref for ref in refs if ref.startswith(f"{name}:")), None)
        hint = f"optimize pull {known} --from {store.url}" if known else "optimize ship BUNDLE --to URL"
        raise UsageError(f"{name}:{tag}: no such shipment in {store.url}; {there}", hint)
    content = store.get_document(name, found, shipment.LARGEST_DOCUMENT)
    if oci.digest_of(content) != found:
        raise DamagedError(f"{store.url}: the index of {name} is not what its digest says", AGAIN)
    return oci.read_index(content, name, tag, found)


def fetch(
    store: Store,
    name: str,
    entry: oci.Entry,
    folder: Path,
    policy: trust.Policy = trust.ANY,
    limit: int = 0,
    progress: Progress = quiet,
) -> Path:
    """Download one variant into a folder of versions; nothing is there under its name until it is whole and checked.

    Two at a time wait for each other. What an interrupted one left is gone on with. A version that is there already is
    checked: damaged files of it are replaced one by one, and what does not belong there is removed.

    Args:
        store: Where it is.
        name: Of the shipment.
        entry: The variant.
        folder: Where versions lie.
        policy: Which signatures are asked.
        limit: Bytes per second; 0 for none.
        progress: Told the bytes.

    Returns:
        The version's folder: `folder/<64 hex digits of the variant>`.

    Raises:
        DamagedError, TrustError: See `shipment.check`; nothing new is under a version's name then.
        OptimizeError: The store failed, or the disk has no room.
    """
    from filelock import FileLock, Timeout

    hexdigits = entry.digest.partition(":")[2]
    target, part = folder / hexdigits, folder / INCOMING / hexdigits
    for place in (folder, folder / INCOMING):
        _real_folder(place)
    own = folder / INCOMING / "lock"
    lock = FileLock(str(own))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another download into {folder}", 0, 0)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise DamagedError(f"{own}: {error.strerror}, where a plain file is expected", f"rm -r {own}") from None
    try:
        blobs = contents(store, name, entry)
        names = {blob.name for blob in blobs}
        if os.path.lexists(part) and not _is_real_folder(part):
            part.unlink()
        part.mkdir(exist_ok=True)
        _sweep(part, names)
        bring = _Bringer(store, name, part, _elsewhere(folder, target), limit, progress)
        if _is_real_folder(target):
            _sweep(target, names, others=True)
            _repair(target, blobs, bring)
            shipment.check(target, policy, name)
        else:
            _download(part, blobs, policy, bring)
            _same(entry, shipment.check(part, policy, name))
            _publish(part, target)
        shutil.rmtree(part, ignore_errors=True)
    finally:
        lock.release()
    return target


def contents(store: Store, name: str, entry: oci.Entry) -> List[oci.Blob]:
    """The files of a variant.

    Raises:
        DamagedError: It is missing, no variant, or not what its digest says.
    """
    content = store.get_document(name, entry.digest, shipment.LARGEST_DOCUMENT)
    if oci.digest_of(content) != entry.digest:
        raise DamagedError(f"{store.url}: the variant {entry.digest} is not what its digest says", AGAIN)
    found = oci.read_variant(content)
    for blob in found:
        if blob.name == trust.NAME and blob.size > trust.LIMIT:
            raise DamagedError(f"{trust.NAME}: larger than {trust.LIMIT >> 10} KiB, not a signature")
    return found


class _Bringer:
    """Brings the files of one variant into the folder of what is under way."""

    def __init__(
        self, store: Store, name: str, part: Path, known: Dict[str, Path], limit: int, progress: Progress
    ) -> None:
        self.store, self.name, self.part, self.known = store, name, part, known
        self.limit, self.progress = limit, progress
        self.done = self.total = 0

    def bring(self, blob: oci.Blob) -> Path:
        """A whole file with the right hash, from what is there already and what the store gives.

        Raises:
            DamagedError: What the store gives is not what its digest says.
            OptimizeError: The store failed, or gave less than there should be; what came is kept.
        """
        path = self.part / blob.name
        for _ in range(_TRIES):
            if not path.exists() and blob.digest in self.known:
                shutil.copyfile(self.known[blob.digest], path)
            if path.exists() and path.stat().st_size > blob.size:
                path.unlink()
            if not path.exists() or path.stat().st_size < blob.size:
                self._get(blob, path)
            if path.stat().st_size == blob.size and "sha256:" + jsonfile.sha256(path) == blob.digest:
                self.done += blob.size
                self._tell(0)
                return path
            path.unlink()
            self.known.pop(blob.digest, None)
        raise DamagedError(f"{self.store.url}: {blob.name} of {self.name} is not what its digest says", AGAIN)

    def _get(self, blob: oci.Blob, path: Path) -> None:
        if blob.size == 0:
            path.touch()
            return
        self.store.get(self.name, blob.digest, blob.size, path, self._tell, self.limit)
        got = path.stat().st_size if path.exists() else 0
        if got < blob.size:
            raise OptimizeError(f"{self.store.url}: {got} of {blob.size} bytes of {blob.name} came", _AGAIN)

    def _tell(self, moved: int) -> None:
        self.progress(f"pulling {self.name}", self.done + moved, self.total)


def _download(part: Path, blobs: List[oci.Blob], policy: trust.Policy, bringer: _Bringer) -> None:
    """Bring every file: the list and its signature first, so that what is refused for them costs nothing more."""
    bringer.total = sum(blob.size for blob in blobs)
    _room(part, blobs)
    first = [blob for blob in blobs if blob.name in (shipment.NAME, trust.NAME)]
    for blob in first:
        bringer.bring(blob)
    trust.verify(part, policy, bringer.name)
    listed = {(e["path"], f"sha256:{e['sha256']}", e["bytes"]) for e in shipment.read(part)["files"]}
    rest = [blob for blob in blobs if blob not in first]
    if listed != set(rest):
        raise DamagedError(
            f"{bringer.name}: its image manifest and its {shipment.NAME} list other files", "ship it again"
        )
    for blob in rest:
        bringer.bring(blob)


def _repair(target: Path, blobs: List[oci.Blob], bringer: _Bringer) -> None:
    """Replace what is not whole any more in a version: file by file, each in one step, since it may be in use."""
    wrong = [blob for blob in blobs if not _whole(target / blob.name, blob)]
    bringer.total = sum(blob.size for blob in wrong)
    _room(bringer.part, wrong)
    for blob in wrong:
        path = bringer.bring(blob)
        _synced(path)
        os.replace(path, target / blob.name)
    if wrong:
        jsonfile.fsync_folder(target)


def _whole(path: Path, blob: oci.Blob) -> bool:
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return False
    same = stat.S_ISREG(about.st_mode) and about.st_size == blob.size
    return same and "sha256:" + jsonfile.sha256(path) == blob.digest


def _same(entry: oci.Entry, value: Dict[str, Any]) -> None:
    """Refuse a variant that the index tells otherwise of than it does itself."""
    told = (entry.device, entry.model, entry.precision)
    if told != (DeviceKey.from_json(value["device"]), value["model"]["sha256"], value["precision"]):
        raise DamagedError(
            f"{value['name']}: the index tells another device, model or precision of it", "ship it again"
        )


def _publish(part: Path, target: Path) -> None:
    for path in part.iterdir():
        _synced(path)
    jsonfile.fsync_folder(part)
    if os.path.lexists(target):  # a link or file, which is no version
        target.unlink()
    os.rename(part, target)
    for folder in (target.parent, part.parent):
        jsonfile.fsync_folder(folder)


def _synced(path: Path) -> None:
    os.chmod(path, 0o644)
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _real_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DamagedError(f"{path}: a file or link, where a folder is expected", f"rm {path}") from None
    if path.is_symlink() and path.name.startswith("."):
        raise DamagedError(f"{path}: a link, where a folder is expected", f"rm {path}")


def _sweep(folder: Path, names: AbstractSet[str], others: bool = False) -> None:
    """Remove what is no file of this variant.

    Args:
        folder: Of the version, or of what is under way of it.
        names: Of its files.
        others: Leave files that have another name elsewhere too: nothing is written into them here.
    """
    for path in folder.iterdir():
        about = path.lstat()
        plain = stat.S_ISREG(about.st_mode) and (others or about.st_nlink == 1)
        if not plain or path.name not in names:
            shutil.rmtree(path) if _is_real_folder(path) else path.unlink()


def _elsewhere(folder: Path, target: Path) -> Dict[str, Path]:
    """Files of other versions by their digests: what is on this disk already is copied, and checked like the rest."""
    found = {}
    for other in folder.iterdir():
        if other == target or other.name.startswith("."):
            continue
        try:
            listed = shipment.read(other)["files"]
        except (OptimizeError, OSError):
            continue
        found.update({f"sha256:{entry['sha256']}": other / entry["path"] for entry in listed})
    return {digest: path for digest, path in found.items() if path.is_file() and not path.is_symlink()}


def _room(part: Path, blobs: List[oci.Blob]) -> None:
    """Refuse what the disk has no room for, before it is full."""
    sizes = [(blob.size, part / blob.name) for blob in blobs]
    need = sum(max(0, size - (path.stat().st_size if path.exists() else 0)) for size, path in sizes)
    free = shutil.disk_usage(part).free
    if need and need + _SPARE > free:
        raise OptimizeError(
            f"no space left on the disk: {-(-need >> 20)} MiB more are needed in {part.parent.parent}, "
            f"{free >> 20} MiB are free",
            "free some space, or keep fewer versions",
        )
