from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.datasets import open_dataset
from calib.datasets.npz import Npz
from engines.errors import DataError


def images(n: int, seed: int = 0, size: int = 8) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


def save(path: Path, compressed: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("X", "Y")])
def test_pairs(tmp_path: Path, compressed: bool, names: Any) -> None:
    x, y = images(40), np.arange(40) % 4
    source = Npz(save(tmp_path / "set.npz", compressed, **{names[0]: x, names[1]: y}))
    assert source.name == "set" and len(source) == 40
    np.testing.assert_array_equal(np.stack(source.images([7, 3, 39])), x[[7, 3, 39]])
    assert source.labels is not None and source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, y)
    assert isinstance(source._parts[0]._array, np.memmap) is not compressed


def test_keras_splits(tmp_path: Path) -> None:
    x, y = images(50), np.arange(50) % 5
    file = save(
        tmp_path / "a.npz",
        x_train=x[:30],
        y_train=y[:30, None],
        x_test=x[30:],
        y_test=np.eye(5)[y[30:]],
        classes=list("abcde"),
    )
    train, test = open_dataset(str(file), "train"), open_dataset(str(file), "test")
    assert (len(train), len(test), test.classes) == (30, 20, tuple("abcde"))
    assert train.labels is not None and test.labels is not None
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), y)
    np.testing.assert_array_equal(np.stack(list(test.images([0, 19]))), x[[30, 49]])


def test_division_does_not_depend_on_the_order(tmp_path: Path) -> None:
    x, y = images(60), np.arange(60) % 3
    order = np.random.default_rng(1).permutation(60)
    one, other = save(tmp_path / "a.npz", x=x, y=y), save(tmp_path / "b.npz", True, images=x[order], labels=y[order])
    for split in ("calibration", "holdout", "test", "train"):
        a, b = open_dataset(str(one), split), open_dataset(str(other), split)
        assert a.sha256 == b.sha256 and len(a) == len(b) > 0


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_shapes_and_types_give_the_bytes_back(tmp_path_factory: Any, data: Any) -> None:
    channels = data.draw(st.sampled_from([0, 1, 3]))
    pixels = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 256, (3, 5, 4, channels or 1), np.uint8)
    pixels[0, 0, 0] = 255
    array: Any = pixels
    if channels == 0:
        array = pixels[..., 0]
    elif data.draw(st.booleans()):
        array = pixels.transpose(0, 3, 1, 2)
    kind = data.draw(st.sampled_from(["u1", "i4", "i8", "f4", "f8", "unit2", "unit4", "unit8"]))
    array = (array / np.float64(255)).astype(f"f{kind[-1]}") if kind.startswith("unit") else array.astype(kind)
    source = Npz(save(tmp_path_factory.mktemp("npz") / "a.npz", data.draw(st.booleans()), x=array, y=[0, 1, 2]))
    np.testing.assert_array_equal(np.stack(source.images([0, 1, 2])), pixels)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros(3)}, "no images; it holds z"),
        ({"x": np.zeros((2, 8, 8, 3)) - 0.5, "y": [0, 1]}, "preprocessed already"),
        ({"x": np.full((2, 8, 8, 3), 0.1234), "y": [0, 1]}, "preprocessed already"),
        ({"x": np.full((2, 8, 8, 3), np.nan), "y": [0, 1]}, "preprocessed already"),
        ({"x": np.full((2, 8, 8, 3), 256), "y": [0, 1]}, "values from 256"),
        ({"x": np.zeros((2, 8, 8, 5), np.uint8), "y": [0, 1]}, "1 or 3 channels"),
        ({"x": np.zeros((2, 8), np.uint8), "y": [0, 1]}, "not that of images"),
        ({"x": np.zeros((2, 8, 8, 3), "U1"), "y": [0, 1]}, "not a type of pixels"),
        ({"x": images(2), "y": [0, 1, 2]}, "shape 3 .* for 2 images"),
        ({"x": images(2), "y": [0.5, 1]}, "no integer"),
        ({"x": images(2), "y": [-1, 1]}, "no integer of 0 or more"),
        ({"x": images(2), "y": [[1, 1], [0, 1]]}, "one-hot"),
        ({"x": images(2), "y": ["a", "b"]}, "type <U1"),
        ({"x": np.array([None, {}], object), "y": [0, 1]}, "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, arrays: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Npz(save(tmp_path / "bad.npz", **arrays))
    assert "bad.npz" in caught.value.message


def test_missing_labels_are_named(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", x_train=images(9), y_train=np.arange(9), x_test=images(4))
    with pytest.raises(DataError, match="the array y_test is missing"):
        open_dataset(str(file), "test")
    assert len(open_dataset(str(file), "calibration")) == 5


def test_damaged_files(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", x=images(9), y=np.arange(9))
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[100:]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz"):
            open_dataset(str(file), "test")
    for at in range(0, len(whole), 37):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            data = open_dataset(str(file), "train")
            data.images(range(len(data)))
        except DataError:
            continue


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        open_dataset(str(save(tmp_path / "a.npz", x=images(0), y=np.zeros(0, int))), "train")
