"""The link `active` of a node: the one truth about which version runs, changed in one step.

Readers take the version behind the link once and hold it: what they opened stays whole while the link moves on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from pathlib import Path
from typing import Iterator, Optional

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize.ship import records
from optimize.ship.lock import same_file

if sys.platform != "win32":
    import fcntl

NAME = "active"


def pointed(folder: Path) -> Optional[str]:
    """The variant that `active` names, whether it is there or not; None without the link.

    Raises:
        DamagedError: `active` is something else than a link to a version.
    """
    path = folder / NAME
    try:
        place, _, variant = os.readlink(path).partition("/")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        place = variant = ""
    if place != records.versions(folder).name or not records.VARIANT.fullmatch(variant):
        raise DamagedError(
            f"{path}: not a link to a version of this node", f"remove {path}, then: optimize node activate"
        )
    return variant


def active(folder: Path) -> Optional[Path]:
    """The folder of the active version, without links in its name; None where there is none.

    Raises:
        DamagedError: See `pointed`.
    """
    variant = pointed(folder)
    path = records.versions(folder) / (variant or "none")
    return path if variant and path.is_dir() and not path.is_symlink() else None


def point(folder: Path, variant: Optional[str]) -> None:
    """Let `active` point to a version, or remove it, in one step that is on the disk when this returns.

    Raises:
        IncompatibleError: The file system has no symbolic links.
        OSError: The disk failed; `active` is what it was, or points to the version.
    """
    link = folder / NAME
    if variant is None:
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        jsonfile.fsync_folder(folder)
        return
    part = folder / f".{NAME}.{secrets.token_hex(8)}.part"
    try:
        _symlink(f"{records.versions(folder).name}/{variant}", part)
        jsonfile.fsync_folder(folder)  # a link cannot be synced by itself, and it must be there before it is renamed
        os.replace(part, link)
        jsonfile.fsync_folder(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def need_links(folder: Path) -> None:
    """Try whether a link can be made in a folder and renamed over another.

    Raises:
        IncompatibleError: It cannot.
    """
    names = [folder / f".{NAME}.{secrets.token_hex(8)}.part" for _ in range(2)]
    try:
        for part in names:
            _symlink("nothing", part)
        os.replace(*names)
    finally:
        for part in names:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


def _symlink(target: str, path: Path) -> None:
    try:
        os.symlink(target, path)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise IncompatibleError(
                f"{path.parent}: its file system has no symbolic links ({error.strerror})",
                "choose a folder on another file system with --node DIR",
            ) from None
        raise


@contextlib.contextmanager
def using(folder: Path) -> Iterator[Path]:
    """Yield the folder of the active version, which is not removed meanwhile, whatever is activated.

    Raises:
        UsageError: No version is active.
        DamagedError: See `pointed`.
    """
    while True:
        path = active(folder)
        if path is None:
            raise UsageError(f"{folder}: no version is active", "optimize node activate")
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # removed between these lines, so `active` points to another by now
        try:
            if _shared(handle) and same_file(handle, path):
                yield path
                return
        finally:
            os.close(handle)


def _shared(handle: int) -> bool:
    """Whether the folder could be marked as in use; where its file system has no such marks, nobody looks for them."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # it is being removed
    except OSError:
        return True
    return True


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Yield whether nobody uses a version; while this lasts, nobody begins to."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # a file system without such marks
            free = True
        yield free
    finally:
        os.close(handle)
