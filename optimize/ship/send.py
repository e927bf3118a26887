"""To a store: what it lacks of some shipments, then the name that points to them."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from engines import manifest, scratch
from engines.errors import OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.ship import choose, oci, shipment
from optimize.ship.prepare import default_name, prepared
from optimize.ship.store import Store
from optimize.ship.url import open_store, shown

_TRIES = 12
"""Of publishing a name, where others publish to it at the same time."""

_SETTLE_S, _SETTLE_TIMES = 0.1, 2.0
"""How long after publishing the name is read back: so long, or so many times as long as publishing took. Whoever had
read the index before has written theirs by then."""


def ship(
    bundles: Sequence[Union[str, Path]],
    to: str,
    name: Optional[str] = None,
    tag: str = "latest",
    sign: Optional[Union[str, Path]] = None,
    limit: int = 0,
    data: Optional[str] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Send engines to a store under one name: each is the variant of a device.

    Variants of other devices that are there already stay, if they come of the same model in the same precision.

    Args:
        bundles: Bundles of one model and precision, each for another device; or shipments that were pulled.
        to: URL of the store (`optimize.ship.url`).
        name: By default the manifest's, such as `resnet34-fp16`.
        tag: Which of the name's versions this is.
        sign: Private key that signs.
        limit: Bytes per second; 0 for none.
        data: Data set whose images go along, so that other machines can calibrate INT8 with them.
        progress: Told the bytes, and what is left out or replaced and why.

    Returns:
        `name`, `tag`, `digest` (of the index), `url`, `variants`: `variant` (digest), `device`, `bytes` and
        `sent_bytes` of each.

    Raises:
        UsageError: No bundle, two of one device or of two models, or a name, tag or URL that is none.
        DamagedError: A bundle is not what its manifest says.
        OptimizeError: The store failed; what was sent is kept there.
    """
    about = _manifests(bundles)
    name = default_name(about[0]) if name is None else name
    choose.parse_reference(f"{name}:{tag}")
    if limit < 0:
        raise UsageError(f"--bandwidth: {limit} bytes a second")
    store = open_store(to)
    try:
        store.resolve(name, tag)  # a store that cannot be reached is told before any work
        with scratch.folder() as room:
            done = []
            for number, bundle in enumerate(bundles):
                place = Path(room, str(number))
                place.mkdir()
                folder = prepared(Path(bundle), place, name, Path(sign) if sign else None, progress, data)
                done.append(_send(store, name, folder, limit, progress))
        digest = publish(store, name, tag, [entry for entry, _, _ in done], progress)
    finally:
        store.close()
    return {
        "name": name,
        "tag": tag,
        "digest": digest,
        "url": shown(to),
        "variants": [
            {"variant": entry.digest, "device": entry.device.to_json(), "bytes": size, "sent_bytes": sent}
            for entry, size, sent in done
        ],
    }


def _manifests(bundles: Sequence[Union[str, Path]]) -> List[Dict[str, Any]]:
    if not bundles:
        raise UsageError("no bundle to ship", "optimize ship BUNDLE... --to URL")
    about = []
    for bundle in bundles:
        if not Path(bundle).is_dir():
            raise UsageError(f"{bundle} is not an engine bundle (a folder)", "optimize build MODEL --precision fp16")
        about.append(manifest.read(Path(bundle)))
    first = about[0]
    for bundle, one in zip(bundles, about):
        if (one["model"]["sha256"], one["precision"]) != (first["model"]["sha256"], first["precision"]):
            raise UsageError(
                f"{bundle} is of another model or precision than {bundles[0]}", "ship each under a name of its own"
            )
    keys = [oci.canonical(one["device"]) for one in about]
    for bundle, key in zip(bundles, keys):
        if keys.count(key) > 1:
            raise UsageError(f"{bundle}: another of these bundles is for the same device", "ship one of them")
    return about


def _send(store: Store, name: str, folder: Path, limit: int, progress: Progress) -> Tuple[oci.Entry, int, int]:
    """Send what the store lacks of a shipment; its entry, its bytes, and those that were sent."""
    content = oci.variant(folder)
    blobs = oci.blobs(folder)
    digests = {blob.digest: blob for blob in blobs}
    lacking = [blob for blob in digests.values() if store.size(name, blob.digest) != blob.size]
    total, done = sum(blob.size for blob in lacking), 0
    for blob in lacking:

        def moved(count: int, before: int = done) -> None:
            progress(f"shipping {name}", before + count, total)

        store.put(name, blob.digest, folder / blob.name, moved, limit)
        done += blob.size
        progress(f"shipping {name}", done, total)
    entry = oci.entry(folder, content)
    if store.size(name, entry.digest) is None:
        store.put_document(name, oci.MANIFEST, content)
        total += len(content)
    return entry, sum(blob.size for blob in blobs) + len(content), total


def put(store: Store, name: str, folder: Path) -> oci.Entry:
    """Keep a whole shipment in a store, without a name that points to it."""
    return _send(store, name, folder, 0, quiet)[0]


def publish(store: Store, name: str, tag: str, entries: Sequence[oci.Entry], progress: Progress = quiet) -> str:
    """Let a name point to some variants, beside those of other devices that it points to already.

    In a folder one writer waits for the other. No other store changes a name only if nobody else did meanwhile, so the
    name is read back: where another writer's index has taken ours away, both are merged and published again.

    Returns:
        Digest of the index that the name points to.

    Raises:
        OptimizeError: Others publish to it all the time.
    """
    told = False
    first: Optional[Tuple[oci.Entry, ...]] = None
    with store.alone():
        for _ in range(_TRIES):
            begun = time.monotonic()
            before = _there(store, name, tag)
            if first is None:
                first = before.entries if before else ()
            merged, dropped = merge(before, entries)
            if dropped and not told:
                told = True
                words = "; ".join(f"{choose.describe(one.device)} ({one.precision})" for one in dropped)
                progress(f"{name}:{tag} no longer has the variants of another model or precision: {words}", 0, A_LINE)
            text = oci.index(merged)
            digest = oci.digest_of(text)
            if before is None or before.digest != digest:
                store.tag(name, tag, oci.INDEX, text)
                took = time.monotonic() - begun
                time.sleep(max(_SETTLE_S, _SETTLE_TIMES * took) * (1 + random.random()))  # noqa: S311  (no secret)
                before = _there(store, name, tag)
            if before is not None and not _lost(entries, before, first):
                return before.digest
    raise OptimizeError(f"{name}:{tag} is published by others all the time", "run the same command again")


def _lost(entries: Sequence[oci.Entry], now: oci.Index, first: Sequence[oci.Entry]) -> bool:
    """Whether a writer who knew only what was there first has taken a variant away; one who replaced it has not."""
    there = {entry.device: entry for entry in now.entries}
    return any(there.get(one.device) != one and there.get(one.device) in (None, *first) for one in entries)


def _there(store: Store, name: str, tag: str) -> Optional[oci.Index]:
    digest = store.resolve(name, tag)
    if digest is None:
        return None
    return oci.read_index(store.get_document(name, digest, shipment.LARGEST_DOCUMENT), name, tag, digest)


def merge(before: Optional[oci.Index], entries: Sequence[oci.Entry]) -> Tuple[List[oci.Entry], List[oci.Entry]]:
    """The variants of an index after some were shipped to it, and those that it loses for being of something else."""
    fresh = {entry.device for entry in entries}
    kinds = {(entry.model, entry.precision) for entry in entries}
    others = [entry for entry in (before.entries if before else ()) if entry.device not in fresh]
    dropped = [entry for entry in others if (entry.model, entry.precision) not in kinds]
    return [*entries, *(entry for entry in others if entry not in dropped)], dropped
