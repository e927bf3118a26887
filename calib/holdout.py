"""Images kept aside from the ranges, with FP32's answers to them: what candidates are measured on."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calib import ranges
from calib.agreement import Agreement, Scores, compare
from calib.datasets.base import Dataset
from calib.feeds import batches
from calib.memory import release
from calib.preprocess import Preprocess
from engines.spec import TensorSpec

_KEEP_BYTES = 128 << 20
"""Preprocessed images are kept in memory up to this size, else read again for every run."""

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
    """

    def __init__(self, dataset: Dataset, pre: Preprocess, image: ImageInput, onnx: str, task: str) -> None:
        self._dataset, self._pre, self._image, self.task = dataset, pre, image, task
        self._labels = dataset.labels if task == "classify" else None
        self._held: Optional[npt.NDArray[Any]] = None
        if image.size is not None and len(dataset) * image.size[0] * image.size[1] * 12 <= _KEEP_BYTES:
            self._held = np.concatenate(list(self._read(0, len(dataset))))
        session = ranges.session(onnx)
        release()  # the weights as they were before their layout changed
        self._reference = self.run(lambda feeds: list(session.run(None, feeds)))

    def __len__(self) -> int:
        return len(self._dataset)

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

    def run(self, query: Query, start: int = 0, stop: Optional[int] = None) -> Scores:
        """Outputs for the images from `start` to `stop`, concatenated."""
        parts: List[Scores] = []
        for x in self._batches(start, len(self) if stop is None else min(stop, len(self))):
            results = query(ranges.pad({self._image.spec.name: x}, self._image.batch))
            parts.append([np.array(value[: len(x)], np.float32) for value in results])
        return [np.concatenate(values) for values in zip(*parts)]

    def compare(self, scores: Scores, start: int = 0) -> Agreement:
        """Agreement of the outputs for as many images, from `start` on, with those of FP32."""
        part = slice(start, start + len(scores[0]))
        labels = None if self._labels is None else self._labels[part]
        return compare([value[part] for value in self._reference], scores, labels, self.task)
