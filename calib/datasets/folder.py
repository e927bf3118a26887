"""Folders of image files: ImageNet's layout, class folders without splits, and flat folders with a file of labels."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from calib.datasets.base import Indices, Source
from calib.datasets.images import SUFFIXES, read_image
from engines import jsonfile
from engines.errors import DataError
from engines.spec import Progress, quiet

_TRAIN = ("train", "training")
_TEST = ("test", "val", "valid", "validation")

_TABLES = (".csv", ".txt")

_LABEL_STEMS = ("labels", "label", "val_labels", "test_labels", "val", "validation", "test", "ground_truth")

_DEVKIT = "ILSVRC2012_validation_ground_truth.txt"

_HINT = "one line per image, `file,label` or `file label`; or one integer per line, in the order of the file names"

_hashes: Dict[Tuple[str, int, int], bytes] = {}
"""SHA-256 of files already read by this process, by path, size and time of change (ns)."""


class _Part(NamedTuple):
    paths: List[str]
    labels: Optional[List[int]]
    classes: Tuple[str, ...]


class Folder(Source):
    """Images in files; each is read when asked for, and their sizes may vary."""

    def __init__(self, name: str, train: _Part, test: _Part) -> None:
        parts = [part for part in (train, test) if part.paths]
        self.name = name
        self._paths = [path for part in parts for path in part.paths]
        self.classes = parts[0].classes if parts else ()
        if parts and all(part.labels is not None for part in parts):
            self.labels = np.asarray([label for part in parts for label in part.labels or ()], np.int64)
        self.unlabelled = "folders per class, or a file such as labels.csv, are"
        if train.paths and test.paths:
            self.train = np.arange(len(train.paths))
            self.test = np.arange(len(train.paths), len(self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    def images(self, indices: Indices) -> List[npt.NDArray[np.uint8]]:
        """uint8 (H, W, 3) each."""
        return [read_image(Path(self._paths[index])) for index in indices]

    def digests(self, indices: Indices, progress: Progress = quiet) -> List[bytes]:
        """SHA-256 of the files' bytes."""
        found = []
        for number, index in enumerate(indices):
            found.append(_hash(self._paths[index]))
            progress("hashing", number + 1, len(indices))
        return found


def _hash(path: str) -> bytes:
    about = os.stat(path)
    key = (path, about.st_size, about.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = bytes.fromhex(jsonfile.sha256(path))
    return _hashes[key]


def open_folder(root: Path) -> Folder:
    """Recognise what lies in a folder of images.

    `train` and one of `test`, `val` below it are its parts; each part, or the folder itself, has a folder per class
    (names sorted give the labels) or images side by side with a file of labels in or beside it.

    Raises:
        DataError: No image, a labels file that does not fit the images, or parts with unlike classes.
    """
    train = _first(root, _TRAIN)
    test = _first(root, _TEST)
    if train is None and test is None:
        part = _read(root, root)
        if not part.paths:
            raise DataError(f"{root}: no image", f"images are {', '.join(SUFFIXES)}, in the folder or one per class")
        return Folder(root.name, part, _Part([], None, ()))
    parts = [_read(p, root) if p is not None else _Part([], None, ()) for p in (train, test)]
    for place, part in zip((train, test), parts):
        if place is not None and not part.paths:
            raise DataError(f"{place}: no image", f"images are {', '.join(SUFFIXES)}")
    if all(part.classes for part in parts) and parts[0].classes != parts[1].classes:
        odd = sorted(set(parts[0].classes).symmetric_difference(parts[1].classes))
        raise DataError(
            f"{root}: class {odd[0]!r} is in only one of {train and train.name} and {test and test.name}",
            "give both the same class folders: labels are their places in sorted order",
        )
    return Folder(root.name, parts[0], parts[1])


def _first(root: Path, names: Sequence[str]) -> Optional[Path]:
    """The first of these folders with labels (ImageNet's own `test` has none), else the first there is."""
    places = [root / name for name in names if (root / name).is_dir()]
    return next((p for p in places if _class_folders(p) or _labels_file(p, root)), places[0] if places else None)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _below(folder: Path) -> List[str]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(place, name) for name in sorted(names) if _is_image(name)]
    return found


def _class_folders(folder: Path) -> List[Path]:
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return places if any(_below(p) for p in places) else []


def _read(folder: Path, root: Path) -> _Part:
    places = _class_folders(folder)
    if places:
        paths: List[str] = []
        labels: List[int] = []
        for label, place in enumerate(places):
            found = _below(place)
            paths += found
            labels += [label] * len(found)
        return _Part(paths, labels, tuple(place.name for place in places))
    names = sorted(p.name for p in folder.iterdir() if _is_image(p.name) and p.is_file())
    file = _labels_file(folder, root)
    paths = [str(folder / name) for name in names]
    if file is None or not names:
        return _Part(paths, None, ())
    words = _words(file, names)
    if all(word.isdecimal() for word in words):
        return _Part(paths, [int(word) for word in words], ())
    classes = tuple(sorted(set(words)))
    places_of = {name: label for label, name in enumerate(classes)}
    return _Part(paths, [places_of[word] for word in words], classes)


def _labels_file(folder: Path, root: Path) -> Optional[Path]:
    """The file of labels of a flat folder: by its name, in it or beside it, else the only table in it."""
    own = [f"{folder.name}_labels{suffix}" for suffix in _TABLES]
    known = [f"{stem}{suffix}" for stem in _LABEL_STEMS for suffix in _TABLES]
    candidates = [folder / name for name in (*own, *known, _DEVKIT)]
    # Beside the folder only what belongs to it: `train` and `val` may stand side by side.
    candidates += [folder.parent / name for name in (*own, *(f"{folder.name}{s}" for s in _TABLES))]
    if folder != root and folder.name in _TEST:
        candidates += [root / name for name in (*(f"labels{suffix}" for suffix in _TABLES), _DEVKIT)]
    for file in candidates:
        if file.is_file():
            return file
    tables = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _TABLES and p.stem.lower() != "readme"]
    return tables[0] if len(tables) == 1 else None


def _words(file: Path, names: List[str]) -> List[str]:
    """The label of each image, as text, in the order of `names`."""
    rows = _rows(file)
    if rows and all(len(row) == 1 for row in rows):
        if len(rows) != len(names):
            raise DataError(f"{file}: {len(rows)} labels for {len(names)} images", _HINT)
        if file.name == _DEVKIT and len(rows) == 50000:
            raise DataError(
                f"{file}: these are numbers of the development kit, not the sorted synsets that models are trained on",
                "write labels.txt with lines `file synset`, or sort the images into one folder per synset",
            )
        for number, (word,) in enumerate(rows, 1):
            if not word.isdecimal():
                raise DataError(f"{file}: line {number}: {word!r} is no integer", _HINT)
        return [word for (word,) in rows]
    known = {name: name for name in names}
    known.update({os.path.splitext(name)[0]: name for name in names})
    found: Dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise DataError(f"{file}: line {number}: no label", _HINT)
        image = known.get(os.path.basename(row[0].replace("\\", "/")))
        if image is None:
            if number == 1:
                continue  # a heading
            raise DataError(f"{file}: line {number}: no image {row[0]!r} beside it", _HINT)
        if found.setdefault(image, row[1]) != row[1]:
            raise DataError(f"{file}: line {number}: a second label for {image}", _HINT)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{file}: no label for {missing[0]} ({len(missing)} of {len(names)} images)", _HINT)
    return [found[name] for name in names]


def _rows(file: Path) -> List[List[str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file}: not text in UTF-8", _HINT) from None
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and "," in lines[-1]:
        return [[word.strip() for word in row] for row in csv.reader(lines)]
    if lines and "\t" in lines[-1]:
        return [[word.strip() for word in line.split("\t")] for line in lines]
    # A file's name may hold spaces; a label does not.
    return [line.rsplit(None, 1) for line in lines]
