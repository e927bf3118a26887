"""Inputs on which two models are compared: real images where there are some, else seeded ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from engines.spec import Progress, RunnerSpec, TensorSpec, quiet

_GRID = 8
"""Seeded images vary on a grid of so many cells a side, with some noise: flat noise looks alike to a classifier."""


def is_image(tensor: TensorSpec, layout: str) -> bool:
    """Whether an input takes images of 1 to 4 channels, float32."""
    if len(tensor.shape) != 4 or tensor.dtype != "float32" or not layout:
        return False
    return tensor.shape[3 if layout == "NHWC" else 1] in (1, 2, 3, 4)


def image_size(tensor: TensorSpec, layout: str) -> Tuple[int, int, int]:
    """Height, width and channels of an image input; 0 where free."""
    h, w, c = (1, 2, 3) if layout == "NHWC" else (2, 3, 1)
    return tensor.shape[h] or 0, tensor.shape[w] or 0, tensor.shape[c] or 0


def real(
    spec: RunnerSpec, data: str, split: str, n: int, seed: int, batch: int, progress: Progress = quiet
) -> Tuple[str, Iterator[Dict[str, npt.NDArray[Any]]]]:
    """Batches of preprocessed images of a data set for a model with one image input.

    Returns:
        The data set's name, and the batches by input name; the last one may be short.

    Raises:
        DataError, UsageError: See `calib.datasets.open_dataset` and `calib.preprocess.apply`.
    """
    from calib.datasets import open_dataset
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    tensor = spec.inputs[0]
    images = open_dataset(data, split, samples=n, seed=seed, labelled=False, progress=progress)
    height, width, _ = image_size(tensor, spec.layout)
    pre = Preprocess.from_json(spec.preprocess or {})
    found = batches(images, pre, spec.layout, (height, width), batch, progress)
    return images.name, ({tensor.name: array} for array, _ in found)


def seeded(
    spec: RunnerSpec, n: int, seed: int, batch: int, progress: Progress = quiet
) -> Iterator[Dict[str, npt.NDArray[Any]]]:
    """Batches made from a seed: images in the range of the preprocessing, normal numbers for other inputs."""
    random = np.random.default_rng(seed)
    for start in range(0, n, batch):
        size = min(batch, n - start)
        yield {t.name: _tensor(t, spec, size, random) for t in spec.inputs}
        progress("comparing", start + size, n)


def _tensor(tensor: TensorSpec, spec: RunnerSpec, size: int, random: np.random.Generator) -> npt.NDArray[Any]:
    if is_image(tensor, spec.layout) and 0 not in image_size(tensor, spec.layout):
        made = _images(tensor, spec, size, random)
        if made is not None:
            return made
    shape = (size, *(n or 1 for n in tensor.shape[1:]))
    kind: np.dtype[Any] = np.dtype(tensor.dtype)
    if kind.kind == "f":
        return random.standard_normal(shape).astype(kind)
    high = 256 if tensor.dtype == "uint8" else 2  # any table that integers may index has two rows
    return random.integers(0, high, shape).astype(kind)


def _images(tensor: TensorSpec, spec: RunnerSpec, size: int, random: np.random.Generator) -> Optional[npt.NDArray[Any]]:
    from calib.preprocess import Preprocess, apply

    height, width, channels = image_size(tensor, spec.layout)
    pre = replace(Preprocess.from_json(spec.preprocess or {}), resize=None, crop=None)
    if channels not in (1, 3) or any(len(values) not in (1, channels) for values in (pre.mean, pre.std)):
        return None
    coarse = random.integers(0, 256, (size, _GRID, _GRID, channels))
    rows, columns = (np.arange(length) * _GRID // length for length in (height, width))
    image = coarse[:, rows][:, :, columns] + random.integers(-24, 25, (size, height, width, channels))
    return apply(pre, np.clip(image, 0, 255).astype(np.uint8), spec.layout, (height, width))


def adapted(
    feeds: Dict[str, npt.NDArray[Any]], inputs: Sequence[TensorSpec], layout: str, have: str
) -> Dict[str, npt.NDArray[Any]]:
    """The same inputs for another model: by its names, or in order; images turned where its layout is the other one."""
    names = [t.name for t in inputs]
    arrays = [feeds[name] for name in names] if set(names) == set(feeds) else list(feeds.values())
    found = {}
    for tensor, array in zip(inputs, arrays):
        if array.ndim == 4 and layout and have and layout != have:
            array = array.transpose(0, 3, 1, 2) if layout == "NCHW" else array.transpose(0, 2, 3, 1)
        found[tensor.name] = np.ascontiguousarray(array.astype(tensor.dtype, copy=False))
    return found


def padded(feeds: Dict[str, npt.NDArray[Any]], batch: int) -> Dict[str, npt.NDArray[Any]]:
    """A short batch filled up with its last item, for models with a fixed batch."""
    return {
        name: np.concatenate([array, np.repeat(array[-1:], batch - len(array), 0)]) if len(array) < batch else array
        for name, array in feeds.items()
    }
