"""From a bundle to a shipment: its files, what a node needs besides, and the list of all of them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from engines import jsonfile, manifest
from engines.errors import DamagedError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.pipeline.stages import digest, now
from optimize.ship import golden, goldenfile, material, provenance, shipment, trust


def default_name(bundle: Path) -> str:
    """The name of a bundle where none is given: that of the shipment that it is, or of its manifest, as OCI allows it.

    Raises:
        DamagedError: See `shipment.read` and `manifest.read`.
    """
    if shipment.is_shipment(bundle):
        return str(shipment.read(bundle)["name"])
    words = re.findall(r"[a-z0-9]+(?:[._][a-z0-9]+)*", manifest.read(bundle)["name"].lower())
    name = "-".join(words)[: shipment.LONGEST_NAME].rstrip("-._")
    return name or "engine"


def prepare(
    bundle: Path,
    folder: Path,
    name: str,
    sign: Optional[Path] = None,
    progress: Progress = quiet,
    data: Optional[str] = None,
    before: Optional[Path] = None,
) -> Dict[str, Any]:
    """Make the shipment of a bundle, which stays as it is; a bundle that is a shipment already goes as it came.

    Args:
        bundle: The folder of `optimize build`, or a shipment.
        folder: Where the shipment appears, whole; what is there is replaced.
        name: Of the shipment.
        sign: Private key.
        progress: Told what happens, and what is left out and why.
        data: Data set whose images go along (for INT8), and are the golden inputs.
        before: Shipment that this bundle was built from: its graph, calibration and golden inputs are taken over.

    Returns:
        The value of shipment.json.

    Raises:
        DamagedError: The bundle is not what its manifest says.
        UsageError: No such bundle, or a name that is none.
        OptimizeError: A graph or an engine failed.
    """
    if not shipment.is_name(name):
        raise UsageError(f"--name {name}: lower-case letters, digits, and '.', '_', '-' between them are expected")
    if shipment.is_shipment(bundle):
        value = shipment.check(bundle)
        with jsonfile.replacing_folder(folder) as part:
            _link(bundle, part, [shipment.NAME, *(entry["path"] for entry in value["files"])])
            if sign is None and (bundle / trust.NAME).exists():
                _link(bundle, part, [trust.NAME])
            if sign is not None:
                trust.sign(part, sign)
        return shipment.read(folder)
    about = manifest.read(bundle)
    manifest.check_files(bundle)
    engine = [entry["path"] for entry in about["files"]]
    _refuse_reserved(engine)
    with jsonfile.replacing_folder(folder) as part:
        _link(bundle, part, [manifest.NAME, *engine])
        calibration, remarks = _material(bundle, part, about, data, before, progress)
        graph = part / material.GRAPH if (part / material.GRAPH).exists() else None
        recorded = golden.record(part, graph, part / goldenfile.NAME, data, before, progress)
        if recorded is None:
            remarks.append("no golden outputs: the engine does not run here, and there is no float graph")
        elif recorded.why_not:
            remarks.append(f"golden outputs are those of the float graph alone: {recorded.why_not}")
        for text in remarks:
            progress(f"{bundle.name}: {text}", 0, A_LINE)
        roles = {manifest.NAME: "manifest", **dict.fromkeys(engine, "engine")}
        roles.update({material.GRAPH: "graph"} if graph else {})
        roles.update(dict.fromkeys(calibration, "calibration"))
        roles.update({goldenfile.NAME: "golden"} if recorded else {})
        files = [_entry(part, path, role) for path, role in roles.items()]
        value = {
            "schema": shipment.SCHEMA,
            "name": name,
            "created": now(),
            "manifest": {key: files[0][key] for key in ("sha256", "bytes")},
            "files": files,
            "device": about["device"],
            "model": {key: about["model"][key] for key in ("name", "sha256")},
            "precision": about["precision"],
            "golden": recorded.golden if recorded else None,
            "provenance": provenance.record(about, shipment.read(before)["provenance"] if before else None),
        }
        shipment.validate(value)
        jsonfile.write(part / shipment.NAME, value)
        if sign is not None:
            trust.sign(part, sign)
    return value


def prepared(
    bundle: Path, scratch: Path, name: str, sign: Optional[Path], progress: Progress = quiet, data: Optional[str] = None
) -> Path:
    """The shipment of a bundle, made once: in the `.optimize/` beside it, where there is one, else in `scratch`.

    Equal digests need equal bytes, and latencies are never measured alike twice.

    Args:
        bundle, name, sign, progress, data: See `prepare`.
        scratch: An empty folder.
    """
    home = Path(bundle).resolve().parent / ".optimize"
    if shipment.is_shipment(bundle) or not (home.is_dir() and os.access(home, os.W_OK)):
        prepare(bundle, scratch / "shipment", name, sign, progress, data)
        return scratch / "shipment"
    key = {
        "manifest": jsonfile.sha256(manifest.path_of(bundle)),
        "name": name,
        "data": data,
        "runs": not manifest.why_not(bundle),
        "key": trust.show_key(sign)["id"] if sign else None,
    }
    place = home / "shipments"
    folder = place / f"{Path(bundle).resolve().name}-{digest(key)[:16]}"
    try:
        shipment.check(folder)
        manifest.check_files(bundle)
    except DamagedError:
        if place.is_dir():
            jsonfile.sweep(place)
        prepare(bundle, folder, name, sign, progress, data)
    return folder


def _material(
    bundle: Path, part: Path, about: Dict[str, Any], data: Optional[str], before: Optional[Path], progress: Progress
) -> Any:
    if before is None:
        return material.put(part, about, material.find(bundle, about), data, progress)
    value = shipment.read(before)
    calibration = shipment.files(value, "calibration")
    _link(before, part, [*shipment.files(value, "graph"), *calibration])
    return calibration, []


def _refuse_reserved(names: List[str]) -> None:
    own = {shipment.NAME, trust.NAME, goldenfile.NAME, material.GRAPH, material.RANGES, material.IMAGES}
    for name in names:
        if name.lower() in own:
            raise DamagedError(f"{name}: an engine file of this name cannot be shipped", "build the bundle again")


def _link(source: Path, target: Path, names: List[str]) -> None:
    """Hard links, or copies where the file system has none."""
    for name in names:
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)


def _entry(folder: Path, path: str, role: str) -> Dict[str, Any]:
    file = folder / path
    return {"path": path, "sha256": jsonfile.sha256(file), "bytes": file.stat().st_size, "role": role}
