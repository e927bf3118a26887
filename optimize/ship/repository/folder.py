"""A model repository in a folder that Triton sees: a version appears in one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import List, Mapping

from engines import jsonfile
from engines.errors import UsageError
from optimize.ship.repository.place import VERSION, Source, changed
from optimize.ship.store import Moved
from optimize.ship.stores.flow import blocks, paced


class FolderRepository:
    """See `place.Repository`."""

    at_once = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = str(folder)

    def versions(self, model: str) -> List[int]:
        """See `Repository.versions`."""
        folder = self.folder / model
        for place in (self.folder, folder):
            if place.is_symlink() and not place.exists():
                raise UsageError(f"{place} is a link to nothing", "name another folder")
        if not folder.is_dir():
            return []
        jsonfile.sweep(folder)
        return sorted(int(one.name) for one in folder.iterdir() if VERSION.fullmatch(one.name) and one.is_dir())

    def holds(self, model: str, version: int, files: Mapping[str, Source]) -> bool:
        """See `Repository.holds`."""
        folder = self.folder / model / str(version)
        with contextlib.suppress(FileNotFoundError):
            return {one.name for one in folder.iterdir()} == set(files) and all(
                jsonfile.sha256(folder / name) == source.sha256 for name, source in files.items()
            )
        return False

    def add(self, model: str, version: int, files: Mapping[str, Source], moved: Moved, limit: int) -> None:
        """See `Repository.add`."""
        have = 0
        with jsonfile.replacing_folder(self.folder / model / str(version)) as part:
            for name, source in files.items():
                copied(source.path, part / name, limit)
                have += source.path.stat().st_size
                moved(have)
                if jsonfile.sha256(part / name) != source.sha256:
                    raise changed(source)
            os.chmod(part, 0o755)  # noqa: S103  (Triton runs as a user of its own)

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
