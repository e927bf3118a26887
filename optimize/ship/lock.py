"""One writer at a time in a folder. The kernel lets go of the lock whatever ends the process that holds it.

Not `filelock`: where a file system has no locks it waits for ever (3.16, the last for Python 3.8) or takes one that a
killed process leaves behind (4.2). A node refuses such a file system instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Iterator

from engines.errors import IncompatibleError, OptimizeError
from engines.spec import A_LINE, Progress, quiet

if sys.platform != "win32":
    import fcntl

NAME = "lock"


@contextlib.contextmanager
def held(folder: Path, wait: bool = True, progress: Progress = quiet) -> Iterator[None]:
    """Hold a folder, which is made where it is not there; a second writer waits and says so.

    Args:
        folder: Where the file `lock` is. Its holder may remove it: who waits makes it anew.
        wait: Or fail at once where another holds it.
        progress: Told that it waits.

    Raises:
        OptimizeError: Another holds it, without `wait`.
        IncompatibleError: The file system has no locks, or this is Windows.
        OSError: The file cannot be made.
    """
    if sys.platform == "win32":
        raise IncompatibleError("a node needs Linux or macOS", "optimize pull NAME --from URL -o DIR")
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            continue  # removed between these lines
        try:
            if not _taken(handle, folder):
                if not wait:
                    raise OptimizeError(f"{folder}: another command is writing there", "run it again without --no-wait")
                progress(f"waiting for another command in {folder}", 0, A_LINE)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if same_file(handle, folder / NAME):
                yield
                return
        finally:
            os.close(handle)


def _taken(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL):
            raise IncompatibleError(
                f"{folder}: its file system has no locks ({error.strerror})", "choose a local folder with --node DIR"
            ) from None
        raise
    return True


def same_file(handle: int, path: Path) -> bool:
    """Whether what is open and locked is still what has that name: it may have been made anew meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
