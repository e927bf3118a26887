"""To a store: what it lacks of some shipments, then the name that points to them."""

from __future__ import annotations

import contextlib
import random
import shlex
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from calib.preprocess import differ
from engines import jsonfile, manifest, scratch
from engines.device import DeviceKey
from engines.errors import DamagedError, NewerError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.ship import choose, fetch, oci, shipment, triton, trust
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
    verify: Optional[bool] = None,
    load: Optional[str] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Send engines to a store under one name: each is the variant of a device.

    Variants of other devices that are there already stay, if they come of the same model in the same precision. What
    interrupted uploads have left there is removed when nobody has gone on with it for a day.

    Args:
        bundles: Bundles of one model and precision, each for another device; or shipments that were pulled.
        to: URL of the store (`optimize.ship.url`), or of a model repository of Triton (`triton:DIR` and the other forms
            of `optimize.ship.repository.place`), where name, limit and load are all that may be given.
        name: By default the manifest's, such as `resnet34-fp16`.
        tag: Which of the name's versions this is.
        sign: Private key that signs.
        limit: Bytes per second; 0 for none.
        data: Data set whose images go along, so that other machines can calibrate INT8 with them.
        verify: Hold what is there already against its hash, and send what is damaged anew; by default where the store
            is a folder, which is read as quickly as the bundle itself.
        load: With a model repository: URL of a Triton in explicit mode that is told to load the models.
        progress: Told the bytes, and what is left out or replaced and why.

    Returns:
        `name`, `tag`, `digest` (of the index), `url`, `variants`: `variant` (digest), `device`, `bytes`, `sent_bytes`,
        `mended` (files that were damaged there) and `unverified` (files there that nobody could check) of each. Of a
        model repository, see `triton.write_repository`, and `loaded` (see `triton.load`).

    Raises:
        UsageError: No bundle, two of one device or of two models, or a name, tag or URL that is none.
        DamagedError: A bundle is not what its manifest says.
        OptimizeError: The store failed; what was sent is kept there.
    """
    if to.startswith(triton.SCHEME):
        if sign or data or verify is not None or tag != "latest":
            raise UsageError(
                "--tag, --sign, --data and --verify are for stores, and not for Triton's repository", "leave them out"
            )
        return _to_triton(bundles, to, name, limit, load, progress)
    if load:
        raise UsageError("--load is for a repository of Triton", "--to triton:DIR")
    about = _check_together(bundles, shown(to))
    name = default_name(Path(bundles[0])) if name is None else name
    choose.parse_reference(f"{name}:{tag}")
    if limit < 0:
        raise UsageError(f"--bandwidth: {limit} bytes a second")
    if sign:
        trust.signer(Path(sign))  # a key that is none is told before any work
    store = open_store(to)
    verify = store.near if verify is None else verify
    try:
        before = _there(store, name, tag, verify)  # a store that cannot be reached is told before any work
        _tell_otherwise(store, before, about, progress)
        with scratch.folder() as room:
            done = []
            for number, bundle in enumerate(bundles):
                place = Path(room, str(number))
                place.mkdir()
                folder = prepared(Path(bundle), place, name, Path(sign) if sign else None, progress, data)
                done.append(_send(store, name, folder, limit, verify, progress))
        digest = publish(store, name, tag, [one.entry for one in done], verify, progress)
        with contextlib.suppress(OptimizeError):  # what a ship came for is done
            store.sweep()
    finally:
        store.close()
    return {
        "name": name,
        "tag": tag,
        "digest": digest,
        "url": shown(to),
        "variants": [
            {
                "variant": one.entry.digest,
                "device": one.entry.device.to_json(),
                "bytes": one.size,
                "sent_bytes": one.sent,
                "mended": one.mended,
                "unverified": one.unverified,
            }
            for one in done
        ],
    }


def _to_triton(
    bundles: Sequence[Union[str, Path]],
    to: str,
    name: Optional[str],
    limit: int,
    server: Optional[str],
    progress: Progress,
) -> Dict[str, Any]:
    done = triton.write_repository(bundles, to, name, limit=limit, progress=progress)
    if server:
        read = {one["name"]: manifest.read(Path(one["bundle"])) for one in done["models"]}
        engines = {model: manifest.identity(about)["engine_sha256"] for model, about in read.items()}
        done["loaded"] = triton.load(server, list(engines), progress, engines)
    return done


class _Sent(NamedTuple):
    """A shipment that is in a store, its bytes, those that were sent, and what was found of those there already."""

    entry: oci.Entry
    size: int
    sent: int
    mended: List[str]
    unverified: List[str]


def _check_together(bundles: Sequence[Union[str, Path]], to: str) -> List[Dict[str, Any]]:
    """Refuse what is no bundle, and bundles that are no variants of one engine; returns their manifests."""
    if not bundles:
        raise UsageError("no bundle to ship", "optimize ship BUNDLE... --to URL")
    about = []
    for bundle in bundles:
        if not Path(bundle).is_dir():
            raise UsageError(f"{bundle} is not an engine bundle (a folder)", "optimize build MODEL --precision fp16")
        inside = manifest.inside(Path(bundle))
        if inside:
            raise UsageError(
                f"{bundle} is no bundle, it holds some: {', '.join(inside)}",
                f"optimize ship {shlex.quote(str(Path(bundle, inside[0])))} --to {shlex.quote(to)}",
            )
        about.append(manifest.read(Path(bundle)))
    first = about[0]
    for bundle, one in zip(bundles, about):
        if (one["model"]["sha256"], one["precision"]) != (first["model"]["sha256"], first["precision"]):
            raise UsageError(
                f"{bundle} is of another model or precision than {bundles[0]}", "ship each under a name of its own"
            )
        otherwise = differ(one["preprocess"], first["preprocess"])
        if otherwise:
            raise UsageError(
                f"{bundle} takes images otherwise than {bundles[0]} ({otherwise}): boards that pull one name would "
                "answer differently",
                "build both with one --preprocess, or ship each under a name of its own",
            )
    keys = [oci.canonical(one["device"]) for one in about]
    for bundle, key in zip(bundles, keys):
        if keys.count(key) > 1:
            raise UsageError(f"{bundle}: another of these bundles is for the same device", "ship one of them")
    return about


def _tell_otherwise(
    store: Store, before: Optional[oci.Index], about: Sequence[Dict[str, Any]], progress: Progress
) -> None:
    """Warn of variants that stay beside the new ones and take images otherwise; one that cannot be read tells nothing.

    No error: a campaign ships class after class, and a device's old variant stays where its backend has a new version.
    """
    kind = (about[0]["model"]["sha256"], about[0]["precision"])
    fresh = [DeviceKey.from_json(one["device"]) for one in about]
    if before is None:
        return
    for entry in before.entries:
        if (entry.model, entry.precision) != kind or entry.device in fresh:
            continue
        there = _manifest_of(store, before.name, entry)
        otherwise = "" if there is None else _otherwise(about[0], there)
        if otherwise:
            where = f"{before.name}:{before.tag} for {choose.describe(entry.device)}"
            progress(
                f"warning: it takes images otherwise than {where} ({otherwise}): boards that pull this name answer "
                "differently until that is shipped anew, or this under another --name or --tag",
                0,
                A_LINE,
            )


def _manifest_of(store: Store, name: str, entry: oci.Entry) -> Optional[Dict[str, Any]]:
    """The manifest of a variant that is in a store; None where it is missing or damaged there."""
    with scratch.folder() as room, contextlib.suppress(OptimizeError, OSError):
        blob = next((one for one in fetch.contents(store, name, entry) if one.name == manifest.NAME), None)
        if blob is not None and blob.size <= shipment.LARGEST_DOCUMENT:
            file = Path(room, manifest.NAME)
            store.get(name, blob.digest, blob.size, file, lambda done: None, 0)
            if f"sha256:{jsonfile.sha256(file)}" == blob.digest:
                return manifest.read(file.parent)
    return None


def _otherwise(about: Dict[str, Any], there: Dict[str, Any]) -> str:
    """See `calib.preprocess.differ`; empty where what is there is of a version that says it in another way."""
    with contextlib.suppress(DamagedError):
        return differ(about["preprocess"], there["preprocess"])
    return ""


def _send(store: Store, name: str, folder: Path, limit: int, verify: bool, progress: Progress) -> _Sent:
    """Send what the store lacks of a shipment, and what it holds damaged."""
    content = oci.variant(folder)
    blobs = oci.blobs(folder)
    digests = {blob.digest: blob for blob in blobs}
    whole = {digest: size == digests[digest].size for digest, size in store.sizes(name, digests).items()}
    unverified: List[str] = []
    if verify and any(whole.values()):
        progress(f"checking what {store.url} has of {name}", 0, 0)
        sources = {digest: folder / digests[digest].name for digest, right in whole.items() if right}
        told = store.whole(name, sources)
        whole.update(told)
        unverified = [digests[digest].name for digest in sources if digest not in told]
        if unverified:
            progress(f"{store.url} tells no hash of {', '.join(unverified)}: not checked there", 0, A_LINE)
    mended = [digests[digest].name for digest, right in whole.items() if not right]
    if mended:
        progress(f"damaged in {store.url}, and sent anew: {', '.join(mended)}", 0, A_LINE)
    lacking = [blob for blob in digests.values() if not whole.get(blob.digest)]
    total = sum(blob.size for blob in lacking)
    lacking.sort(key=lambda blob: -blob.size)  # the largest is checked there while the others come
    sources = {blob.digest: folder / blob.name for blob in lacking}
    store.put(name, sources, lambda done: progress(f"shipping {name}", done, total), limit)
    progress(f"shipping {name}", total, total)
    entry = oci.entry(folder, content)
    if not _has(store, name, entry.digest, verify):
        store.put_document(name, oci.MANIFEST, content)
        total += len(content)
    return _Sent(entry, sum(blob.size for blob in blobs) + len(content), total, mended, unverified)


def _has(store: Store, name: str, digest: str, verify: bool) -> bool:
    """Whether a document is in a store; with `verify`, whole."""
    if not store.sizes(name, [digest]):
        return False
    try:
        return not verify or bool(store.get_document(name, digest, shipment.LARGEST_DOCUMENT))
    except DamagedError:
        return False


def put(store: Store, name: str, folder: Path) -> oci.Entry:
    """Keep a whole shipment in a store, without a name that points to it."""
    return _send(store, name, folder, 0, False, quiet).entry


def publish(
    store: Store,
    name: str,
    tag: str,
    entries: Sequence[oci.Entry],
    mend: bool = False,
    progress: Progress = quiet,
) -> str:
    """Let a name point to some variants, beside those of other devices that it points to already.

    In a folder one writer waits for the other. No other store changes a name only if nobody else did meanwhile, so the
    name is read back: where another writer's index has taken ours away, both are merged and published again.

    Args:
        store, name, tag: Where.
        entries: The variants.
        mend: Where the name points to something damaged, replace it. What else it pointed to is lost, and told.
        progress: Told what the name loses.

    Returns:
        Digest of the index that the name points to.

    Raises:
        DamagedError: The name points to something damaged, and `mend` is not asked for.
        OptimizeError: Others publish to it all the time.
    """
    told = moved = False
    first: Optional[Tuple[oci.Entry, ...]] = None
    with store.alone():
        for _ in range(_TRIES):
            begun = time.monotonic()
            before = _there(store, name, tag, mend, progress)
            if first is None:
                first = before.entries if before else ()
            merged, dropped = merge(before, entries)
            if dropped and not told:
                told = True
                words = "; ".join(f"{choose.describe(one.device)} ({one.precision})" for one in dropped)
                progress(f"{name}:{tag} no longer has the variants of another model or precision: {words}", 0, A_LINE)
            replaced = [e for e in before.entries if e not in merged and e not in dropped] if before else []
            if before and replaced and not moved:
                moved = True
                words = "; ".join(choose.describe(one.device) for one in replaced)
                progress(f"{name}:{tag} gets another engine for {words}; before: {name}@{before.digest}", 0, A_LINE)
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


def _there(store: Store, name: str, tag: str, mend: bool = False, progress: Progress = quiet) -> Optional[oci.Index]:
    """The index that a name points to, if any; where it may be mended, a damaged one is none, a newer one is not."""
    try:
        digest = store.resolve(name, tag)
        if digest is None:
            return None
        return oci.read_index(store.get_document(name, digest, shipment.LARGEST_DOCUMENT), name, tag, digest)
    except DamagedError as error:
        if not mend or isinstance(error, NewerError):
            raise
        progress(f"{error.message}: {name}:{tag} is written anew; ship the variants of other devices again", 0, A_LINE)
        return None


def merge(before: Optional[oci.Index], entries: Sequence[oci.Entry]) -> Tuple[List[oci.Entry], List[oci.Entry]]:
    """The variants of an index after some were shipped to it, and those that it loses for being of something else."""
    fresh = {entry.device for entry in entries}
    kinds = {(entry.model, entry.precision) for entry in entries}
    others = [entry for entry in (before.entries if before else ()) if entry.device not in fresh]
    dropped = [entry for entry in others if (entry.model, entry.precision) not in kinds]
    return [*entries, *(entry for entry in others if entry not in dropped)], dropped
