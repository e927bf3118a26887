from __future__ import annotations

import numpy as np

from calib.datasets import open_dataset
from calib.datasets.synthetic import CLASSES

KEPT = "61f0adedd7d326666173bfebe4e91678c6b060158872e1d3b64ba84b520971bb"


def test_it_is_the_same_set_everywhere() -> None:
    test = open_dataset("synthetic", "test")
    # The same with NumPy 1.23 and 2.4.
    assert test.describe() == {"name": "synthetic-10", "n": 2000, "sha256": KEPT}
    assert test.classes == CLASSES and len(CLASSES) == 10


def test_parts_are_balanced_and_share_no_image() -> None:
    train, test = open_dataset("synthetic", "train"), open_dataset("synthetic", "test")
    assert train.labels is not None and test.labels is not None
    assert np.bincount(train.labels).tolist() == [1000] * 10 and np.bincount(test.labels).tolist() == [200] * 10
    images = [data.images(range(len(data))) for data in (train, test)]
    assert [getattr(x, "shape", None) for x in images] == [(10000, 32, 32, 3), (2000, 32, 32, 3)]
    seen = {image.tobytes() for part in images for image in part}
    assert len(seen) == 12000
    assert open_dataset("synthetic", "calibration").name == "synthetic-10"


def test_neither_colour_nor_a_linear_model_tells_the_class() -> None:
    train, test = open_dataset("synthetic", "train", 3000), open_dataset("synthetic", "test")
    assert train.labels is not None and test.labels is not None
    x, z = (np.asarray(d.images(range(len(d))), np.float32) / 255 for d in (train, test))
    for features in (lambda a: a.mean((1, 2)), lambda a: a[:, ::4, ::4].reshape(len(a), -1)):
        a, b = (np.hstack([features(part), np.ones((len(part), 1), np.float32)]) for part in (x, z))
        weights = np.linalg.lstsq(a, np.eye(10, dtype=np.float32)[train.labels], rcond=None)[0]
        assert ((b @ weights).argmax(1) == test.labels).mean() < 0.25


def test_images_come_in_the_order_asked_for() -> None:
    data = open_dataset("synthetic", "test")
    whole = data.images(range(20))
    np.testing.assert_array_equal(data.images([3, 11, 3]), np.asarray(whole)[[3, 11, 3]])
