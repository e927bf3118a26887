"""The trust store of a node: the public keys whose signatures it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from engines import jsonfile
from engines.errors import UsageError
from engines.spec import Progress, quiet
from optimize.ship import node, trust


def listed(folder: Path) -> List[Dict[str, str]]:
    """The `id` and the `line` of every key that a node trusts.

    Raises:
        DamagedError: A file of the store is no key, or not the one of its name.
    """
    return [{"id": name, "line": trust.public_line(raw)} for name, raw in trust.trusted(folder / "trust").items()]


def add(folder: Path, key: Path, wait: bool = True, progress: Progress = quiet) -> Dict[str, Any]:
    """Trust the signatures of a key.

    Args:
        folder: Of the node.
        key: File of the public key.
        wait: For another writer.
        progress: See `node.locked`.

    Returns:
        Its `id` and `line`, and whether it is `new` here.

    Raises:
        UsageError: No such file.
        DamagedError: No public key.
        OptimizeError: See `node.locked`.
    """
    raw = trust.read_public(key)
    name, line = trust.key_id(raw), trust.public_line(raw)
    with node.locked(folder, wait, progress):
        new = name not in trust.trusted(folder / "trust")
        if new:
            with jsonfile.replacing_file(folder / "trust" / f"{name}.pub") as part:
                part.write_text(line + "\n", encoding="ascii")
    return {"id": name, "line": line, "new": new}


def remove(folder: Path, name: str, wait: bool = True, progress: Progress = quiet) -> Dict[str, Any]:
    """Trust a key no more; versions that it has signed stay, and are refused when they are activated again.

    Args:
        folder: Of the node.
        name: The key's id.
        wait: For another writer.
        progress: See `node.locked`.

    Returns:
        Its `id`, and `left`, the ids that are trusted still.

    Raises:
        UsageError: Not trusted; or the last one, where signatures are required.
        OptimizeError: See `node.locked`.
    """
    with node.locked(folder, wait, progress):
        known = trust.trusted(folder / "trust")
        if name not in known:
            raise UsageError(
                f"{name}: not trusted here; there are {', '.join(known) or 'none'}", "optimize node trust ls"
            )
        left = sorted(set(known) - {name})
        if not left and node.policy(folder)["require_signature"]:
            raise UsageError(
                f"{name} is the last key, and signatures are required: every shipment would be refused",
                "optimize node trust add another, or: optimize node policy --no-require-signature",
            )
        (folder / "trust" / f"{name}.pub").unlink()
        jsonfile.fsync_folder(folder / "trust")
    return {"id": name, "left": left}
