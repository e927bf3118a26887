"""What the timed queries are fed with: the same images for every target, in the layout and range that each takes."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from engines.errors import UsageError
from engines.spec import Runner, RunnerSpec, TensorSpec


def feeds(runner: Runner, batch: int, data: str = "", seed: int = 0) -> Dict[str, npt.NDArray[Any]]:
    """Host arrays for one query.

    Image inputs get test images of `data` where it is given, else random uint8 images, both after the model's own
    preprocessing; other inputs get seeded normal (floats) or 0/1 (integers) values.

    Args:
        runner: Whose inputs are filled.
        batch: Images; a data set with fewer is repeated.
        data: Data set reference, or empty.
        seed: Of the random values: the same for every target.

    Returns:
        C-contiguous arrays by input name, batch first.

    Raises:
        UsageError: An input's size is free, or the model takes another batch only.
        DataError: The images do not fit.
    """
    return {
        tensor.name: _image(runner.spec, tensor, batch, data, seed)
        if len(runner.inputs) == 1 and is_image(runner.spec, tensor)
        else _values(tensor, batch, seed + index)
        for index, tensor in enumerate(runner.inputs)
    }


def is_image(spec: RunnerSpec, tensor: TensorSpec) -> bool:
    """Whether an input takes images: four axes, a known layout, float32."""
    return len(tensor.shape) == 4 and spec.layout in ("NHWC", "NCHW") and tensor.dtype == "float32"


def image_size(spec: RunnerSpec, tensor: TensorSpec) -> Tuple[int, int]:
    """Height and width that an image input takes.

    Raises:
        UsageError: The model leaves them free and no input shape was given.
    """
    sizes: List[Optional[int]] = list(tensor.shape[1:])
    if spec.input_shape is not None and len(spec.input_shape) == len(sizes):
        sizes = [have or given for have, given in zip(sizes, spec.input_shape)]
    height, width = (sizes[0], sizes[1]) if spec.layout == "NHWC" else (sizes[1], sizes[2])
    if not height or not width:
        raise UsageError(
            f"{spec.path}: the size of {tensor.name} is free", "give it with --input-shape, such as 32x32x3"
        )
    return height, width


def _image(spec: RunnerSpec, tensor: TensorSpec, batch: int, data: str, seed: int) -> npt.NDArray[Any]:
    from calib.preprocess import Preprocess, apply

    pre = Preprocess.from_json(spec.preprocess or {})
    size = image_size(spec, tensor)
    if data:
        from calib.datasets import open_dataset

        dataset = open_dataset(data, "test", samples=batch, seed=seed, labelled=False)
        images: Any = dataset.images(np.arange(batch) % len(dataset))
    else:
        channels = tensor.shape[3 if spec.layout == "NHWC" else 1] or 3
        shape = (batch, *_before_geometry(pre, size), channels)
        images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return apply(pre, images, spec.layout, size)


def _before_geometry(pre: Any, size: Tuple[int, int]) -> Tuple[int, int]:
    """A size of random images that the geometry turns into the model's, whatever it is."""
    crop = pre.crop or size
    return (max(size[0], crop[0]), max(size[1], crop[1]))


def _values(tensor: TensorSpec, batch: int, seed: int) -> npt.NDArray[Any]:
    if tensor.shape and tensor.shape[0] not in (None, batch):
        raise UsageError(f"{tensor.name} has a fixed batch of {tensor.shape[0]}: {batch} cannot be measured")
    rest = tensor.shape[1:]
    if None in rest:
        raise UsageError(f"the size of {tensor.name} is free: {rest}", "give it with --input-shape")
    shape = (batch, *(int(n) for n in rest if n is not None)) if tensor.shape else ()
    rng = np.random.default_rng(seed)
    if np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return np.ascontiguousarray(rng.standard_normal(shape), tensor.dtype)
    return np.ascontiguousarray(rng.integers(0, 2, shape), tensor.dtype)
