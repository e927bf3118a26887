"""CIFAR-10 from the University of Toronto: resumed where it broke off, and checked before it is used."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import socket
import ssl
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any, Optional

from filelock import FileLock

from calib.datasets.cifar import RECORD
from calib.datasets.find import cache_dir
from engines import jsonfile
from engines.errors import DataError, IncompatibleError, UsageError
from engines.spec import Progress, quiet

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""As published beside the archive."""

FOLDER = "cifar-10-batches-bin"

_MEMBERS = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt", "readme.html")

_BATCH = 10000 * RECORD
"""Largest member, bytes."""

_TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

_ATTEMPTS = 4

_HINT = "give your own images with --data DIR, or take --data synthetic; a mirror: OPTIMIZE_CIFAR10_URL"


def fetch_cifar10(
    url: Optional[str] = None, md5: Optional[str] = None, cache: Optional[Path] = None, progress: Progress = quiet
) -> Path:
    """Download and unpack CIFAR-10's binary archive, once; what a broken attempt left is carried on.

    Args:
        url: Of the archive; `OPTIMIZE_CIFAR10_URL`, else the University of Toronto.
        md5: That the archive must have, lower-case hex; the published one by default.
        cache: Where it goes; this user's cache by default.
        progress: Told the bytes.

    Returns:
        The folder with the batches.

    Raises:
        DataError: No connection, a wrong checksum, or an archive that is not CIFAR-10.
        UsageError: The address is not http or https.
    """
    url = url or os.environ.get("OPTIMIZE_CIFAR10_URL") or URL
    md5 = md5 or MD5
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"OPTIMIZE_CIFAR10_URL {url!r}: an http or https address is needed")
    cache = cache or cache_dir()
    folder = cache / FOLDER
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(cache / "cifar10.lock"))
        lock.acquire()
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise IncompatibleError(
            f"{cache}: cannot be written ({error.strerror})", "set OPTIMIZE_CACHE to a folder of yours"
        ) from None
    try:
        if not folder.is_dir():  # another process may have made it meanwhile
            part = cache / "cifar-10-binary.tar.gz.part"
            _download(url, part, md5, progress)
            _unpack(part, folder, progress)
            part.unlink()
    finally:
        lock.release()
    return folder


def _download(url: str, part: Path, md5: str, progress: Progress) -> None:
    fresh = not part.exists()
    why = ""
    for _ in range(_ATTEMPTS):
        try:
            complete = _attempt(url, part, progress)
        except urllib.error.HTTPError as error:
            why = f"the server answers {error.code} {error.reason}"
            if error.code < 500:
                break
            continue
        except urllib.error.URLError as error:
            why = str(error.reason)
            break  # not connected at all
        # Not OSError as such: a full disk is one too, and no further attempt mends it.
        except (http.client.HTTPException, ConnectionError, socket.timeout, ssl.SSLError) as error:
            why = str(error) or type(error).__name__
            continue
        if not complete:
            why = "the connection broke off"
            continue
        if _md5(part) == md5:
            return
        part.unlink()
        if fresh:
            raise DataError(f"{url}: wrong checksum; it is not the CIFAR-10 that was published", _HINT)
        fresh = True  # the piece left by an older attempt may have been of another file
    raise DataError(f"CIFAR-10 cannot be downloaded from {url}: {why or 'no answer'}", _HINT)


def _attempt(url: str, part: Path, progress: Progress) -> bool:
    """Fetch what is missing; whether all of it came."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "optimize", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (the scheme was checked)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return True  # nothing is missing; the checksum tells whether it is right
    with answer:
        resumed = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        if answer.status == 206 and not resumed:
            raise http.client.HTTPException("the server sent another piece than was asked for")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else 0
        with open(part, "ab" if resumed else "wb") as file:
            have = _copy(answer, file, have, total, progress)
    return have >= total


def _copy(answer: Any, file: Any, have: int, total: int, progress: Progress) -> int:
    while True:
        block = answer.read(1 << 16)
        if not block:
            return have
        file.write(block)
        have += len(block)
        progress("downloading CIFAR-10", have, total)


def _md5(path: Path) -> str:
    digest = hashlib.md5()  # noqa: S324  (the checksum that was published)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Copy the known members, plain files of a right size, and nothing else; the folder appears whole or not at all."""
    seen = set()
    try:
        with tarfile.open(archive, "r:gz") as tar, jsonfile.replacing_folder(folder) as out:
            for member in tar:
                where, _, name = member.name.rpartition("/")
                if member.isdir() and member.name.strip("/") == FOLDER:
                    continue
                if where != FOLDER or name not in _MEMBERS or not member.isfile() or name in seen:
                    raise DataError(f"{archive}: unexpected member {member.name!r}: not CIFAR-10", _HINT)
                if member.size > _BATCH or (name.endswith(".bin") and (member.size % RECORD or not member.size)):
                    raise DataError(f"{archive}: member {name} has {member.size} bytes: not CIFAR-10", _HINT)
                source = tar.extractfile(member)
                assert source is not None
                with open(out / name, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                seen.add(name)
                progress("unpacking CIFAR-10", len(seen), len(_MEMBERS))
            if not {"data_batch_1.bin", "test_batch.bin"} <= seen:
                raise DataError(f"{archive}: batches are missing: not CIFAR-10", _HINT)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: damaged archive ({error})", _HINT) from None
