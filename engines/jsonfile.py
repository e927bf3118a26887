"""The one strict JSON reader and the one atomic writer of the project."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Tuple, Union

from engines import fields
from engines.errors import DamagedError, UsageError

LIMIT = 256 * 1024 * 1024
"""Largest JSON file read, bytes: raw samples of a long run fit; a hostile file does not fill the memory."""

_LEFT = re.compile(r"\..+\.[0-9a-f]{16}\.(part|old)")

PathLike = Union[str, "os.PathLike[str]"]


def _no_duplicates(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    out: Dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"duplicate key {key!r}")
        out[key] = value
    return out


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return value


def loads(text: str) -> Any:
    """Parse strict JSON: duplicate keys, NaN, Infinity and numbers beyond a float (1e999) are refused.

    Raises:
        ValueError: The text is not strict JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Any) -> str:
    """Strict, stable, readable JSON text with a newline at its end.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(value, indent=1, sort_keys=False, allow_nan=False, ensure_ascii=False) + "\n"


def plain(path: PathLike) -> IO[bytes]:
    """Open a plain file to read its bytes, at once: one who reads a FIFO waits for ever for somebody who writes to it.

    Raises:
        DamagedError: A folder or a special file, or links in a circle.
        OSError: It cannot be opened, such as where there is none.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
            raise DamagedError(f"{path}: not a plain file ({error.strerror})") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DamagedError(f"{path}: a folder or special file, where a plain file is expected")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read(path: PathLike, schema: str = "") -> Dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: The file.
        schema: `name/major` that its `schema` field must have, such as `optimize.run/1`; any where empty.

    Raises:
        DamagedError: No plain file, too large, not strict JSON, not an object, or another schema.
        NewerError: A newer major of the schema.
        FileNotFoundError: No such file.
    """
    with plain(path) as handle:
        if os.fstat(handle.fileno()).st_size > LIMIT:
            raise DamagedError(f"{path}: larger than {LIMIT >> 20} MiB, not a file of this project")
        text = handle.read()
    try:
        value = loads(text.decode("utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedError(f"{path}: a JSON object is expected")
    if schema and value.get("schema") != schema:
        raise fields.other_schema(value.get("schema"), schema, str(path))
    return value


def checked(path: PathLike, schema: str, check: Callable[[Any], None], hint: str = "") -> Dict[str, Any]:
    """Read a JSON object, and hold it against what its schema says; what is wrong names the file.

    Args:
        path: The file.
        schema: See `read`.
        check: Raises DamagedError where a field is missing or wrong.
        hint: Of the error, where `check` gives none.

    Raises:
        DamagedError: See `read`, or by `check`.
        FileNotFoundError: No such file.
    """
    value = read(path, schema)
    try:
        check(value)
    except DamagedError as error:
        raise DamagedError(f"{path}: {error.message}", error.hint or hint) from None
    return value


def fsync_folder(path: PathLike) -> None:
    """Make a rename inside `path` durable (POSIX; elsewhere nothing)."""
    if os.name != "posix":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _beside(target: Path, suffix: str) -> Path:
    """A name that is not taken, known before anything of it exists: an interrupt at any time finds what to remove."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}{suffix}")


def sweep(folder: PathLike, older_s: float = 0.0) -> None:
    """Remove what killed writers have left in a folder.

    Args:
        folder: Nobody else writes there meanwhile, or `older_s` is longer than any writer takes.
        older_s: Age of what is removed, seconds.
    """
    for left in Path(folder).glob(".*"):
        if _LEFT.fullmatch(left.name):
            with contextlib.suppress(FileNotFoundError):  # its writer is at work, and done by now
                if not older_s or time.time() - left.lstat().st_mtime > older_s:
                    _remove(left)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder; what of a folder cannot be removed stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    with contextlib.suppress(OSError):
        path.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def writable(path: PathLike, example: str) -> None:
    """Tell before minutes of work that a file cannot be written after it.

    Args:
        path: Of the file; its folder is there.
        example: Of the option that names it, for the hint, such as `-o runs.json`.

    Raises:
        UsageError: A folder has the name, or a device (see `replacing_file`), or its folder cannot be written to.
    """
    target = Path(path)
    _no_device(target)
    if target.is_dir() or not os.access(target.resolve().parent, os.W_OK):
        raise UsageError(f"{path} cannot be written", f"name another file with {example}")


def _no_device(path: Path) -> None:
    with contextlib.suppress(OSError):  # nothing there, or what the writer will tell
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UsageError(f"{path} is a device, FIFO or socket, and not a plain file", "name another file")


@contextlib.contextmanager
def replacing_file(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over it, else removed.

    Raises:
        UsageError: A device, FIFO or socket has the name, such as /dev/null: a file in its place would break others.
    """
    target = Path(path)
    _no_device(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target, ".part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield part
        with open(part, "rb+") as handle:
            os.fsync(handle.fileno())
        os.chmod(part, 0o644)
        os.replace(part, target)
        fsync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: PathLike, new: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it is synced and takes its place, else removed.

    What is at `path` already, be it a folder, a file or a link, is moved aside first and removed last, so that a kill
    leaves one of the two.

    Args:
        path: Of the folder.
        new: What is there by then stays: another may have written it meanwhile.

    Raises:
        OSError: With `new`, something is there; only an empty folder is replaced.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target, ".part")
    try:
        part.mkdir(0o700)
        yield part
        for folder, _, names in os.walk(part):
            for name in names:
                with open(os.path.join(folder, name), "rb") as handle:
                    os.fsync(handle.fileno())
            fsync_folder(folder)
        os.chmod(part, 0o755)  # noqa: S103  (readable by all, as any folder made by hand)
        if not new and os.path.lexists(target):
            old = _beside(target, ".old")
            os.replace(target, old)  # in the same folder, which needs no right to write into what is moved
            try:
                os.replace(part, target)
            except OSError:
                os.replace(old, target)
                raise
            _remove(old)
        else:
            os.replace(part, target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write(path: PathLike, value: Any) -> None:
    """Write `value` as JSON atomically: temporary file, fsync, rename."""
    text = dumps(value)
    with replacing_file(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # \udcc3, of a name in no encoding


def sha256(path: PathLike) -> str:
    """SHA-256 of a file's bytes, or of a folder's sorted relative names and bytes, as lower-case hex."""
    root = Path(path)
    digest = hashlib.sha256()
    if root.is_dir():
        for item in sorted(p for p in root.rglob("*") if p.is_file()):
            digest.update(
                item.relative_to(root).as_posix().encode("utf-8", "surrogateescape") + b"\0" + sha256(item).encode()
            )
        return digest.hexdigest()
    with plain(root) as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
