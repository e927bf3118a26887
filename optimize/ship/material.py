"""What lets another machine build the same precision: the float graph, and ranges or images for INT8.

A build leaves both in the `.optimize/` beside its bundles, as stages keyed by the hashes of what went in. From the
graph of a bundle the way leads back, hash by hash, to the float graph and to the scales that were chosen.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from engines import child, jsonfile
from engines.errors import DamagedError
from engines.spec import Progress, quiet
from engines.tensorrt import cachefile
from optimize.calibration import DEFAULT_VERSION
from optimize.pipeline.stages import finished

GRAPH, RANGES, IMAGES = "graph.onnx", "calibration.cache", "calibration.npz"

_STEPS = ("calibrate", "imported", "fp16")
"""Stages that make one graph from another."""

_ROOM = 64 << 20
"""Bytes of images that a shipment carries at most."""

_LEAST = 64
"""Images of each split below which calibrating with them means nothing."""


class Material(NamedTuple):
    """Files of a build that are still there.

    Attributes:
        graph: Float ONNX graph.
        quantised: The Q/DQ graph made from it; None where nothing was quantised so.
        cache: TensorRT's own calibration cache of it; None where it did not calibrate.
    """

    graph: Path
    quantised: Optional[Path] = None
    cache: Optional[Path] = None


def find(bundle: Path, about: Dict[str, Any]) -> Optional[Material]:
    """What the build of a bundle left beside it; None where it is not there, or not whole, or was moved away.

    Args:
        bundle: The folder.
        about: Its manifest.
    """
    stages = finished(Path(bundle).resolve().parent / ".optimize" / "stages")
    by_hash: Dict[str, Tuple[Path, str, Dict[str, Any]]] = {}
    for folder, record in reversed(stages):
        for name, sha256 in record["files"].items():
            if name.endswith(".onnx"):
                by_hash[sha256] = (folder, name, record)
    wanted, quantised, cache = about["onnx"]["sha256"], None, None
    for folder, record in stages:
        made = record["files"].values()
        if "calibration.cache" in record["files"] and all(entry["sha256"] in made for entry in about["files"]):
            cache = folder / "calibration.cache"
    for _ in range(len(_STEPS) + 1):
        if wanted not in by_hash:
            return None
        folder, name, record = by_hash[wanted]
        if record["name"] == "export":
            return _material(folder / name, quantised, cache, wanted) if _fits(record, about) else None
        if record["name"] not in _STEPS:
            return None
        wanted = record["inputs"]["onnx"]
        if record["name"] != "fp16":
            quantised = folder / name
            if record["result"].get("float_onnx"):  # equalised: the same function with other scales
                graph = folder / Path(record["result"]["float_onnx"]).name
                return _material(graph, quantised, cache, record["files"].get(graph.name))
    return None


def _material(
    graph: Path, quantised: Optional[Path], cache: Optional[Path], sha256: Optional[str]
) -> Optional[Material]:
    if not graph.is_file() or jsonfile.sha256(graph) != sha256:
        return None
    if len(list(graph.parent.glob("*.data"))):  # weights in files of their own, beyond 2 GiB
        return None
    here = [path if path is not None and path.is_file() else None for path in (quantised, cache)]
    return Material(graph, *here)


def _fits(record: Dict[str, Any], about: Dict[str, Any]) -> bool:
    """Whether an export is that of the bundle's model, with its boundary."""
    boundary = record["result"]["boundary"]
    return bool(record["inputs"].get("model") == about["model"]["sha256"] and boundary["inputs"] == about["inputs"])


def put(
    folder: Path,
    about: Dict[str, Any],
    found: Optional[Material],
    data: Optional[str] = None,
    progress: Progress = quiet,
) -> Tuple[List[str], List[str]]:
    """Put the float graph into a shipment, and what calibrates it.

    Args:
        folder: The shipment.
        about: The manifest.
        found: Of the build.
        data: Data set whose images go along; None for ranges only.
        progress: Told what happens.

    Returns:
        Names of the files of calibration, and remarks: what another machine will not be able to do.

    Raises:
        DataError, UsageError: The data set cannot be read.
    """
    if found is None:
        return [], ["no float graph beside the bundle: a machine that it does not fit cannot build one from it"]
    shutil.copyfile(found.graph, folder / GRAPH)
    if about["calibration"] is None:
        return [], []
    names: List[str] = []
    remarks: List[str] = []
    if data is not None:
        arguments = {"data": data, "samples": about["calibration"]["samples"], "out": str(folder / IMAGES)}
        kept = child.call("optimize.ship.material:images", arguments, progress)
        names += [IMAGES] if not kept["why_not"] else []
        remarks += [f"no images of {data} go along: {kept['why_not']}"] if kept["why_not"] else []
    if found.quantised is not None:
        version = about["device"]["version"] if about["backend"] == "tensorrt" else DEFAULT_VERSION
        calibration = about["calibration"]
        of = {
            "model": jsonfile.sha256(folder / GRAPH),
            "data": calibration["dataset"]["sha256"],
            "preprocess": about["preprocess"],
            "layout": about["layout"],
            "method": (calibration["method"] or {}).get("name"),
            "samples": calibration["samples"] or None,
            "seed": calibration.get("seed"),
            "dataset": calibration["dataset"],
        }
        arguments = {"quantised": str(found.quantised), "onnx": str(folder / GRAPH), "out": str(folder / RANGES)}
        child.call("calib.scales:write", {**arguments, "of": of, "tensorrt": version}, progress)
    elif found.cache is not None:
        shutil.copyfile(found.cache, folder / RANGES)
    if (folder / RANGES).exists():
        names += [RANGES]
        names += [cachefile.sidecar(Path(RANGES)).name] if cachefile.sidecar(folder / RANGES).exists() else []
    if not names:
        remarks.append("no ranges beside the bundle: give --data, or a machine that it does not fit cannot build INT8")
    return names, remarks


def check(folder: Path) -> None:
    """Refuse images of a shipment that would grow when they are read: what a hash holds for may still be hostile.

    Raises:
        DamagedError: They are larger than `put` makes them, or compressed.
    """
    path = folder / IMAGES
    if not path.exists():
        return
    if path.stat().st_size > 2 * _ROOM:
        raise DamagedError(f"{path}: larger than {2 * _ROOM >> 20} MiB", "ship it again")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [one.filename for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError) as error:
        raise DamagedError(f"{path}: not an .npz file ({error})", "ship it again") from None
    if packed:
        raise DamagedError(f"{path}: {packed[0]} is compressed", "ship it again")


def images(data: str, samples: int, out: str, progress: Progress = quiet) -> Dict[str, Any]:
    """Write images that calibrate (`x_train`, `y_train`) and measure (`x_test`, `y_test`) as an npz (a child process).

    Args:
        data: A data set, as `calib.datasets.open_dataset` reads it.
        samples: Images that calibrate, as many that choose between the methods, and as many that measure.
        out: The file.
        progress: Told the images.

    Returns:
        `why_not`: why no file was written, in words; empty where it was. `images`: how many.

    Raises:
        DataError, UsageError: The data set cannot be read.
    """
    import numpy as np

    from calib.datasets import open_dataset

    splits = ("calibration", "holdout", "test")
    parts = [open_dataset(data, split, samples or 512, 0, labelled=False) for split in splits]
    if any(part.labels is None for part in parts):
        return {"why_not": "they have no labels, and a build with them measures accuracy", "images": 0}
    first = np.asarray(parts[0].images([0])[0])
    count = min(max(len(part) for part in parts), _ROOM // 3 // max(1, first.nbytes))
    if count < min(_LEAST, len(parts[0])):
        return {"why_not": f"they are too large ({first.nbytes >> 20} MiB each)", "images": 0}
    arrays = []
    for number, part in enumerate(parts):
        taken = part.images(range(min(count, len(part))))
        if any(image.shape != first.shape for image in taken):
            return {"why_not": "they are of different sizes", "images": 0}
        assert part.labels is not None
        arrays.append((np.stack(list(taken)), part.labels[: len(taken)]))
        progress("images for calibration", number + 1, len(parts))
    (x1, y1), (x2, y2), (x3, y3) = arrays
    found = {"x_train": np.concatenate([x1, x2]), "y_train": np.concatenate([y1, y2]), "x_test": x3, "y_test": y3}
    if parts[0].classes:
        found["classes"] = np.array(parts[0].classes)
    with jsonfile.replacing_file(out) as part_file, open(part_file, "wb") as file:
        np.savez(file, **found)
    return {"why_not": "", "images": sum(len(x) for x, _ in arrays)}
