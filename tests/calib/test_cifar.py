from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.datasets import open_dataset
from calib.datasets.cifar import CLASSES, open_cifar, read_binary, write_binary
from engines.errors import DataError


def made(n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.permutation(np.arange(n) % 10)


def binary_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(("data_batch_1.bin", "data_batch_3.bin", "test_batch.bin")):
        write_binary(folder / name, *made(60 + 10 * number, number))
    return folder


def pickle_folder(folder: Path, protocol: int, as_bytes: bool) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(("data_batch_1", "data_batch_3", "test_batch")):
        images, labels = made(60 + 10 * number, number)
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
        value = {"data": planes, "labels": labels.tolist(), "batch_label": "x", "filenames": ["a.png"]}
        table = {(k.encode() if as_bytes else k): v for k, v in value.items()}
        (folder / name).write_bytes(pickle.dumps(table, protocol))
    return folder


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(32), st.just(32), st.just(3))),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_what_is_written_is_read_again(tmp_path_factory: Any, images: Any, labels: Any) -> None:
    folder = tmp_path_factory.mktemp("cifar")
    write_binary(folder / "test_batch.bin", images, labels[: len(images)])
    source = open_cifar(folder)
    assert source is not None and len(source) == len(images)
    np.testing.assert_array_equal(source.images(range(len(images))), images)
    assert source.labels is not None and source.labels.tolist() == labels[: len(images)]


def test_planes_are_red_green_blue_row_by_row(tmp_path: Path) -> None:
    record = bytes([7]) + bytes([10] * 1024) + bytes([20] * 1024) + bytes(range(256)) * 4
    (tmp_path / "data_batch_1.bin").write_bytes(record)
    source = open_cifar(tmp_path)
    assert source is not None and source.labels is not None
    image = source.images([0])[0]
    assert source.labels.tolist() == [7]
    assert image[0, 0].tolist() == [10, 20, 0] and image[0, 1].tolist() == [10, 20, 1]
    assert image[1, 0].tolist() == [10, 20, 32]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_pickles_hold_the_same_set(tmp_path: Path, protocol: int, as_bytes: bool) -> None:
    one = binary_folder(tmp_path / "b" / "cifar-10-batches-bin")
    other = pickle_folder(tmp_path / "p" / "cifar-10-batches-py", protocol, as_bytes)
    for split in ("train", "test", "calibration", "holdout"):
        a, b = open_dataset(str(one), split), open_dataset(str(other.parent), split)
        assert a.describe() == b.describe()
        np.testing.assert_array_equal(a.labels, b.labels)
    assert len(open_dataset(str(one), "train")) == 130 and len(open_dataset(str(one), "test")) == 80


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    # As Python 2 and its NumPy wrote CIFAR-10's batches: protocol 2, byte strings (opcode U) for keys and pixels.
    pixels = bytes(range(256)) * 12
    text = b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
    text += b"K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07"
    text += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    text += b"T\x00\x0c\x00\x00" + pixels + b"tb"
    text += b"U\x06labelsq\x08]q\x09K\x04au."
    (tmp_path / "test_batch").write_bytes(text)
    source = open_cifar(tmp_path)
    assert source is not None and source.labels is not None
    assert source.labels.tolist() == [4]
    assert source.images([0])[0, 0, :3].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (self.path,)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    images, labels = made(3, 0)
    planes = images.reshape(3, -1)
    folder = tmp_path / "data"
    folder.mkdir()
    attempts = [
        pickle.dumps({"data": planes, "labels": labels.tolist(), "x": Evil(marker)}),
        pickle.dumps(Evil(marker)),
        b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c_codecs\nencode\n(Vabc\nVzip\ntR.",
        b"c_codecs\nencode\n}Vx\nKs\x01b.",
        b"cnumpy\nndarray\n(I8\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"(Pxxx\n.",
        pickle.dumps({"data": np.array([None, {}], object), "labels": [1, 2]}),
        pickle.dumps([1, 2]),
    ]
    for number, text in enumerate(attempts):
        (folder / "test_batch").write_bytes(text)
        with pytest.raises(DataError, match="test_batch"):
            open_cifar(folder)
        assert not marker.exists(), number


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_pickles_are_data_errors(tmp_path_factory: Any, data: Any) -> None:
    images, labels = made(1, 0)
    good = bytearray(pickle.dumps({"data": images.reshape(1, -1), "labels": labels.tolist()}, 2))
    edges = st.one_of(st.integers(0, 200), st.integers(len(good) - 60, len(good) - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(edges)] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "test_batch").write_bytes(good[: data.draw(st.sampled_from([len(good), len(good) // 2, 3, 0]))])
    try:
        source = open_cifar(folder)
    except DataError:
        return
    assert source is not None and source.images([0])[0].shape == (32, 32, 3)


def test_sizes_and_labels_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "test_batch.bin"
    for content, words in (
        (b"", "no image"),
        (b"\0" * 3072, "3072 bytes"),
        (b"\0" * 3074, "no multiple of 3073"),
        (b"\0" * 3073 + b"\x0a" + b"\0" * 3072, "image 1 has label 10"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            read_binary(file)
        assert "test_batch.bin" in caught.value.message and "--data" in caught.value.hint


@pytest.mark.parametrize(
    "value",
    [
        {"data": np.zeros((2, 3072), np.uint8)},
        {"labels": [1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1, -1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1, [2]]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": "ab"},
        {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 1]},
        {"data": np.zeros((2, 3072), np.float32), "labels": [1, 1]},
        {"data": np.zeros((0, 3072), np.uint8), "labels": []},
        {"data": [1, 2], "labels": [1, 1]},
    ],
)
def test_what_a_batch_must_hold(tmp_path: Path, value: Any) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(DataError, match="data_batch_1"):
        open_cifar(tmp_path)


def test_names_of_classes(tmp_path: Path) -> None:
    folder = binary_folder(tmp_path / "c")
    assert open_dataset(str(folder), "test").classes == CLASSES
    (folder / "batches.meta.txt").write_text("a b c d e f g h i j\n\n")
    assert open_dataset(str(folder), "test").classes == tuple("abcdefghij")
    (folder / "batches.meta.txt").write_text("a b")
    assert open_dataset(str(folder), "test").classes == CLASSES


def test_real_images(shared: Path) -> None:
    folder = shared / "data" / "cifar-10-batches-bin"
    train, test = open_dataset(str(folder), "train"), open_dataset(str(folder), "test")
    assert (len(train), len(test)) == (10000, 10000)
    assert test.labels is not None and np.bincount(test.labels).tolist() == [1000] * 10
    assert test.classes == CLASSES
    assert test.images([5, 3]).shape == (2, 32, 32, 3)  # type: ignore[union-attr]
