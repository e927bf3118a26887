"""From `--data` to a split: recognise the place by its content, and divide it so that splits never overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calib.datasets.base import Dataset, Source
from calib.datasets.cifar import open_cifar
from calib.datasets.find import find_cifar10
from calib.sampling import balanced
from engines.errors import DataError, UsageError
from engines.spec import Progress, quiet

SPLITS = ("calibration", "holdout", "test", "train")

SAMPLES = 512
"""Images of calibration and holdout unless told otherwise."""

_TEST_SHARE = 128
"""Of 256: the part of an unsplit place that only measures, told by the first byte of an image's hash."""


def locate(ref: str) -> Optional[Path]:
    """Where the files of `ref` are; None for `synthetic`, and for `cifar10` where it is not on this machine.

    A path that does not exist is returned all the same.
    """
    if ref == "synthetic":
        return None
    if ref == "cifar10":
        return find_cifar10()
    return Path(ref).expanduser()


def open_dataset(
    ref: str,
    split: str,
    samples: Optional[int] = None,
    seed: int = 0,
    labelled: Optional[bool] = None,
    progress: Progress = quiet,
) -> Dataset:
    """Open one split of a data set; images are read on demand.

    `test` holds the place's test images (`test` or `val` folder, `x_test`, `test_batch`), which only measure. Training
    images are halved, balanced by label and by `seed`: `calibration` comes from one half, `holdout` from the other, so
    that for one seed they never overlap, however many are asked for. A place that does not tell training from test is
    divided by the hash of each image, half of them for `test`: renaming and reordering move no image to another part.

    Args:
        ref: `cifar10`, `synthetic`, a folder (CIFAR-10's files; `train`/`val`/`test` and class folders; images with a
            file of labels), or an .npz file.
        split: calibration, holdout, test or train.
        samples: At most so many images, balanced by label; None means 512 for calibration and holdout, else all.
        seed: Of sampling.
        labelled: Refuse a place without labels; by default test and train do.
        progress: Told of downloads and hashing.

    Raises:
        UsageError: No such file or folder, an unknown split, samples below 1.
        DataError: Damaged files, no image, no labels where they are needed, or no network for a download.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} samples: 1 or more are needed", "for example --samples 512")
    source = _source(ref, progress)
    if len(source) == 0:
        raise DataError(f"{ref}: no image", "give a folder with images, an .npz file, cifar10 or synthetic")
    if source.labels is None and (labelled if labelled is not None else split in ("test", "train")):
        raise DataError(f"{ref}: the {split} images have no labels: {source.unlabelled} missing", _LABEL_HINT)
    train, test = _parts(source, progress)
    indices = test if split == "test" else train
    if split in ("calibration", "holdout"):
        indices = _half(source, train, split, seed)
        samples = samples or SAMPLES
    if samples is not None:
        indices = indices[balanced(_labels(source, indices), samples, seed)]
    if len(indices) == 0:
        raise DataError(f"{ref}: {len(source)} images are too few for a {split} part", "give more images with --data")
    return Dataset(source, split, indices)


_LABEL_HINT = "put images in one folder per class, or add labels.csv with lines `file,label`"


def _labels(source: Source, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.zeros(len(indices), np.int64) if source.labels is None else source.labels[indices]


def _half(source: Source, train: npt.NDArray[np.int64], split: str, seed: int) -> npt.NDArray[np.int64]:
    labels = _labels(source, train)
    first = balanced(labels, (len(train) + 1) // 2, seed)
    if split == "calibration":
        return train[first]
    rest: npt.NDArray[Any] = np.ones(len(train), bool)
    rest[first] = False
    return train[rest]


def _parts(source: Source, progress: Progress) -> Tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices that may train or calibrate, and those that only measure."""
    if len(source.train) and len(source.test):
        return source.train, source.test
    digests = source.digests(range(len(source)), progress)
    # In the order of the hashes, so that names and positions decide nothing.
    order = np.asarray(sorted(range(len(digests)), key=digests.__getitem__), np.int64)
    tested = np.asarray([digests[index][0] < _TEST_SHARE for index in order], bool)
    return order[~tested], order[tested]


def _source(ref: str, progress: Progress) -> Source:
    if ref == "synthetic":
        from calib.datasets.synthetic import Synthetic

        return Synthetic()
    where = locate(ref)
    if where is None:
        from calib.datasets.fetch import fetch_cifar10

        where = fetch_cifar10(progress=progress)
    if where.is_dir():
        return _folder(where)
    if where.is_file():
        if where.suffix.lower() == ".npz":
            from calib.datasets.npz import Npz

            return Npz(where)
        raise DataError(f"{where}: not a data set", "give a folder, an .npz file, cifar10 or synthetic")
    raise UsageError(f"no such data set: {ref}", "give --data cifar10, --data synthetic, a folder or an .npz file")


def _folder(where: Path) -> Source:
    for place in (where, where / "cifar-10-batches-bin", where / "cifar-10-batches-py"):
        found = open_cifar(place) if place.is_dir() else None
        if found is not None:
            return found
    from calib.datasets.folder import open_folder

    return open_folder(where)
