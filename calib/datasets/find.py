"""Where CIFAR-10 may already lie on a machine: beside the user's files, and in the caches of the frameworks."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import List, Optional

_FOLDERS = (
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    # Keras 3 unpacks into a folder named after the archive.
    "cifar-10-batches-py-target/cifar-10-batches-py",
)


def cache_dir() -> Path:
    """This user's cache of the project: `OPTIMIZE_CACHE`, else the system's place for caches."""
    if os.environ.get("OPTIMIZE_CACHE"):
        return Path(os.environ["OPTIMIZE_CACHE"]).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "optimize"


def find_cifar10() -> Optional[Path]:
    """The first folder with training and test batches of CIFAR-10; None where there is none."""
    for root in _roots():
        for place in [root, *(root / name for name in _FOLDERS)]:
            if place.is_dir() and _complete(place):
                return place
    return None


def _roots() -> List[Path]:
    roots = [Path(os.environ["OPTIMIZE_DATA"]).expanduser()] if os.environ.get("OPTIMIZE_DATA") else []
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    # torchvision unpacks into the folder that its user names; `data` is the custom.
    return [*roots, Path("."), Path("data"), keras / "datasets", cache_dir()]


def _complete(place: Path) -> bool:
    names = [p.name for p in place.iterdir()]
    for suffix in (r"\.bin", ""):
        if f"test_batch{suffix[1:]}" in names and any(re.fullmatch(r"data_batch_\d+" + suffix, n) for n in names):
            return True
    return False
