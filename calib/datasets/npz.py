"""Images and labels in an .npz file. What `numpy.savez` wrote is mapped, what `savez_compressed` wrote is loaded."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import numpy.typing as npt

from calib.datasets.base import Indices, Source
from calib.memory import forget
from engines.errors import DataError

_PAIRS = (("x", "y"), ("images", "labels"), ("image", "label"), ("data", "labels"))
_SPLIT = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
_NAMES = ("classes", "class_names", "label_names")

_HINT = "give x and y (or images and labels, or x_train, y_train, x_test, y_test): uint8 images, integer labels"

_CHUNK = 256


class Npz(Source):
    """Images of an .npz file: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels.

    Integers of other types are taken where they are 0 to 255, floats where they are 0 to 255 or, all at most 1, whole
    multiples of 1/255: both give the bytes back exactly. Other floats have been preprocessed already and are refused.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        arrays = _Arrays(path)
        names = next((quad for quad in _SPLIT if quad[0] in arrays and quad[2] in arrays), None)
        if names is not None:
            parts = [names[:2], names[2:]]
        else:
            found = next((pair for pair in _PAIRS if pair[0] in arrays), None)
            if found is None:
                raise DataError(f"{path}: no images; it holds {', '.join(arrays.names()) or 'nothing'}", _HINT)
            parts = [found]
        self._parts = [_Images(f"{path}: {x}", arrays.get(x)) for x, _ in parts]
        self._starts = np.cumsum([0] + [len(part) for part in self._parts])
        if names is not None:
            self.train, self.test = np.arange(self._starts[1]), np.arange(self._starts[1], self._starts[2])
        missing = [y for _, y in parts if y not in arrays]
        self.unlabelled = f"the array {' and '.join(missing)} is"
        if not missing:
            made = [_labels(f"{path}: {y}", arrays.get(y), len(part)) for (_, y), part in zip(parts, self._parts)]
            self.labels = np.concatenate(made)
        for name in _NAMES:
            if name in arrays:
                self.classes = tuple(str(item) for item in arrays.get(name).reshape(-1))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, indices: Indices) -> List[npt.NDArray[Any]]:
        """uint8 (H, W, C) each; training and test images may differ in size."""
        wanted: npt.NDArray[Any] = np.asarray(indices, np.int64)
        part = np.searchsorted(self._starts, wanted, side="right") - 1
        out: List[npt.NDArray[Any]] = [np.zeros(0)] * len(wanted)
        for number in np.unique(part):
            positions = np.flatnonzero(part == number)
            rows = self._parts[number].read(wanted[positions] - self._starts[number])
            for position, row in zip(positions.tolist(), rows):
                out[position] = row
        return out


class _Arrays:
    """The members of the file, read without pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._infos = {i.filename[:-4].lower(): i for i in archive.infolist() if i.filename.endswith(".npy")}
        except (zipfile.BadZipFile, ValueError, struct.error, EOFError) as error:
            raise DataError(f"{path}: not an .npz file, or damaged ({error})", _HINT) from None

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def names(self) -> List[str]:
        return sorted(self._infos)

    def get(self, name: str) -> npt.NDArray[Any]:
        try:
            mapped = self._map(self._infos[name])
            return mapped if mapped is not None else self._load(self._infos[name])
        except (ValueError, OSError, EOFError, struct.error, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
            raise DataError(f"{self.path}: array {name!r} cannot be read ({error})", _HINT) from None

    def _load(self, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive, archive.open(info) as member:
            loaded: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            return loaded

    def _map(self, info: zipfile.ZipInfo) -> Optional[npt.NDArray[Any]]:
        """The array mapped from where it lies in the archive; None where it is compressed or of an unusual kind."""
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            return None
        with open(self.path, "rb") as file:
            # A local header: 30 bytes, the last four of them the lengths of the name and of the extra field.
            file.seek(info.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            begin = info.header_offset + 30 + name_length + extra_length
            file.seek(begin)
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                return None
            if dtype.hasobject or 0 in shape:
                return None
            offset = file.tell()
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if offset + size > begin + info.file_size:
            raise ValueError("cut short")
        return np.memmap(self.path, dtype, "r", offset, shape, "F" if fortran else "C")


class _Images:
    """One array of images, given out as uint8 NHWC."""

    def __init__(self, what: str, array: npt.NDArray[Any]) -> None:
        self._what, self._array = what, array
        self._factor = 1.0
        self._channels_first = False
        if array.ndim == 4 and array.shape[3] not in (1, 3):
            self._channels_first = array.shape[1] in (1, 3)
            if not self._channels_first:
                raise DataError(f"{what}: shape {_shape(array)}; 1 or 3 channels are needed, last or second", _HINT)
        elif array.ndim not in (3, 4):
            raise DataError(f"{what}: shape {_shape(array)} is not that of images", _HINT)
        if array.dtype != np.uint8:
            self._check()

    def __len__(self) -> int:
        return len(self._array)

    def _check(self) -> None:
        """Find the factor that turns the values into bytes, and that it does so for all of them."""
        array = self._array
        if array.dtype.kind not in "iuf":
            raise DataError(f"{self._what}: {array.dtype} is not a type of pixels", _HINT)
        chunks = [array[start : start + _CHUNK] for start in range(0, len(array), _CHUNK)]
        low = min((float(chunk.min()) for chunk in chunks), default=0.0)
        high = max((float(chunk.max()) for chunk in chunks), default=0.0)
        if array.dtype.kind == "f" and high <= 1.0:
            self._factor = 255.0
        if not (low >= 0 and high * self._factor <= 255):
            raise self._refused(f"values from {low:g} to {high:g}")
        if array.dtype.kind == "f":
            for chunk in chunks:
                scaled = np.asarray(chunk, np.float64) * self._factor
                # float16 keeps 11 bits: k/255 times 255 is within 0.13 of k, so k is found, and nothing else taken.
                slack = 0.13 if chunk.dtype.itemsize == 2 else 1e-3
                if not np.all(np.abs(scaled - np.rint(scaled)) <= slack):
                    raise self._refused("floats that are not pixels / 255")

    def _refused(self, why: str) -> DataError:
        return DataError(f"{self._what}: {why}: the images have been preprocessed already", "save them as uint8")

    def read(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        taken = np.asarray(self._array[rows])
        forget(self._array)
        if taken.dtype != np.uint8:
            scaled = taken.astype(np.float64) * self._factor
            taken = np.rint(scaled).astype(np.uint8)
        if taken.ndim == 3:
            return taken[..., None]
        return np.ascontiguousarray(taken.transpose(0, 2, 3, 1)) if self._channels_first else taken


def _shape(array: npt.NDArray[Any]) -> str:
    return "x".join(str(n) for n in array.shape) or "()"


def _labels(what: str, array: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """Labels as int64 (n,): from (n,), (n, 1), or one-hot (n, k)."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape[:1] != (n,) or array.ndim not in (1, 2) or array.dtype.kind not in "iufb":
        raise DataError(f"{what}: labels of shape {_shape(array)} and type {array.dtype} for {n} images", _HINT)
    if array.ndim == 2:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            raise DataError(f"{what}: neither one label an image nor one-hot", _HINT)
        return array.argmax(axis=1).astype(np.int64)
    whole = array.astype(np.int64)
    if (whole != array).any() or (whole < 0).any():
        raise DataError(f"{what}: a label that is no integer of 0 or more", _HINT)
    return whole
