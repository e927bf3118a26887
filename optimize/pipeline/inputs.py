"""What identifies the things that go into a build: models, user files and data sets, by their content."""

from __future__ import annotations

import hashlib
import os
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
            found[option] = [_code(Path(file)), names] if file and Path(file).is_file() else value
    return found


def _code(file: Path) -> Dict[str, str]:
    """Hashes of a user's file and of the modules beside it, any of which it may import."""
    beside = [*file.parent.glob("*.py"), *file.parent.glob("*/*.py")]
    return {p.relative_to(file.parent).as_posix(): jsonfile.sha256(p) for p in sorted({file, *beside}) if p.is_file()}


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
    # a file with labels may stand beside the folder that it is about; links are followed, as the readers do
    files = [os.path.join(folder, name) for folder, _, names in os.walk(where, followlinks=True) for name in names]
    beside = [str(p) for p in where.parent.glob("*") if p.suffix in (".csv", ".txt", ".tsv") and p.is_file()]
    seen = hashlib.sha256()
    for file in sorted([*files, *beside] if where.is_dir() else [str(where)]):
        about = os.stat(file)
        name = os.path.relpath(file, where)
        seen.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
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
        from engines.kerasgeneration import child_env as keras_env

        return keras_env(spec)
    return {}
