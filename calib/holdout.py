"""Images kept aside from the ranges, with FP32's answers to them: what candidates are measured on."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calib import ranges
from calib.agreement import PerImage, Scores, join, per_image
from calib.datasets.base import Dataset
from calib.feeds import batches
from calib.memory import release
from calib.preprocess import Preprocess
from engines.errors import ModelError
from engines.spec import TensorSpec

_KEEP_BYTES = 128 << 20
"""Preprocessed images are kept in memory up to this size, else read again for every run."""

_REFERENCE_BYTES = 256 << 20
"""Answers of FP32 that are kept: where they are large (a class for every pixel), fewer images are used."""

_BATCH = 32

Query = Callable[[Dict[str, npt.NDArray[Any]]], Scores]
"""From feeds by name to the outputs in order."""


class ImageInput(NamedTuple):
    """The one input of a graph. `batch` is 0 where it is free, `size` None where height and width are."""

    spec: TensorSpec
    layout: str
    size: Optional[Tuple[int, int]]
    batch: int


class Holdout:
    """Hold-out images and the outputs of FP32 for them.

    Args:
        dataset: The images.
        pre: What is done to each.
        image: The graph's input.
        onnx: FP32 graph.
        task: classify or tensors, kept as an attribute.

    Raises:
        ModelError: No output has an entry for each image.
    """

    def __init__(self, dataset: Dataset, pre: Preprocess, image: ImageInput, onnx: str, task: str) -> None:
        self._dataset, self._pre, self._image, self.task = dataset, pre, image, task
        self._labels = dataset.labels if task == "classify" else None
        self._held: Optional[npt.NDArray[Any]] = None
        if image.size is not None and len(dataset) * image.size[0] * image.size[1] * 12 <= _KEEP_BYTES:
            self._held = np.concatenate(list(self._read(0, len(dataset))))
        self._batched: List[int] = []  # outputs that have an entry for each image: not a table of anchors
        session = ranges.session(onnx)
        release()  # the weights as they were before their layout changed
        parts: List[Scores] = []
        for _, scores in self._run(lambda feeds: list(session.run(None, feeds)), 0, len(dataset)):
            parts.append(scores)
            if sum(value.nbytes for part in parts for value in part) > _REFERENCE_BYTES:
                break
        self._reference = [np.concatenate(values) for values in zip(*parts)]
        if not self._reference:
            raise ModelError(f"{onnx}: no output has an entry for each image")

    def __len__(self) -> int:
        return len(self._reference[0])

    @property
    def batch(self) -> int:
        """Images of a run, where the graph fixes them; else 1, since any number is run."""
        return self._image.batch or 1

    @property
    def counted(self) -> int:
        """Images of which the answers are counted; 0 where outputs are compared by their direction."""
        return len(self) if self.task == "classify" else 0

    def _read(self, start: int, stop: int) -> Iterator[npt.NDArray[Any]]:
        image, batch = self._image, self._image.batch or _BATCH
        for x, _ in batches(self._dataset, self._pre, image.layout, image.size, batch, start=start, stop=stop):
            yield x

    def _batches(self, start: int, stop: int) -> Iterator[npt.NDArray[Any]]:
        if self._held is None:
            yield from self._read(start, stop)
            return
        step = self._image.batch or _BATCH
        for first in range(start, stop, step):
            yield self._held[first : min(first + step, stop)]

    def _run(self, query: Query, start: int, stop: int) -> Iterator[Tuple[slice, Scores]]:
        """Outputs batch by batch, and for which images."""
        for x in self._batches(start, stop):
            fed = ranges.pad({self._image.spec.name: x}, self._image.batch)
            results = query(fed)
            if not self._batched:
                size = len(fed[self._image.spec.name])
                self._batched = [i for i, value in enumerate(results) if value.ndim and len(value) == size]
            scores = [np.array(results[i][: len(x)], np.float32) for i in self._batched]
            yield slice(start, start + len(x)), scores
            start += len(x)

    def measure(self, query: Query, start: int = 0, stop: Optional[int] = None) -> PerImage:
        """How what `query` runs compares with FP32 on the images from `start` to `stop`."""
        found = [
            per_image([value[images] for value in self._reference], scores, self._labels_of(images), self.task)
            for images, scores in self._run(query, start, len(self) if stop is None else min(stop, len(self)))
        ]
        return join(found)

    def top1(self, images: int) -> Optional[float]:
        """Share of the first images that FP32 answers right; None without labels."""
        first = slice(0, min(images, len(self)))
        answers = [self._reference[0][first]]
        return per_image(answers, answers, self._labels_of(first), self.task).mean().top1

    def _labels_of(self, images: slice) -> Optional[npt.NDArray[Any]]:
        return None if self._labels is None else self._labels[images]
