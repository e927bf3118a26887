"""What identifies the models and the user's code that go into a build, by their content."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

from engines import jsonfile
from engines.spec import Progress, RunnerSpec, quiet
from optimize.pipeline.listing import Stamp, stamp

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
    "torchvision",
    "timm",
)
"""Their versions decide what the export gives."""

CALIBRATION_PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino")


_CODE = ("custom_objects", "factory")


def source_inputs(spec: RunnerSpec) -> Dict[str, Any]:
    """Hashes of the model file and of the user's code named with it, and the options that decide how it is read."""
    found: Dict[str, Any] = {
        "model": jsonfile.sha256(spec.path),
        "kind": spec.kind,
        "input_shape": list(spec.input_shape) if spec.input_shape else None,
        "task": spec.task,
    }
    for option in _CODE:
        value = getattr(spec, option)
        if value:
            file, _, names = value.rpartition(":")
            found[option] = [_hashes(_code(Path(file)), Path(file).parent), names] if _is_file(file) else value
    weights = _weights(spec)
    if weights:
        found["weights"] = _hashes(weights, Path(spec.path).parent)
    return found


def source_files(spec: RunnerSpec) -> List[Path]:
    """The files that `source_inputs` reads, whether they are still there or not."""
    path = Path(spec.path)
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for option in _CODE:
        file = (getattr(spec, option) or "").rpartition(":")[0]
        files += _code(Path(file)) if _is_file(file) else []
    return [*files, *_weights(spec)]


def _is_file(file: str) -> bool:
    """A factory of a library has a name and no file."""
    return bool(file) and Path(file).is_file()


def _code(file: Path) -> List[Path]:
    """A user's file and the modules beside it, any of which it may import."""
    beside = [*file.parent.glob("*.py"), *file.parent.glob("*/*.py")]
    return [p for p in sorted({file, *beside}) if p.is_file()]


def _hashes(files: Iterable[Path], folder: Path) -> Dict[str, str]:
    return {p.relative_to(folder).as_posix(): jsonfile.sha256(p) for p in files}


def _weights(spec: RunnerSpec) -> List[Path]:
    """The files beside an ONNX file that hold its weights."""
    if spec.kind != "onnx" or not Path(spec.path).is_file():
        return []
    return [Path(spec.path).parent / name for name in _locations(spec.path, stamp(os.stat(spec.path)))]


@functools.lru_cache(maxsize=8)
def _locations(path: str, _: Stamp) -> Tuple[str, ...]:
    """Where an ONNX file with this stamp keeps its weights: it is parsed once, however often its files are asked."""
    import onnx

    unparsable = importlib.import_module("google.protobuf.message").DecodeError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # protobuf warns of a cut file, and returns a part of it
            graph = onnx.load(path, load_external_data=False).graph
    except (unparsable, ValueError, OSError):  # whoever loads the model tells what is wrong with it
        return ()
    found = {entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    return tuple(sorted(found))


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant tensor of an ONNX graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            yield from (item.t, *item.tensors)
            for inner in (item.g, *item.graphs):
                yield from _tensors(inner)


def look_at_data(
    data: str,
    splits: List[str],
    seed: int,
    samples: Optional[int] = None,
    labelled: bool = False,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Open the splits that a build will need, so that bad data is told before any long work (runs in a child process).

    Args:
        data: Data set reference.
        splits: test, and calibration and holdout where INT8 needs them.
        seed: Of their choice.
        samples: Of calibration.
        labelled: Refuse data without labels.
        progress: Told of downloads and hashing.

    Returns:
        `splits` (how many images of each), `classes` (names), `overlap` (how many of the images that calibrate or
        choose are among those that measure: accuracy on them says too much).

    Raises:
        DataError: Damaged, without labels where they are needed, or too few images.
    """
    from calib.datasets import open_dataset

    found, digests = {}, {}
    for split in splits:
        dataset = open_dataset(
            data, split, samples if split == "calibration" else None, seed, labelled=labelled, progress=progress
        )
        found[split] = len(dataset)
        if len(splits) > 1:
            digests[split] = dataset.digests(progress)
    measured = set(digests.get("test", ()))
    overlap = sum(one in measured for split, known in digests.items() if split != "test" for one in known)
    return {"splits": found, "classes": list(dataset.classes), "overlap": overlap}


def doubtful(seen: Dict[str, Any]) -> List[str]:
    """Warnings where few images calibrate, or some of those that make an engine are among those that measure it.

    Args:
        seen: From `look_at_data`.
    """
    from calib.sampling import too_few

    warnings = too_few(seen["splits"]["calibration"]) if "calibration" in seen["splits"] else []
    if not seen.get("overlap"):
        return warnings
    those = sum(count for split, count in seen["splits"].items() if split != "test")
    return [
        *warnings,
        f"{seen['overlap']} of the {those} images that calibrate INT8 and choose its method are among the "
        f"{seen['splits']['test']} test images: the accuracy measured on them is too good",
    ]


def child_env(spec: RunnerSpec) -> Dict[str, str]:
    """Environment variables that a child which loads this source must start with."""
    if spec.kind.startswith("keras"):
        from engines.kerasgeneration import child_env as keras_env

        return keras_env(spec)
    return {}
