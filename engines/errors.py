"""The project's exceptions, and the one table that maps any exception to a message, an exit code and a hint.

Exit codes (the same for every command): 0 ok, 1 the operation failed, 2 usage, 3 a gate was not met,
4 environment or incompatible, 5 partial, 130 interrupted and resumable.
"""

from __future__ import annotations

import errno
import sys
from typing import Any, Dict, NamedTuple, Tuple, Type


class OptimizeError(Exception):
    """The operation failed: the base of every error that a user may see.

    Args:
        message: One line, what is wrong, naming the file or value.
        hint: The next command to type, or the option that mends it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = hint

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (self.message, self.hint))


class ModelError(OptimizeError):
    """A model file is unreadable, damaged or holds something unsupported."""


class DataError(OptimizeError):
    """A data set is missing a part, has wrong sizes or labels, or holds no image."""


class DamagedError(OptimizeError):
    """A file of ours (bundle, run, manifest, cache) is not what its hash or schema says."""


class BuildError(OptimizeError):
    """A backend could not turn a graph into an engine."""


class UsageError(OptimizeError):
    """Bad or missing options, a missing file, custom objects or a factory that are not named."""

    exit_code = 2


class GateError(OptimizeError):
    """A gate was not met: accuracy, agreement, latency, comparison."""

    exit_code = 3


class IncompatibleError(OptimizeError):
    """The environment lacks something, or an engine was made for another device."""

    exit_code = 4


class NewerError(DamagedError, IncompatibleError):
    """A file of ours was made by a newer version of optimize."""  # a cache is made anew, as a damaged one is


class TrustError(IncompatibleError):
    """A signature is missing, wrong, or by a key that is not trusted here."""


class PartialError(OptimizeError):
    """Some cells failed; the rest was kept."""

    exit_code = 5


class Interrupted(OptimizeError):
    """Ctrl-C in something that cannot go on where it stopped."""

    exit_code = 130


CLASSES: Dict[str, Type[OptimizeError]] = {
    cls.__name__: cls
    for cls in (
        OptimizeError,
        ModelError,
        DataError,
        DamagedError,
        BuildError,
        UsageError,
        GateError,
        IncompatibleError,
        NewerError,
        TrustError,
        PartialError,
    )
}
"""By name, so that an error raised in a child process is raised again as itself in the parent."""


class Outcome(NamedTuple):
    """What a user sees of an exception."""

    message: str
    exit_code: int
    hint: str


_OS_HINTS: Dict[int, Tuple[str, int, str]] = {
    errno.ENOSPC: ("no space left on the disk", 1, "free some space, or choose another folder with -o DIR"),
    errno.EDQUOT: ("the disk quota is used up", 1, "free some space, or choose another folder with -o DIR"),
    errno.EFBIG: ("a file is larger than the disk or a limit allows", 1, "ulimit -f unlimited, or -o DIR elsewhere"),
    errno.EIO: ("the disk failed", 1, "look at the system's log, and choose another folder with -o DIR"),
    errno.EACCES: ("permission denied", 4, "choose a folder you can write to with -o DIR"),
    errno.EPERM: ("operation not permitted", 4, "choose a folder you can write to with -o DIR"),
    errno.EROFS: ("read-only file system", 4, "choose a folder you can write to with -o DIR"),
    errno.ENOENT: ("no such file or folder", 2, "check the path"),
    errno.ENOTDIR: ("not a folder", 2, "check the path"),
    errno.EEXIST: ("a file is in the way, where a folder is needed", 2, "choose another folder with -o DIR"),
    errno.EISDIR: ("a folder, where a file is needed", 2, "check the path"),
}


def outcome(error: BaseException) -> Outcome:
    """Message, exit code and hint of any exception: the one table."""
    if isinstance(error, OptimizeError):
        return Outcome(error.message, error.exit_code, error.hint)
    if isinstance(error, KeyboardInterrupt):
        return Outcome("interrupted", 130, "run the same command again: finished stages are kept")
    if isinstance(error, MemoryError):
        return Outcome("out of memory", 1, "close other programs, or use a smaller --batch")
    if isinstance(error, ImportError) and error.name:
        return Outcome(
            f"the Python package {error.name.split('.')[0]} is missing or does not load: {error}",
            4,
            "optimize doctor",
        )
    if isinstance(error, UnicodeEncodeError) and any("\udc80" <= c <= "\udcff" for c in error.object):
        return Outcome(
            f"a path has characters that this locale ({sys.getfilesystemencoding()}) cannot name: {error.object!a}",
            2,
            "set PYTHONUTF8=1, then try again; or give the file another name",
        )
    if isinstance(error, OSError) and error.errno in _OS_HINTS:
        text, code, hint = _OS_HINTS[error.errno]
        where = f": {error.filename}" if error.filename else ""
        return Outcome(text + where, code, hint)
    detail = " ".join(str(error).split())
    return Outcome(
        f"unexpected {type(error).__name__}: {detail}" if detail else f"unexpected {type(error).__name__}",
        1,
        "run again with OPTIMIZE_DEBUG=1 for the traceback",
    )
