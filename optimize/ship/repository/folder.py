"""A model repository in a folder that Triton sees: a version appears in one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import ContextManager, List, Mapping, Optional

from engines import jsonfile
from engines.errors import UsageError
from optimize.ship.repository.place import CONFIG, VERSION, Source, changed, taken
from optimize.ship.store import Moved
from optimize.ship.stores import keys
from optimize.ship.stores.flow import blocks, paced
from optimize.ship.stores.folder import FolderPlace
from optimize.ship.tritonconfig import LABELS


class FolderRepository:
    """See `place.Repository`."""

    at_once = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = str(folder)
        self.place = FolderPlace(folder, self.root)

    def alone(self) -> ContextManager[None]:
        """See `Repository.alone`."""
        if self.folder.is_symlink() and not self.folder.exists():
            raise UsageError(f"{self.folder} is a link to nothing", "name another folder")
        return self.place.alone()

    def versions(self, model: str) -> List[int]:
        """See `Repository.versions`."""
        folder = self.folder / model
        if not os.path.lexists(folder):
            return []
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise UsageError(f"{folder} is a link or a file, and not a model of its own", "--name OTHER")
        for name in (CONFIG, LABELS):
            if os.path.lexists(folder / name) and not _is_plain(folder / name):
                raise UsageError(f"{folder / name} is no plain file", "--name OTHER")
        jsonfile.sweep(folder, keys.FORGOTTEN_S)
        return sorted(int(one.name) for one in folder.iterdir() if VERSION.fullmatch(one.name))

    def config(self, model: str) -> Optional[bytes]:
        """See `Repository.config`."""
        return self.place.read(f"{model}/{CONFIG}", keys.DOCUMENT)

    def holds(self, model: str, version: int, files: Mapping[str, Source]) -> bool:
        """See `Repository.holds`."""
        folder = self.folder / model / str(version)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return {one.name for one in folder.iterdir()} == set(files) and all(
                _is_plain(folder / name) and jsonfile.sha256(folder / name) == source.sha256
                for name, source in files.items()
            )
        return False

    def add(self, model: str, version: int, files: Mapping[str, Source], moved: Moved, limit: int) -> None:
        """See `Repository.add`."""
        have, target = 0, self.folder / model / str(version)
        try:
            with jsonfile.replacing_folder(target, new=True) as part:
                for name, source in files.items():
                    copied(source.path, part / name, limit)
                    have += source.path.stat().st_size
                    moved(have)
                    if jsonfile.sha256(part / name) != source.sha256:
                        raise changed(source)
                os.chmod(part, 0o755)  # noqa: S103  (Triton runs as a user of its own)
        except OSError:
            if os.path.lexists(target):  # where the file system has no locks
                raise taken(self.root, model, version) from None
            raise

    def replace(self, model: str, name: str, data: bytes) -> None:
        """See `Repository.replace`."""
        path = self.folder / model / name
        if path.is_file() and path.read_bytes() == data:
            return
        with jsonfile.replacing_file(path) as part:
            part.write_bytes(data)

    def close(self) -> None:
        """See `Repository.close`."""


def copied(source: Path, target: Path, limit: int) -> None:
    """Copy a file; without a limit as quickly as the system can."""
    if not limit:
        shutil.copyfile(source, target)
        return
    with open(source, "rb") as read, open(target, "wb") as write:
        for block in paced(blocks(read, limit), limit):
            write.write(block)


def _is_plain(path: Path) -> bool:
    """Whether it is a file and no link; to read another, a FIFO say, may never end."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
