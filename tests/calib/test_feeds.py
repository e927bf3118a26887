from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import numpy as np
import pytest
from PIL import Image

from calib.datasets import open_dataset
from calib.feeds import batches
from calib.preprocess import apply, parse
from engines.errors import DataError, UsageError


def test_every_image_comes_once_in_order_and_the_tail_is_short() -> None:
    data = open_dataset("synthetic", "test", samples=50)
    said: List[Tuple[str, int, int]] = []
    pre = parse("imagenet")
    fed = list(batches(data, pre, "NCHW", (32, 32), 16, lambda *words: said.append(words)))
    assert [len(x) for x, _ in fed] == [16, 16, 16, 2]
    assert all(x.dtype == np.float32 and x.flags.c_contiguous for x, _ in fed)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in fed]), apply(pre, data.images(range(50)), "NCHW"))
    labels = np.concatenate([y for _, y in fed if y is not None])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, data.labels)
    assert [done for _, done, _ in said] == [16, 32, 48, 50] and {total for *_, total in said} == {50}
    ((x, _), (y, _)) = batches(data, pre, "NCHW", (32, 32), 16, start=10, stop=40)
    np.testing.assert_array_equal(np.concatenate([x, y]), apply(pre, data.images(range(10, 40)), "NCHW"))


def test_images_of_many_sizes_are_brought_to_one(tmp_path: Path) -> None:
    for number, size in enumerate([(40, 30), (30, 50), (64, 64), (33, 33)]):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    data = open_dataset(str(tmp_path), "calibration", seed=1)
    ((x, y),) = batches(data, parse("resize=28,crop=24,raw"), "NHWC", (24, 24), 8)
    assert x.shape == (len(data), 24, 24, 3) and y is None
    with pytest.raises(DataError, match="the model takes 24x24"):
        list(batches(data, parse("raw"), "NHWC", (24, 24), 8))


def test_a_model_of_another_size_names_both_sizes() -> None:
    data = open_dataset("synthetic", "test", samples=4)
    with pytest.raises(DataError, match="32x32 after preprocessing, the model takes 224x224") as caught:
        next(batches(data, parse("unit"), "NCHW", (224, 224), 2))
    assert "resize=" in caught.value.hint
    with pytest.raises(UsageError, match="batch 0"):
        next(batches(data, parse("unit"), "NCHW", None, 0))
