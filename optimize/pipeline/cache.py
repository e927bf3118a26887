"""Finished stages of output folders: list them, remove them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List

from engines import jsonfile
from engines.errors import DamagedError, UsageError
from optimize.pipeline.stages import Workspace

_STAGE = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}|\.[a-z0-9-]+-[0-9a-f]{16}\..*\.(part|old)")
"""Folders that stages make; nothing else is ever removed."""


def _workspaces(folder: Path) -> Iterator[Workspace]:
    """The workspace of an output folder, or of every output folder directly inside `folder`."""
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    places = [folder] if (folder / ".optimize").is_dir() else sorted(folder.iterdir())
    for place in places:
        space = Workspace(place / ".optimize")
        # a link may lead anywhere: what lies there is not ours to list or remove
        if space.stages.is_dir() and not any(p.is_symlink() for p in (space.root, space.stages)):
            yield space


def entries(folder: Path) -> List[Dict[str, Any]]:
    """Every finished stage: its name, when it was made, its size in bytes and its path.

    Raises:
        UsageError: No such folder.
    """
    found = []
    for space in _workspaces(folder):
        for stage in sorted(space.stages.glob("*/stage.json")):
            try:
                record = jsonfile.read(stage) if stage.is_file() else {}
            except (OSError, DamagedError):
                record = {}
            told = {k: v for k, v in record.items() if isinstance(v, str)}
            size = sum(p.stat().st_size for p in stage.parent.rglob("*") if p.is_file())
            found.append(
                {
                    "name": told.get("name", "damaged"),
                    "created": told.get("created", ""),
                    "bytes": size,
                    "path": str(stage.parent),
                }
            )
    return found


def remove(folder: Path) -> List[Path]:
    """Remove every finished stage, and what an interrupted one left; bundles are not touched.

    Raises:
        UsageError: No such folder.
    """
    removed = []
    for space in _workspaces(folder):
        with space.locked():
            for stage in sorted(space.stages.iterdir()):
                if _STAGE.fullmatch(stage.name) and stage.is_dir() and not stage.is_symlink():
                    shutil.rmtree(stage)
                    removed.append(stage)
    return removed
