"""What a store of `optimize ship` holds, for a selection: which candidates it has, and candidates of its own.

Only the documents of each variant are read, and held against their hashes; no engine is brought.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from bench import runs as run_files
from engines import jsonfile, manifest, scratch
from engines.device import DeviceKey, mismatch
from engines.errors import DamagedError, UsageError
from engines.spec import Progress, quiet
from optimize.pipeline.stages import now
from optimize.selection import feasible
from optimize.selection.candidates import Candidate, Runs
from optimize.ship import choose, fetch, oci, shipment
from optimize.ship.store import AGAIN, Store
from optimize.ship.url import open_source, shown

CAVEAT = "times on this device: the repository tells those of the machine that shipped (optimize bench measures them)"
"""Of a choice whose times a repository told."""


class Held(NamedTuple):
    """A variant that a store holds.

    Attributes:
        name, tag: That lead to it.
        entry: Of its index.
        manifest: Of the bundle.
        golden: What shipment.json records of its answers, or None.
    """

    name: str
    tag: str
    entry: oci.Entry
    manifest: Dict[str, Any]
    golden: Optional[Dict[str, Any]]

    @property
    def identity(self) -> Tuple[str, str]:
        """Build key, and the hash over its engine files."""
        about = manifest.identity(self.manifest)
        return about["build_key"], about["engine_sha256"]


def held(source: str, names: Sequence[str] = (), progress: Progress = quiet) -> List[Held]:
    """Every engine that a store holds, each once, by the first name that leads to it.

    Args:
        source: URL.
        names: NAME or NAME:TAG that count; by default all that it lists.
        progress: Told the names read.

    Raises:
        UsageError: No such name, or none at all.
        DamagedError: A document there is not what its digest says.
        OptimizeError: The store failed.
    """
    store = open_source(source)
    read: Set[str] = set()
    found: Dict[Tuple[str, str], Held] = {}
    try:
        wanted = [choose.parse_reference(text) for text in names]
        wanted = wanted or [(ref.name, ref.tag, None) for ref in store.refs()]
        for number, (name, tag, digest) in enumerate(wanted):
            progress(f"reading {shown(source)}", number, len(wanted))
            for entry in fetch.find(store, name, tag, digest).entries:
                if entry.digest not in read:
                    one = _read(store, name, tag, entry)
                    found.setdefault(one.identity, one)
                read.add(entry.digest)
        progress(f"reading {shown(source)}", len(wanted), len(wanted))
    finally:
        store.close()
    if not found:
        raise UsageError(f"{shown(source)} holds no engine", "optimize ship BUNDLE --to URL")
    return list(found.values())


def _read(store: Store, name: str, tag: str, entry: oci.Entry) -> Held:
    blobs = {blob.name: blob for blob in fetch.contents(store, name, entry)}
    with scratch.folder() as room:
        for document in (shipment.NAME, manifest.NAME):
            blob = blobs.get(document)
            if blob is None or blob.size > jsonfile.LIMIT:
                raise DamagedError(f"{store.url}: {document} of {name}:{tag} is missing, or too large", AGAIN)
            store.get(name, blob.digest, blob.size, Path(room, document), lambda count: None, 0)
            if "sha256:" + jsonfile.sha256(Path(room, document)) != blob.digest:
                raise DamagedError(f"{store.url}: {document} of {name}:{tag} is not what its digest says", AGAIN)
        return Held(name, tag, entry, manifest.read(Path(room)), shipment.read(Path(room))["golden"])


def run(source: str, found: Sequence[Held], device: Optional[Mapping[str, Any]]) -> Tuple[str, Dict[str, Any]]:
    """The variants of a store as a run, named after it: accuracy of the build, latency where it was shipped.

    Raises:
        UsageError: It is not told for which device: engines of several would stand beside each other.
    """
    if device is None:
        raise UsageError(
            "for which device? The repository holds engines for several",
            f"--device DEVICE.json (there: optimize device show --json), or --device {feasible.THIS}",
        )
    value = {
        "schema": run_files.SCHEMA,
        "created": now(),
        "environment": {},
        "settings": {"source": shown(source)},
        "rows": [_row(one, found) for one in found],
        "failures": [],
    }
    run_files.validate(value)
    return shown(source), value


def _row(one: Held, found: Sequence[Held]) -> Dict[str, Any]:
    about, accuracy = one.manifest, one.manifest["accuracy"] or {}
    latency = (one.golden or {}).get("latency_ms") or {}
    alone = sum((other.name, other.tag) == (one.name, one.tag) for other in found) == 1
    top1 = accuracy.get("top1")
    return {
        **{"target": f"{one.name}:{one.tag}" + ("" if alone else f" {one.entry.digest[7:19]}")},
        **{"role": "engine", "form": "", "backend": about["backend"], "precision": about["precision"]},
        **{"achieved": about["achieved"], "batch": latency.get("batch", 1), "images": None},
        "dataset": accuracy.get("dataset") if top1 is not None else None,
        "origin": "imported",
        "size_bytes": sum(entry["bytes"] for entry in about["files"]),
        "model_sha256": about["model"]["sha256"],
        "bundle": {"path": "", **manifest.identity(about)},
        **dict.fromkeys(run_files.LATENCIES),
        **{f"{name}_ms": latency.get(name) for name in ("p50", "p99")},
        **{"images_per_s": None, "rounds": [], "samples_ms": [], "device": None},
        **{"top1": top1, "top1_drop": None, "agreement": None, "speedup": None, "flags": about["flags"]},
    }


def allowed(
    source: str, found: Sequence[Held], runs: Runs, device: Optional[Mapping[str, Any]]
) -> Callable[[Candidate], str]:
    """Says of a candidate why the store does not have it for the device; empty where it does.

    Args:
        source: URL.
        found: What it holds.
        runs: That the candidates are of; without a device each is for the machine that it ran on.
        device: What is known of the device.
    """
    stocked = {one.identity: one for one in found}

    def why(candidate: Candidate) -> str:
        bundle = candidate.row.get("bundle")
        if bundle is None:
            words = "its run does not tell which build it is" if candidate.row["role"] == "engine" else "not an engine"
            return f"{words}: {shown(source)} cannot be asked for it"
        one = stocked.get((bundle["build_key"], bundle["engine_sha256"]))
        if one is None:
            return f"{shown(source)} does not hold this build"
        return _unfit(one.entry.device, runs[candidate.run][1]["environment"], device)

    return why


def _unfit(made_for: DeviceKey, environment: Mapping[str, Any], device: Optional[Mapping[str, Any]]) -> str:
    """Why a variant does not run on the device."""
    if device is None:
        ran = feasible.ran_on(made_for.backend, environment)
        return mismatch(made_for, ran) if ran else ""
    keys = {key["backend"]: DeviceKey.from_json(key) for key in device.get("backends") or ()}
    if made_for.backend not in keys:
        return f"the device has no {made_for.backend}"
    return mismatch(made_for, keys[made_for.backend])
