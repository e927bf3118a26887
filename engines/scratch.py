"""Temporary folders that go with the process that made them, also where it is killed: the next one sweeps.

A folder is locked while its process lives, and the kernel lets go of a lock whatever ends the process. A process id in
the name would not do: the one that looks may be in another container, with other numbers and the same `/tmp`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from typing import Iterator, Optional, Set, Tuple

if sys.platform != "win32":
    import fcntl

_PREFIX = "optimize-scratch-"

_NAME = re.compile(_PREFIX + "[a-z0-9_]{8}")
"""What `tempfile` makes of the prefix, and nobody by hand."""

_swept: Set[str] = set()


@contextlib.contextmanager
def folder(within: Optional[str] = None) -> Iterator[str]:
    """Yield the path of an empty folder that only this user may read; it is removed afterwards.

    Args:
        within: Where it is made; the temporary folder by default.

    Raises:
        OSError: None can be made there.
    """
    place = within or tempfile.gettempdir()
    if place not in _swept:
        sweep(place)
    path, lock = _made(place)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _made(place: str) -> Tuple[str, Optional[int]]:
    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
        try:
            lock = _lock(path, wait=True)
        except FileNotFoundError:
            continue  # swept between these two lines
        except OSError:
            return path, None  # a file system without locks: there nobody sweeps
        if os.path.isdir(path):
            return path, lock
        if lock is not None:
            os.close(lock)


def _lock(path: str, wait: bool) -> Optional[int]:
    """An open file that holds the folder's lock; None on Windows, which has no locks on folders.

    Raises:
        OSError: The folder is gone, a link, another user's, or locked.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(path)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


def sweep(place: Optional[str] = None) -> None:
    """Remove what killed processes of this user have left in a folder, by default the temporary one. Never raises."""
    with contextlib.suppress(OSError):
        place = place or tempfile.gettempdir()
        _swept.add(place)
        with os.scandir(place) as entries:
            found = [entry.path for entry in entries if _NAME.fullmatch(entry.name)]
        for path in found:
            with contextlib.suppress(OSError):
                lock = _lock(path, wait=False)
                if lock is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(lock)
