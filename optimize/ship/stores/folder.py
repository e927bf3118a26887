"""A store in a folder: of this machine, a mounted share or a USB stick."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shlex
import stat
import sys
import time
from pathlib import Path
from typing import IO, Collection, Dict, Iterator, List, Mapping, Optional, Tuple

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, OptimizeError
from optimize.ship.store import Moved
from optimize.ship.stores import keys
from optimize.ship.stores.files import FileStore
from optimize.ship.stores.flow import blocks, each, paced, receive

if sys.platform != "win32":
    import fcntl

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DAMAGED = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Something else is where a file or folder of the store belongs."""


def open_folder(path: Path, url: str) -> FileStore:
    """The store in a folder, which need not exist yet."""
    return FileStore(FolderPlace(path, url))


class FolderPlace:
    """See `files.Place`.

    Of two writers of one blob the first has the part that an earlier try left, and the other one of his own: what was
    checked must not change when the other's file has changed since it was hashed.
    """

    near = True

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.folder: Optional[Path] = root
        self.url = url

    def sizes(self, names: Collection[str]) -> Dict[str, int]:
        """See `Place.sizes`."""
        with self._told():
            told = {key: _size(self.root / key) for key in names}
        return {key: size for key, size in told.items() if size is not None}

    def whole(self, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Place.whole`."""
        with self._told():
            told = {digest: self._right(digest) for digest in sources}
        return {digest: right for digest, right in told.items() if right is not None}

    def send(self, sources: Mapping[str, Path], moved: Moved, limit: int) -> List[str]:
        """See `Place.send`."""
        return [one for one, source, told in each(sources, moved) if not self._send(one, source, told, limit)]

    def _send(self, digest: str, source: Path, moved: Moved, limit: int) -> bool:
        part, target = self.root / keys.part(digest), self.root / keys.blob(digest)
        with open(source, "rb") as handle, self._told(), contextlib.ExitStack() as stack:
            self._folder(part.parent)
            if not _alone(part, stack):
                part = part.with_name(f"{part.stem}.{secrets.token_hex(8)}.part")
                stack.callback(part.unlink, missing_ok=True)
            with _sink(part) as sink:
                have = sink.seek(0, os.SEEK_END)
                handle.seek(have)
                for block in paced(blocks(handle, limit), limit):
                    sink.write(block)
                    have += len(block)
                    moved(have)
                sink.flush()
                os.fsync(sink.fileno())
                sink.seek(0)
                found = hashlib.sha256()
                for block in blocks(sink):
                    found.update(block)
            if found.hexdigest() != keys.hexadecimal(digest):
                part.unlink(missing_ok=True)
                return bool(self._right(digest))  # without locks, another writer's bytes may have come between
            with contextlib.suppress(FileNotFoundError):  # and it may have been quicker
                os.replace(part, target)
            jsonfile.fsync_folder(target.parent)
            return _size(target) is not None

    def _right(self, digest: str) -> Optional[bool]:
        """Whether a blob is what its digest says; None where there is none."""
        path = self.root / keys.blob(digest)
        with contextlib.suppress(FileNotFoundError):
            if _size(path) is not None:
                return jsonfile.sha256(path) == keys.hexadecimal(digest)
        return None

    def fetch(self, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Place.fetch`."""
        with contextlib.ExitStack() as stack:

            def start(offset: int) -> Iterator[bytes]:
                with self._told():
                    handle = stack.enter_context(jsonfile.plain(self.root / keys.blob(digest)))
                    handle.seek(offset)
                return blocks(handle, limit)

            receive(start, size, target, moved, limit, f"{self.url}: {digest}")

    def read(self, key: str, limit: int) -> Optional[bytes]:
        """See `Place.read`."""
        with self._told():
            try:
                with jsonfile.plain(self.root / key) as handle:
                    return handle.read(limit + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, key: str, data: bytes) -> None:
        """See `Place.write`."""
        with self._told():
            self._folder((self.root / key).parent)
            with jsonfile.replacing_file(self.root / key) as part:
                part.write_bytes(data)

    def refs(self) -> Iterator[Tuple[str, bytes]]:
        """See `Place.refs`."""
        with self._told():
            found: List[Path] = sorted((self.root / keys.REFS).glob("*/*.json"))
        for path in found:
            key = path.relative_to(self.root).as_posix()
            data = self.read(key, keys.DOCUMENT)
            if data is not None:
                yield key, data

    def sweep(self) -> None:
        """See `Place.sweep`; what cannot be removed stays."""
        for pattern in keys.PARTS:
            for part in self.root.glob(pattern):
                with contextlib.suppress(OSError):
                    if keys.is_part(part.name) and time.time() - part.lstat().st_mtime > keys.FORGOTTEN_S:
                        part.unlink()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """See `Place.alone`; some shares have no locks."""
        with self._told():
            self._folder(self.root)
        with contextlib.ExitStack() as stack:
            if sys.platform != "win32":
                handle = os.open(self.root, os.O_RDONLY)
                stack.callback(os.close, handle)
                with contextlib.suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """See `Place.close`."""

    def _folder(self, path: Path) -> None:
        """Make a folder and those above it, each durable."""
        if path.is_dir():
            return
        if path.parent != path:
            self._folder(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        jsonfile.fsync_folder(path.parent)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what the store's own disk refuses as such: the one at hand may have space and be writable."""
        try:
            yield
        except OSError as error:
            text = (error.strerror or str(error)).lower()
            if error.errno in _FULL:
                raise OptimizeError(
                    f"{self.url}: {text}", "free some space there, then run the same command again"
                ) from None
            if error.errno in _DENIED:
                raise IncompatibleError(f"{self.url}: {text}", f"ls -ld {self.root}, or another place") from None
            if error.errno in _DAMAGED:
                where = error.filename2 or error.filename or self.root
                raise DamagedError(
                    f"{self.url}: the store is damaged: {where}: {text}", f"ls -ld {where}, and remove it"
                ) from None
            raise


def _size(path: Path) -> Optional[int]:
    """Bytes of a plain file; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _alone(path: Path, stack: contextlib.ExitStack) -> bool:
    """Whether nobody else writes to a part, until the stack ends; true where there are no locks."""
    if sys.platform != "win32":
        handle = stack.enter_context(_sink(path))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(handle.fileno()), path.lstat())  # the other has not moved it meanwhile
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError:  # of some shares
            return True
    return True


def _sink(path: Path) -> IO[bytes]:
    """A file open for reading and writing, as it is or new; never through a link that somebody left there."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedError(f"{path}: a special file, where an upload belongs", f"rm {shlex.quote(str(path))}")
    return os.fdopen(handle, "r+b")
