"""From a data set to the batches that a model is fed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calib.preprocess import Preprocess, apply
from engines.errors import UsageError
from engines.spec import Progress, quiet

if TYPE_CHECKING:
    from calib.datasets import Dataset


def batches(
    dataset: Dataset,
    pre: Preprocess,
    layout: str,
    size: Optional[Tuple[int, int]],
    batch: int,
    progress: Progress = quiet,
    start: int = 0,
    stop: Optional[int] = None,
) -> Iterator[Tuple[npt.NDArray[Any], Optional[npt.NDArray[Any]]]]:
    """Go once through a data set, in its order; one batch is in memory at a time.

    Args:
        dataset: Where images and labels come from.
        pre: What is done to each image.
        layout: `NHWC` or `NCHW`.
        size: Height and width that the model takes, None or 0 where it takes any.
        batch: Images in each batch; the last one holds what is left, unpadded.
        progress: Told the images done.
        start, stop: The part of the data set to go through, as of a slice.

    Yields:
        A float32 C-contiguous batch, and its labels, int64 of shape (n,), or None where the data set has none.

    Raises:
        DataError: An image cannot be read, or does not fit the model after the preprocessing.
        UsageError: `batch` is below 1.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}: 1 or more is needed")
    total = len(dataset) if stop is None else min(stop, len(dataset))
    for first in range(start, total, batch):
        indices = np.arange(first, min(first + batch, total))
        images = apply(pre, dataset.images(indices), layout, size)
        yield images, None if dataset.labels is None else dataset.labels[indices]
        progress("images", int(indices[-1]) + 1, total)
