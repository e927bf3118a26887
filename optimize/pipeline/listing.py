"""What identifies a data set without reading it: the names, sizes and times of its files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

from engines.errors import UsageError

Stamp = Tuple[int, int, int, int]

_TABLES = (".csv", ".txt")

_NO_DATA = (".log", ".json", ".jsonl")
"""No reader takes these for images or labels, and commands write them."""


class Listing(NamedTuple):
    """The files of a data set.

    Attributes:
        identity: Hash of every file's relative name and stamp; the reference itself where no file is there.
        newest: Of the file that changed last: when (ns), and its path. None where no file is there.
    """

    identity: str
    newest: Optional[Tuple[int, str]]


def stamp(about: os.stat_result) -> Stamp:
    """What changes when a file is written or replaced: its size and times, and which file it is.

    The time of change (ctime) cannot be set back, as `os.utime` sets back that of the content (mtime).
    """
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def list_data(reference: str) -> Listing:
    """List a data set: every file's relative name and `stamp`.

    What builds make does not count: `--data .` may hold the model and its output folder too.

    Raises:
        UsageError: The reference is neither a known name nor a file or folder.
    """
    from calib.datasets import locate

    where = locate(reference)
    if where is None:
        return Listing(reference, None)
    if not where.exists():
        raise UsageError(f"no such data set: {reference}", "give --data cifar10, a folder or an .npz file")
    seen, newest = hashlib.sha256(), (0, str(where))
    for file in sorted(_files(where)) if where.is_dir() else [str(where)]:
        try:
            about = os.stat(file)
        except FileNotFoundError:  # a link to nothing, or removed since it was listed
            continue
        name = os.path.relpath(file, where)
        seen.update(f"{name}\0{stamp(about)}\n".encode(errors="surrogateescape"))
        newest = max(newest, (about.st_ctime_ns, file))
    return Listing(seen.hexdigest(), newest)


def _files(where: Path) -> Iterator[str]:
    """Files in a folder, and the file with labels that may stand beside it; links are followed, as the readers do."""
    for folder, folders, names in os.walk(where, followlinks=True):
        if folder != str(where) and _is_made(folders, names):
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in names if _counts(name))
    stems = (where.name, f"{where.name}_labels")
    yield from (str(where.parent / (stem + suffix)) for stem in stems for suffix in _TABLES)


def _counts(name: str) -> bool:
    """Readers pass over hidden images, and editors and file browsers write hidden files; a hidden table is read."""
    return name.endswith(_TABLES) if name.startswith(".") else not name.endswith(_NO_DATA)


def _is_made(folders: List[str], names: List[str]) -> bool:
    """Whether a folder is an output folder of builds, or a bundle."""
    return ".optimize" in folders or ("manifest.json" in names and any(name.startswith("model") for name in names))
