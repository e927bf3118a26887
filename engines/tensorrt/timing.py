"""Timing caches: what TensorRT measured of its tactics, kept for the next build on the same device and clocks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

from engines import jsonfile


def file_for(base: Path, device: str, capability: str, version: str, clocks: Dict[str, Any]) -> Path:
    """The cache that belongs to this device, TensorRT and state of the clocks: `base` with a key in its name.

    Tactics timed at other clocks would be compared with those timed now.
    """
    gpu = clocks.get("gpu") or {}
    state = {"state": clocks.get("state"), "gpu": gpu.get("now_hz") if clocks.get("state") == "locked" else None}
    key = json.dumps([device, capability, version, state], sort_keys=True)
    return base.with_name(f"{base.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{base.suffix}")


def load(config: Any, path: Path) -> Tuple[Any, List[str]]:
    """Give a builder config the cache in a file, or an empty one; flags tell where the file could not be used."""
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    flags = []
    if cache is None or not config.set_timing_cache(cache, False):
        flags.append("timing-cache-ignored")
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            return None, [*flags, "no-timing-cache"]
    return cache, flags


def save(config: Any, path: Path) -> None:
    """Add what a build measured to a file; what another build has put there meanwhile stays."""
    from filelock import FileLock

    cache = config.get_timing_cache()
    if cache is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path) + ".lock"):
        if path.is_file():
            there = config.create_timing_cache(path.read_bytes())
            if there is not None:
                cache.combine(there, False)
        memory = cache.serialize()
        if memory is None:
            return
        with jsonfile.replacing_file(path) as part:
            part.write_bytes(bytes(memory))
