"""What identifies the things that go into a build: models, user files and data sets, by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Dict, List

from engines import jsonfile
from engines.errors import UsageError
from engines.spec import Progress, RunnerSpec, quiet

EXPORT_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "tensorflow",
    "tensorflow-cpu",
    "tf-keras",
    "keras",
    "torch",
)
"""Their versions decide what the export gives."""

CALIBRATION_PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino")


def source_inputs(spec: RunnerSpec) -> Dict[str, Any]:
    """Hashes of the model file and of the user's code named with it, and the options that decide how it is read."""
    found: Dict[str, Any] = {
        "model": jsonfile.sha256(spec.path),
        "kind": spec.kind,
        "input_shape": list(spec.input_shape) if spec.input_shape else None,
        "task": spec.task,
    }
    for option in ("custom_objects", "factory"):
        value = getattr(spec, option)
        if value:
            file, _, names = value.rpartition(":")
            found[option] = [jsonfile.sha256(file), names] if file and Path(file).is_file() else value
    return found


def data_inputs(reference: str) -> str:
    """What identifies a data set without reading it whole: every file's relative name, size and time of change.

    Raises:
        UsageError: The reference is neither a known name nor a file or folder.
    """
    from calib.datasets import locate

    where = locate(reference)
    if where is None:
        return reference
    if not where.exists():
        raise UsageError(f"no such data set: {reference}", "give --data cifar10, a folder or an .npz file")
    files: List[Path] = sorted(p for p in where.rglob("*") if p.is_file()) if where.is_dir() else [where]
    seen = hashlib.sha256()
    for file in files:
        about = file.stat()
        name = file.relative_to(where).as_posix() if where.is_dir() else file.name
        seen.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def look_at_data(data: str, splits: List[str], seed: int, progress: Progress = quiet) -> Dict[str, Any]:
    """Open the splits that a build will need, so that bad data is told before any long work (runs in a child process).

    Raises:
        DataError: Damaged, without labels, or too few images.
    """
    from calib.datasets import open_dataset

    found = {}
    for split in splits:
        dataset = open_dataset(data, split, seed=seed, labelled=True, progress=progress)
        found[split] = len(dataset)
    return {"splits": found, "classes": list(dataset.classes)}


def child_env(spec: RunnerSpec) -> Dict[str, str]:
    """Environment variables that a child which loads this source must start with."""
    if spec.kind.startswith("keras"):
        from engines.keras import child_env as keras_env

        return keras_env(spec)
    return {}
