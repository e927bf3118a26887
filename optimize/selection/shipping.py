"""The chosen engine on its way: the very build whose numbers were judged, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

from engines import manifest, scratch
from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, quiet
from optimize.selection.stock import Held
from optimize.ship import choose, fetch, triton
from optimize.ship.prepare import default_name, prepared
from optimize.ship.send import ship
from optimize.ship.url import open_store, shown

PathLike = Union[str, Path]

_BENCH = "measure again: optimize bench ENGINE..., or name a repository that holds it with --from URL"


def check(
    to: Optional[str],
    name: Optional[str],
    sign: Optional[PathLike],
    load: Optional[str],
    anyway: bool,
    names: Sequence[str],
    source: Optional[str],
) -> None:
    """Refuse options that do not go together, before anything is read.

    Raises:
        UsageError: Names them.
    """
    if to is None and (name or sign or load or anyway):
        raise UsageError("--ship-as, --sign, --load and --ship-anyway are for what is shipped", "--ship-to URL")
    if names and source is None:
        raise UsageError("--name is of a repository", "--from URL")
    if to is not None:
        tag = choose.parse_reference(name)[1] if name and not to.startswith(triton.SCHEME) else "latest"
        if to.startswith(triton.SCHEME):
            if sign or tag != "latest":
                raise UsageError("--sign is for stores, and not for Triton's repository", "leave it out")
        elif load:
            raise UsageError("--load is for a repository of Triton", "--ship-to triton:DIR")


def ship_choice(
    found: Mapping[str, Any],
    held: Sequence[Held],
    source: Optional[str],
    to: str,
    name: Optional[str] = None,
    sign: Optional[PathLike] = None,
    load: Optional[str] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Ship the engine that a choice names.

    Args:
        found: The choice.
        held: What the repository holds, if there is one.
        source: Its URL; None takes the bundle from where it was measured.
        to: Store, or repository of Triton.
        name: NAME or NAME:TAG there; by default what the repository calls it, or the bundle.
        sign, load, progress: See `optimize.ship.send.ship`.

    Returns:
        What `ship` returns, with `from` (URL or folder), `build_key` and `engine_sha256`.

    Raises:
        UsageError: The choice is no engine of `optimize build`, or is not on this machine.
        IncompatibleError: What is there by now is another engine than was judged.
        OptimizeError: See `ship`.
    """
    bundle = next(one["bundle"] for one in found["candidates"] if one["target"] == found["chosen"])
    if bundle is None:
        raise UsageError(f"{found['chosen']} is no bundle that could be shipped, or its run tells of none", _BENCH)
    judged = (bundle["build_key"], bundle["engine_sha256"])
    with scratch.folder() as room:
        place, own_name = _brought(Path(room), bundle, judged, held, source, progress)
        _same(place, judged)
        if to.startswith(triton.SCHEME):
            done = ship([place], to, name or own_name, load=load, progress=progress)
        else:
            called, tag, _ = choose.parse_reference(name or own_name or default_name(place))
            ready = Path(room, "ready")
            ready.mkdir()
            made = prepared(place, ready, called, Path(sign) if sign else None, progress)
            _same(made, judged)  # what was prepared earlier, or from files that changed since
            done = ship([made], to, called, tag, progress=progress)
        _same(place, judged)
    where = shown(source) if source is not None else str(place)
    return {**done, "from": where, "build_key": judged[0], "engine_sha256": judged[1]}


def _brought(
    room: Path,
    bundle: Mapping[str, str],
    judged: Tuple[str, str],
    held: Sequence[Held],
    source: Optional[str],
    progress: Progress,
) -> Tuple[Path, Optional[str]]:
    """Where the engine is on this machine, and the name that it has in the repository."""
    if source is None:
        place = Path(bundle["path"])
        if not place.is_dir():
            raise UsageError(f"{place}: the chosen engine is not on this machine", _BENCH)
        return place, None
    one = next(one for one in held if one.identity == judged)
    store = open_store(source)
    try:
        return fetch.fetch(store, one.name, one.entry, room / "versions", progress=progress), one.name
    finally:
        store.close()


def _same(place: Path, judged: Tuple[str, str]) -> None:
    """Refuse a bundle that is not the one that was judged.

    Raises:
        IncompatibleError: It is not.
    """
    here = manifest.identity(manifest.read(place))
    if (here["build_key"], here["engine_sha256"]) != judged:
        raise IncompatibleError(f"{place} is not the engine that was measured: it was built anew since", _BENCH)
