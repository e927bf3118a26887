"""Timing caches: what TensorRT measured of its tactics, kept for the next build on the same device and clocks."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from engines import jsonfile

IGNORED = "timing-cache-ignored"
"""A file was there and could not be used: damaged, or of another TensorRT or device."""

NONE = "no-timing-cache"
"""TensorRT gave no timing cache at all."""

NOT_WRITTEN = "timing-cache-not-written"
"""What was measured is lost for the next build; the plan is not."""


def file_for(base: Path, device: str, capability: str, version: str, clocks: Dict[str, Any]) -> Path:
    """The cache that belongs to this device, TensorRT and state of the clocks: `base` with a key in its name.

    Tactics timed at other clocks would be compared with those timed now. Locked clocks count by their frequency,
    others by the highest one that the power mode allows.

    Args:
        base: Such as `timing.cache`; in a folder it is called so.
        device: Name of the GPU.
        capability: Such as `8.7`.
        version: Full version of TensorRT.
        clocks: Of `engines.board.clocks`; may be empty.
    """
    base = base / "timing.cache" if base.is_dir() else base
    which = "now_hz" if clocks.get("state") == "locked" else "max_hz"
    state = {name: (clocks.get(name) or {}).get(which) for name in ("gpu", "emc")}
    key = json.dumps([device, capability, version, clocks.get("state"), state], sort_keys=True)
    words = re.sub(r"[^A-Za-z0-9.+]+", "-", f"{device}-sm{capability.replace('.', '')}-{version}").strip("-").lower()
    return base.with_name(f"{base.stem}-{words}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{base.suffix}")


def _read(path: Path) -> Optional[bytes]:
    """Content of a file: empty where there is none, None where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError:
        return None


def load(config: Any, path: Path) -> List[str]:
    """Give a builder config the cache in a file, or an empty one.

    Returns:
        Flags: `IGNORED` where the file could not be used, `NONE` where there is no cache now.
    """
    content = _read(path)
    if content and _use(config, content):
        return []
    flags = [] if content == b"" else [IGNORED]
    return flags if _use(config, b"") else [*flags, NONE]


def _use(config: Any, content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def save(config: Any, path: Path) -> List[str]:
    """Add what a build measured to a file; what another build has put there meanwhile stays.

    Returns:
        Flags: `NOT_WRITTEN` where that failed, which is no reason to lose the build.
    """
    from filelock import FileLock

    cache = config.get_timing_cache()
    if cache is None:
        return []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".lock"):
            content = _read(path)
            there = config.create_timing_cache(content) if content else None
            if there is not None:
                cache.combine(there, False)  # False where it is of another device: then it is replaced
            memory = cache.serialize()
            if memory is None:
                return [NOT_WRITTEN]
            with jsonfile.replacing_file(path) as part:
                part.write_bytes(bytes(memory))
    except OSError:
        return [NOT_WRITTEN]
    return []
