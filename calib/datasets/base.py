"""What every data set is: a Source (all images of a place) and a Dataset (one split of it)."""

from __future__ import annotations

import hashlib
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from engines.spec import Progress, quiet

Images = Union["npt.NDArray[Any]", List["npt.NDArray[Any]"]]
"""uint8: one array (N, H, W, C), or a list of (H, W, C) where sizes may vary."""

Indices = Union[Sequence[int], "npt.NDArray[Any]"]

_CHUNK = 512


class Source:
    """All images of a place, read on demand. Subclasses give `images`, and `digests` where there is a faster way.

    Attributes:
        name: For people and records.
        classes: Names by label; empty where not known.
        labels: int64 of shape (n,), or None.
        train, test: Indices of the parts that the place itself tells apart; both empty where it does not.
    """

    name: str
    classes: Tuple[str, ...] = ()
    labels: Optional[npt.NDArray[Any]] = None
    train: npt.NDArray[Any] = np.zeros(0, np.int64)
    test: npt.NDArray[Any] = np.zeros(0, np.int64)
    unlabelled = "labels"
    """What is missing where labels are None, in words."""

    def __len__(self) -> int:
        raise NotImplementedError

    def images(self, indices: Indices) -> Images:
        """The images at `indices`, in that order, uint8.

        Raises:
            DataError: One cannot be read; it is named.
        """
        raise NotImplementedError

    def digests(self, indices: Indices, progress: Progress = quiet) -> List[bytes]:
        """SHA-256 of each image: of its shape and pixels here, of the file where images are files."""
        found: List[bytes] = []
        for start in range(0, len(indices), _CHUNK):
            for image in self.images(indices[start : start + _CHUNK]):
                digest = hashlib.sha256(repr(image.shape).encode())
                digest.update(np.ascontiguousarray(image))
                found.append(digest.digest())
            progress("hashing", len(found), len(indices))
        return found


class Dataset:
    """One split of a source: images, labels and identity.

    Attributes:
        name, classes: The source's.
        split: calibration, holdout, test or train.
        labels: int64 of shape (n,), or None.
    """

    def __init__(self, source: Source, split: str, indices: npt.NDArray[Any]) -> None:
        self.name = source.name
        self.split = split
        self.classes = source.classes
        self.labels: Optional[npt.NDArray[Any]] = None if source.labels is None else source.labels[indices]
        self.indices = indices
        """Positions in the source, int64."""
        self._source = source
        self._sha256 = ""

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Indices) -> Images:
        """Images of the split, uint8: an array (N, H, W, C), or a list of (H, W, C) where sizes may vary.

        Raises:
            DataError: One cannot be read; it is named.
            IndexError: No such image.
        """
        return self._source.images(self.indices[np.asarray(indices, np.int64)])

    def digests(self, progress: Progress = quiet) -> List[bytes]:
        """SHA-256 of each image, see `Source.digests`."""
        return self._source.digests(self.indices, progress)

    @property
    def sha256(self) -> str:
        """Hash of the content in the split's order: each image's hash and label. Names and places do not enter."""
        if not self._sha256:
            whole = hashlib.sha256()
            for digest in self.digests():
                whole.update(digest)
            if self.labels is not None:
                whole.update(self.labels.astype("<i8"))
            self._sha256 = whole.hexdigest()
        return self._sha256

    def describe(self) -> Dict[str, Any]:
        """`{name, n, sha256}`, as records of runs and bundles hold it."""
        return {"name": self.name, "n": len(self), "sha256": self.sha256}
