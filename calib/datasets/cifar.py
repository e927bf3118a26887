"""CIFAR-10 as it is published: the binary format and the Python pickles.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. A binary record is a label byte and 3 x 32 x 32 bytes: red, green
and blue planes, row by row. A pickle holds `data`, uint8 (n, 3072), planes in the same order, and `labels`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calib.datasets.base import Indices, Source
from calib.memory import forget
from engines.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

RECORD = 1 + 3 * 32 * 32
"""Bytes of an image with its label in the binary format."""

_HINT = "get it again with --data cifar10, or give another folder"


class Cifar(Source):
    """The images of some batch files; the pixels stay in the files (binary) or in memory (pickles)."""

    def __init__(self, batches: List[Tuple[npt.NDArray[Any], npt.NDArray[Any]]], tests: int, folder: Path) -> None:
        """Take pairs of planes, uint8 (n, 3072), and labels (n,); the last `tests` of them are test batches."""
        self.name = "cifar10"
        self.classes = _class_names(folder)
        self.labels = np.concatenate([labels for _, labels in batches]).astype(np.int64)
        self._planes = [planes for planes, _ in batches]
        self._starts = np.cumsum([0] + [len(planes) for planes in self._planes])
        border = int(self._starts[len(batches) - tests])
        self.train = np.arange(border)
        self.test = np.arange(border, len(self.labels))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, indices: Indices) -> npt.NDArray[Any]:
        """uint8 of shape (N, 32, 32, 3)."""
        wanted = np.asarray(indices, np.int64)
        flat = np.empty((len(wanted), RECORD - 1), np.uint8)
        part = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(part):
            here = part == number
            flat[here] = self._planes[number][wanted[here] - self._starts[number]]
            forget(self._planes[number])
        return np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def open_cifar(folder: Path) -> Optional[Cifar]:
    """The CIFAR-10 of a folder, binary or pickles, any subset of the training batches; None where there is none.

    Raises:
        DataError: A file has a wrong size, wrong labels or no image, or a pickle is not CIFAR-10's.
    """
    for pattern, reader in (
        (r"(data_batch_\d+|test_batch)\.bin", read_binary),
        (r"data_batch_\d+|test_batch", _pickle),
    ):
        files = sorted(p for p in folder.iterdir() if re.fullmatch(pattern, p.name) and p.is_file())
        if files:  # "data_batch_…" sorts before "test_batch"
            tests = sum(p.name.startswith("test") for p in files)
            return Cifar([reader(p) for p in files], tests, folder)
    return None


def read_binary(path: Path) -> Tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Planes, uint8 (n, 3072), mapped from the file, and labels, int64 (n,).

    Raises:
        DataError: The size is no multiple of 3073 bytes, there is no image, or a label is above 9.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: empty, no image", _HINT)
    if size % RECORD:
        raise DataError(f"{path}: {size} bytes, no multiple of {RECORD}: cut short, or not CIFAR-10", _HINT)
    records = np.memmap(path, np.uint8, "r", shape=(size // RECORD, RECORD))
    labels: npt.NDArray[Any] = records[:, 0].astype(np.int64)
    forget(records)
    _check_labels(path, labels)
    return records[:, 1:], labels


def write_binary(path: Path, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    """Write images, uint8 (n, 32, 32, 3), and labels 0..9 in the binary format."""
    records = np.empty((len(images), RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = np.asarray(images).transpose(0, 3, 1, 2).reshape(len(images), RECORD - 1)
    path.write_bytes(records.tobytes())


def _pickle(path: Path) -> Tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    from calib.datasets.pickles import load

    value = load(path)
    table = {(k.decode("latin1") if isinstance(k, bytes) else k): v for k, v in value.items()}
    for name in ("data", "labels"):
        if name not in table:
            raise DataError(f"{path}: {name!r} is missing: not a batch of CIFAR-10", _HINT)
    planes = table["data"]
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.ndim != 2 or planes.shape[1] != 3072:
        raise DataError(f"{path}: 'data' is not uint8 of shape (n, 3072)", _HINT)
    listed = table["labels"]
    if not isinstance(listed, np.ndarray) and not (
        isinstance(listed, list) and all(type(n) is int and abs(n) < 2**31 for n in listed)
    ):
        raise DataError(f"{path}: 'labels' are no integers", _HINT)
    labels: npt.NDArray[Any] = np.asarray(listed, np.int64) if isinstance(listed, list) else listed
    if labels.shape != (len(planes),) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {len(planes)} images, and labels that are not as many integers", _HINT)
    if len(planes) == 0:
        raise DataError(f"{path}: no image", _HINT)
    _check_labels(path, labels)
    return planes, labels.astype(np.int64)


def _check_labels(path: Path, labels: npt.NDArray[Any]) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if wrong.size:
        at = int(wrong[0])
        raise DataError(f"{path}: image {at} has label {int(labels[at])}; CIFAR-10's are 0 to 9", _HINT)


def _class_names(folder: Path) -> Tuple[str, ...]:
    """Names from `batches.meta.txt` where it lists ten, else the published ones."""
    meta = folder / "batches.meta.txt"
    if meta.is_file() and meta.stat().st_size < 10000:
        names = meta.read_text(encoding="utf-8", errors="replace").split()
        if len(names) == len(CLASSES):
            return tuple(names)
    return CLASSES
