"""The stage that turns an ONNX graph into an engine, and how its folder becomes a bundle."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping

from engines import asked, jsonfile
from engines.spec import Progress


def build_engine(
    onnx: str, out: str, precision: str, batches: List[int], backend: str, options: Dict[str, Any], progress: Progress
) -> Dict[str, Any]:
    """Build an engine into the empty folder `out` (runs in a child process).

    Returns:
        What `engines.backend.Backend.build` returned, the SHA-256 and opset of the graph, and `comparison`: whether the
        layers got the precision that the graph asks (see `engines.asked.compare`).

    Raises:
        BuildError: The backend could not build it.
        IncompatibleError: The backend is missing.
    """
    import onnx as onnx_package

    from engines import backend as backends

    if backend == "tensorrt":
        options = _at_build_time(options, Path(out))
    built = backends.get(backend).build(Path(onnx), Path(out), precision, batches, options, progress)
    graph = onnx_package.load(onnx, load_external_data=False)
    opset = next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
    # a graph without Q/DQ pairs lets TensorRT choose where INT8 goes, and so asks it of no layer
    compared = asked.compare(graph, precision, built["layers"], options.get("keep_fp32", ()))
    return {**built, "onnx": {"sha256": jsonfile.sha256(onnx), "opset": opset}, "comparison": compared}


def _at_build_time(options: Dict[str, Any], out: Path) -> Dict[str, Any]:
    """What only the moment and the place of a TensorRT build tell: the state of the clocks, and where its calibration
    cache goes."""
    from engines import board

    found = {**options, "clocks": board.clocks()}
    if "calibration" in options:
        found["calibration"] = {**options["calibration"], "cache": str(out / "calibration.cache")}
    return found


def bundle_name(precision: str, backend: str, version: str, compute_capability: str = "") -> str:
    """Folder name of a bundle: precision, backend and version, and the GPU's compute capability if it has one."""
    suffix = f"-sm{compute_capability.replace('.', '')}" if compute_capability else ""
    return f"{precision}-{backend}{version}{suffix}"


def publish(stage: Path, files: List[str], manifest: Mapping[str, Any], bundle: Path) -> None:
    """Put a bundle in its place in one rename: hard links to the stage's engine files (copies where the file system
    has none) and the manifest."""
    with jsonfile.replacing_folder(bundle) as part:
        for name in files:
            try:
                os.link(stage / name, part / name)
            except OSError:
                shutil.copyfile(stage / name, part / name)
        from engines import manifest as manifests

        manifests.write(part, dict(manifest))


def file_entries(folder: Path, names: List[str]) -> List[Dict[str, Any]]:
    """The manifest's list of files: plain name, SHA-256, size in bytes."""
    return [
        {"path": name, "sha256": jsonfile.sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
    ]
