"""Finished stages of output folders: list them, remove them."""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from engines import jsonfile
from engines.errors import DamagedError, UsageError
from optimize.pipeline.stages import Workspace

_STAGE = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}|\.[a-z0-9-]+-[0-9a-f]{16}\..*\.(part|old)")
"""Folders that stages make; nothing else is ever removed."""

_SUFFIX = ".optimized"

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def entries(folder: Path) -> List[Dict[str, Any]]:
    """Every finished stage of the output folders in `folder`, however deep.

    Returns:
        `model` (of what is built there), `name` of the stage, `created` (UTC, empty where it is damaged), `bytes` and
        `path` of each.

    Raises:
        UsageError: No such folder.
    """
    found = []
    for space in _workspaces(folder):
        model = _model(space.root.parent)
        for stage in sorted(space.stages.glob("*/stage.json")):
            try:
                record = jsonfile.read(stage) if stage.is_file() else {}
            except (OSError, DamagedError):
                record = {}
            told = {k: v for k, v in record.items() if isinstance(v, str)}
            size = sum(p.stat().st_size for p in stage.parent.rglob("*") if p.is_file())
            found.append(
                {
                    "model": model,
                    "name": told.get("name", "damaged"),
                    "created": told.get("created", ""),
                    "bytes": size,
                    "path": str(stage.parent),
                }
            )
    return found


def removable(folder: Path) -> Tuple[List[Path], int]:
    """What `remove` would remove, and the bytes in it; some of them are a bundle's too, and stay on the disk.

    Raises:
        UsageError: No such folder.
    """
    found = [stage for space in _workspaces(folder) for stage in _stages(space)]
    return found, sum(p.lstat().st_size for stage in found for p in stage.rglob("*") if p.is_file())


def remove(folder: Path) -> List[Path]:
    """Remove every finished stage, and what an interrupted one left; bundles are not touched.

    Raises:
        UsageError: No such folder.
    """
    removed = []
    for space in _workspaces(folder):
        with space.locked():
            for stage in _stages(space):
                shutil.rmtree(stage)
                removed.append(stage)
    return removed


def age(created: str) -> str:
    """How long ago a stage was made, in its largest unit; `?` where that cannot be told."""
    try:
        made = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return "?"
    seconds = max(0, int((datetime.now(timezone.utc) - made).total_seconds()))
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return "now"


def _workspaces(folder: Path) -> Iterator[Workspace]:
    """The workspaces of the output folders in `folder`, itself and those inside it, in the order of their paths."""
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}")
    for place, inside, _ in os.walk(str(folder)):  # it follows no links
        space = Workspace(Path(place) / ".optimize")
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        # a link may lead anywhere: what lies there is not ours to list or remove
        if space.stages.is_dir() and not any(p.is_symlink() for p in (space.root, space.stages)):
            yield space


def _stages(space: Workspace) -> List[Path]:
    """The folders of a workspace that stages made, finished or not."""
    return [
        place
        for place in sorted(space.stages.iterdir())
        if _STAGE.fullmatch(place.name) and place.is_dir() and not place.is_symlink()
    ]


def _model(out: Path) -> str:
    """What an output folder is of: its bundles tell; before there are any, its name does."""
    names = []
    for file in sorted(out.glob("*/manifest.json")):
        try:
            name = jsonfile.read(file)["model"]["name"]
        except (OSError, DamagedError, LookupError, TypeError):
            continue
        names.append(str(name))
    place = out.resolve().name
    return ", ".join(dict.fromkeys(names)) or (place[: -len(_SUFFIX)] if place.endswith(_SUFFIX) else place)
