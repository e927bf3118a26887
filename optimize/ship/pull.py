"""From a store to this machine: the variant that fits, into a node or a folder, or one that is built here."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from engines import jsonfile, manifest
from engines.device import DeviceKey
from engines.errors import DamagedError, GateError, IncompatibleError, OptimizeError, TrustError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.ship import choose, fetch, golden, lock, material, oci, shipment, trust
from optimize.ship.prepare import prepare
from optimize.ship.send import put
from optimize.ship.store import Store
from optimize.ship.url import open_source, open_store, shown


class _Place(NamedTuple):
    """Where versions lie, and what they must be signed by."""

    versions: Path
    policy: trust.Policy


def pull(
    reference: str,
    source: str,
    for_: str = choose.THIS,
    allow_build: bool = False,
    node: Optional[Union[str, Path]] = None,
    out: Optional[Union[str, Path]] = None,
    trusted: Sequence[Union[str, Path]] = (),
    sign: Optional[Union[str, Path]] = None,
    limit: int = 0,
    wait: bool = True,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Bring the engine for a device from a store, whole and checked, into a node or a folder.

    Args:
        reference: NAME, NAME:TAG or NAME@sha256:DIGEST.
        source: URL of the store.
        for_: `this-device`, or another; see `choose.keys_of`.
        allow_build: Where no variant fits, build one here from the float graph of another.
        node: Folder of the node; `OPTIMIZE_NODE` or the user's by default.
        out: Folder that becomes the shipment, in place of a node.
        trusted: Public keys, with `out`: the shipment must be signed by one of them. A node has its own.
        sign: Private key that signs what is built here.
        limit: Bytes per second; 0 for none.
        wait: For another writer to the node or to `out`.
        progress: Told what happens.

    Returns:
        `name`, `tag`, `digest` (of the index), `url`, `variant`, `device`, `precision`, `path`, `signed_by`, `built`
        (whether it was built here), `variants` (every one, with `why_not`) and `node` (None with `out`).

    Raises:
        UsageError: No such shipment, or options that do not go together.
        IncompatibleError: No variant fits; says of each why not.
        DamagedError, TrustError: What came is not what it should be; nothing of it is kept as a version.
        GateError: What was built here does not give the golden answers.
        OptimizeError: The store failed, or the build.
    """
    name, tag, digest = choose.parse_reference(reference)
    keys = choose.keys_of(for_)
    if out is not None and node is not None:
        raise UsageError("-o and --node are two places", "give one of them")
    if trusted and out is None:
        raise UsageError("--trust goes with -o DIR: a node has its own trusted keys", "optimize node trust add KEY.pub")
    if allow_build and keys is not None:
        raise UsageError("--allow-build builds for this device, and --for names another", "leave one of them out")
    if limit < 0:
        raise UsageError(f"--bandwidth: {limit} bytes a second")
    signers = {trust.key_id(raw): raw for raw in (trust.read_public(Path(path)) for path in trusted)}
    store = open_source(source)
    try:
        index = fetch.find(store, name, tag, digest)
        choice = choose.choose(index, keys)
        about: Dict[str, Any] = {"name": name, "tag": None if digest else tag, "digest": index.digest}
        about["url"] = shown(source)

        def bring(place: _Place) -> Tuple[oci.Entry, Path]:
            if choice.entry is not None:
                arguments = (place.versions, place.policy, limit, progress)
                return choice.entry, fetch.fetch(store, name, choice.entry, *arguments)
            if allow_build:
                return _build(store, index, place, sign, limit, progress)
            raise none_fits(choose.to_json(choice), reference, source, for_)

        home: Optional[Path] = None
        if out is not None:
            entry, path, signed_by = _into_folder(Path(out), choice.entry, signers, bring, wait, progress)
        else:
            from optimize.ship import node as nodes

            home = nodes.home(node)
            entry, path, signed_by = _into_node(home, choice.entry, about, bring, wait, progress)
    finally:
        store.close()
    value = shipment.read(path)
    return {
        **about,
        "variant": entry.digest,
        "device": value["device"],
        "precision": value["precision"],
        "path": str(path),
        "signed_by": signed_by,
        "built": choice.entry is None,
        "variants": choose.to_json(choice),
        "node": None if home is None else str(home),
    }


_Bring = Callable[[_Place], Tuple[oci.Entry, Path]]
_Brought = Tuple[oci.Entry, Path, Optional[str]]
"""The variant, where it is, and the trusted key that signed it."""


def _into_node(
    home: Path, entry: Optional[oci.Entry], about: Dict[str, Any], bring: _Bring, wait: bool, progress: Progress
) -> _Brought:
    """Put a version on a node, which is made where there is none; what is refused is noted in its journal."""
    from optimize.ship import node as nodes
    from optimize.ship import records

    with nodes.locked(home, wait, progress):
        place = _Place(records.versions(home), nodes.signatures(home))
    try:
        brought, path = bring(place)
    except (DamagedError, TrustError, GateError, IncompatibleError) as error:
        known = {**about, "variant": entry.digest.partition(":")[2] if entry else None}
        with contextlib.suppress(OptimizeError, OSError), nodes.locked(home, wait, progress):
            nodes.refused(home, error, **known)  # that this fails must not hide why
        raise
    signed_by = trust.verify(path, place.policy)
    path = nodes.received(home, brought.digest.partition(":")[2], **about, wait=wait, progress=progress)
    return brought, path, signed_by


def _into_folder(
    out: Path, entry: Optional[oci.Entry], keys: Dict[str, bytes], bring: _Bring, wait: bool, progress: Progress
) -> _Brought:
    """Make a folder the shipment; what is under way lies beside it, hidden, and an interrupted pull goes on with it."""
    policy = trust.Policy(bool(keys), keys)
    if os.path.lexists(out) and not (out.is_dir() and (shipment.is_shipment(out) or not any(out.iterdir()))):
        raise UsageError(f"{out} is there and is no shipment", "another folder with -o DIR")
    if entry is not None and _is(out, entry, policy):
        return entry, out, trust.verify(out, policy)
    room = out.resolve().with_name(f".{out.resolve().name}.pull")
    with _held(room, wait, progress):
        if entry is not None and _is(out, entry, policy):  # by the pull that this one has waited for
            shutil.rmtree(room, ignore_errors=True)
            return entry, out, trust.verify(out, policy)
        try:
            brought, path = bring(_Place(room, policy))
        except (DamagedError, TrustError, IncompatibleError):
            shutil.rmtree(room, ignore_errors=True)
            raise
        if shipment.is_shipment(out):
            progress(f"{out} held another shipment, which is replaced", 0, A_LINE)
        with jsonfile.replacing_folder(out) as part:
            for file in path.iterdir():
                os.replace(file, part / file.name)
        shutil.rmtree(room, ignore_errors=True)
        return brought, out, trust.verify(out, policy)


def _held(room: Path, wait: bool, progress: Progress) -> ContextManager[None]:
    """Keep other pulls into the same folder away; Windows lacks the locks."""
    return contextlib.nullcontext() if os.name == "nt" else lock.held(room, wait, progress)


def _is(out: Path, entry: oci.Entry, policy: trust.Policy) -> bool:
    """Whether a folder is that variant already, whole and signed as asked."""
    try:
        shipment.check(out, policy)
        return oci.digest_of(oci.variant(out)) == entry.digest
    except (OptimizeError, OSError):
        return False


def none_fits(found: List[Dict[str, Any]], reference: str, source: str, for_: str) -> IncompatibleError:
    """The error where no variant fits.

    Args:
        found: The `variants` that `variants` returns.
        reference, source, for_: See `pull`.
    """
    told = [(choose.describe(DeviceKey.from_json(one["device"])), one["why_not"]) for one in found]
    reasons = "; ".join(f"{device}: {why}" for device, why in told) or "there are none"
    name, here = choose.parse_reference(reference)[0], for_ == choose.THIS
    hint = f"optimize pull {reference} --from {shown(source)} --allow-build" if here else "ship one for it"
    return IncompatibleError(f"{name}: no variant fits {'this' if here else 'that'} device ({reasons})", hint)


def _build(
    store: Store,
    index: oci.Index,
    place: _Place,
    sign: Optional[Union[str, Path]],
    limit: int,
    progress: Progress,
) -> Tuple[oci.Entry, Path]:
    """Build an engine for this device from the graph of a variant, hold it against the golden answers, and put it where
    a pulled one would be.

    Raises:
        IncompatibleError: No variant has a graph, or none that calibrates INT8.
        TrustError: The node takes signed shipments only, and there is no key to sign this one with.
        GateError: The engine does not give the answers of the float graph.
    """
    if place.policy.required and sign is None:
        raise TrustError(
            "signed shipments only are taken here, and an engine built here would not be signed", "add --sign KEY"
        )
    if sign:
        trust.signer(Path(sign))  # a key that is none is told before any work
    import filelock

    entry = _origin(store, index)
    room = place.versions / fetch.INCOMING / f"build-{entry.digest[7:23]}"
    room.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(str(room.with_suffix(".lock"))):
        return _built(store, index.name, entry, room, place, sign, limit, progress)


def _built(
    store: Store,
    name: str,
    entry: oci.Entry,
    room: Path,
    place: _Place,
    sign: Optional[Union[str, Path]],
    limit: int,
    progress: Progress,
) -> Tuple[oci.Entry, Path]:
    origin = fetch.fetch(store, name, entry, room / "from", place.policy, limit, progress)
    bundle = build_from(origin, room / "built", progress)
    found = golden.against_float(origin, bundle, progress)
    if not found["passed"]:
        raise GateError(
            f"the engine that was built here does not answer as the model did: {'; '.join(found['reasons'])}",
            f"the engine is in {bundle}: optimize verify {bundle} --against {origin / material.GRAPH}",
        )
    prepare(bundle, room / "shipment", name, Path(sign) if sign else None, progress, before=origin)
    own = open_store(str(room / "store"))
    try:
        local = put(own, name, room / "shipment")
        path = fetch.fetch(own, name, local, place.versions, place.policy, 0, progress)
    finally:
        own.close()
    shutil.rmtree(room, ignore_errors=True)
    return local, path


def _origin(store: Store, index: oci.Index) -> oci.Entry:
    """The variant to build from: one with a graph; for INT8 one with images rather than ranges."""
    ranked = []
    for entry in index.entries:
        names = {blob.name for blob in fetch.contents(store, index.name, entry)}
        if material.GRAPH in names:
            ranked.append((material.IMAGES in names, material.RANGES in names, entry))
    if not ranked:
        raise IncompatibleError(
            f"{index.name}: no variant fits this device, and none carries the float graph to build one from",
            "ship one from the folder that optimize build made, where .optimize/ is beside the bundle",
        )
    return max(ranked, key=lambda one: one[:2])[2]


def build_from(origin: Path, out: Path, progress: Progress = quiet) -> Path:
    """Build the precision of a shipment for this device, from its float graph.

    Args:
        origin: The shipment, checked.
        out: Output folder of the build; a build that was interrupted there goes on.
        progress: Told what happens.

    Returns:
        The bundle.

    Raises:
        IncompatibleError: It is INT8 and nothing calibrates it, or no backend is here.
        DamagedError: Its graph reads files outside of it, or its images would grow when they are read.
        GateError: The accuracy of the build, where it was measured, misses the gate.
    """
    from optimize.api import build
    from optimize.pipeline.inputs import source_files
    from optimize.sources import recognise

    about = manifest.read(origin)
    graph = origin / material.GRAPH
    if source_files(recognise(str(graph))) != [graph.resolve()]:
        raise DamagedError(f"{graph}: its weights are in other files, which a shipment cannot name", "ship it again")
    material.check(origin)
    options: Dict[str, Any] = {"task": about["task"]}
    if about["preprocess"] and about["preprocess"].get("text"):
        options["preprocess"] = about["preprocess"]["text"]
    precision = about["precision"]
    if (origin / material.IMAGES).exists():
        options["data"] = str(origin / material.IMAGES)
    elif (origin / material.RANGES).exists() and precision in ("int8", "best"):
        options["calibration_cache"] = origin / material.RANGES
    elif precision == "int8":
        raise IncompatibleError(
            "the shipment is INT8, and neither ranges nor images to calibrate with are in it",
            "ship it with --data, or an FP16 engine",
        )
    progress(f"building {precision} for this device", 0, 0)
    done = build(graph, precision, about["batches"], out=out, progress=progress, **options)
    for text in done.warnings:
        progress(f"warning: {text}", 0, A_LINE)
    built = done.bundles[0]
    gate = built.manifest["gate"]
    if gate is not None and not gate["passed"]:
        raise GateError(f"the engine that was built here misses its gate: {'; '.join(gate['reasons'])}")
    return built.path


def variants(reference: str, source: str, for_: str = choose.THIS) -> Dict[str, Any]:
    """What a name holds, and which of it a device would get, without bringing anything.

    Args:
        reference, source, for_: See `pull`.

    Returns:
        `name`, `tag`, `digest`, `url` and `variants` with `why_not` each.

    Raises:
        UsageError, DamagedError: See `fetch.find`.
    """
    name, tag, digest = choose.parse_reference(reference)
    keys = choose.keys_of(for_)
    store = open_source(source)
    try:
        index = fetch.find(store, name, tag, digest)
    finally:
        store.close()
    found: List[Dict[str, Any]] = choose.to_json(choose.choose(index, keys))
    return {"name": name, "tag": tag, "digest": index.digest, "url": shown(source), "variants": found}
