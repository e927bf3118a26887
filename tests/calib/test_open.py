from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.datasets import locate, open_dataset
from calib.datasets.cifar import write_binary
from calib.datasets.find import cache_dir, find_cifar10
from engines.errors import DataError, UsageError


def place(folder: Path, names: Any = ("data_batch_2", "test_batch"), suffix: str = ".bin", n: int = 40) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (n, 32, 32, 3), np.uint8)
        write_binary(folder / (name + suffix), pixels, np.arange(n) % 10)
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: no home, no caches, an empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("OPTIMIZE_DATA", "KERAS_HOME", "OPTIMIZE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path


def test_splits_never_overlap_and_repeat(tmp_path: Path) -> None:
    folder = str(place(tmp_path / "c", n=400))
    for seed in range(3):
        for samples in (None, 7, 100, 399, 5000):
            a, b = (open_dataset(folder, split, samples, seed) for split in ("calibration", "holdout"))
            assert not set(a.indices.tolist()) & set(b.indices.tolist())
            assert len(a) == len(b) == min(samples or 512, 200)
            assert a.labels is not None and np.ptp(np.bincount(a.labels, minlength=10)) <= 1
            again = open_dataset(folder, "calibration", samples, seed)
            assert again.indices.tolist() == a.indices.tolist() and again.describe() == a.describe()
    test, train = open_dataset(folder, "test"), open_dataset(folder, "train")
    assert test.split == "test" and len(test) == len(train) == 400
    assert not set(test.indices.tolist()) & set(train.indices.tolist())
    assert open_dataset(folder, "calibration", seed=1).sha256 != open_dataset(folder, "calibration", seed=2).sha256
    few = open_dataset(folder, "test", 20)
    assert few.labels is not None and np.bincount(few.labels).tolist() == [2] * 10


@pytest.mark.parametrize("names", [("test_batch",), ("data_batch_1", "data_batch_2")])
def test_half_a_cifar_is_divided(tmp_path: Path, names: Any) -> None:
    folder = str(place(tmp_path / "c", names, n=60))
    parts = [open_dataset(folder, split).indices for split in ("calibration", "holdout", "test")]
    assert sorted(np.concatenate(parts).tolist()) == list(range(60 * len(names)))


def test_labels_and_images_belong_together(tmp_path: Path) -> None:
    n = 60
    pixels = np.zeros((n, 32, 32, 3), np.uint8)
    pixels[:] = (np.arange(n) % 10)[:, None, None, None] * 20 + np.arange(n)[:, None, None, None] // 10
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(n) % 10)
    for split in ("calibration", "holdout", "test", "train"):
        data = open_dataset(str(tmp_path / "a.npz"), split)
        assert data.labels is not None
        assert [int(image[0, 0, 0]) // 20 for image in data.images(range(len(data)))] == data.labels.tolist()
        assert int(data.images([len(data) - 1])[0][0, 0, 0]) // 20 == data.labels[-1]
        with pytest.raises(IndexError):
            data.images([len(data)])


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown split 'val'"):
        open_dataset("synthetic", "val")
    with pytest.raises(UsageError, match="0 samples"):
        open_dataset("synthetic", "test", 0)
    with pytest.raises(UsageError, match="no such data set: nothing/here") as caught:
        open_dataset("nothing/here", "test")
    assert "--data" in caught.value.hint
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="not a data set"):
        open_dataset(str(tmp_path / "a.bin"), "test")
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 4, 4, 3), np.uint8), y=[0])
    with pytest.raises(DataError, match="too few for a holdout part"):
        open_dataset(str(tmp_path / "one.npz"), "holdout")


def test_locate(nowhere: Path) -> None:
    assert locate("synthetic") is None and locate("cifar10") is None
    assert locate("some/folder") == Path("some/folder")
    assert locate("~/x") == nowhere / "home" / "x"


@pytest.mark.parametrize(
    "where",
    [
        "work/cifar-10-batches-bin",
        "work/data/cifar-10-batches-bin",
        "work/data/cifar-10-batches-py",
        "home/.keras/datasets/cifar-10-batches-py",
        "home/.keras/datasets/cifar-10-batches-py-target/cifar-10-batches-py",
        "home/.cache/optimize/cifar-10-batches-bin",
    ],
)
def test_cifar10_is_found_where_frameworks_put_it(nowhere: Path, where: str) -> None:
    place(nowhere / "work" / "cifar-10-batches-py", ("data_batch_1",), "")  # no test batch: passed over
    place(nowhere / where, suffix="" if where.endswith("py") else ".bin")
    found = find_cifar10()
    assert found is not None and found.resolve() == nowhere / where


def test_the_folders_of_the_environment(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(nowhere / "work" / "cifar-10-batches-bin")
    mine = place(nowhere / "mine" / "cifar-10-batches-bin")
    for value in (mine, mine.parent):
        monkeypatch.setenv("OPTIMIZE_DATA", str(value))
        assert find_cifar10() == mine
    assert open_dataset("cifar10", "test").name == "cifar10"
    monkeypatch.setenv("OPTIMIZE_DATA", str(nowhere / "none"))
    assert locate("cifar10") == Path("cifar-10-batches-bin")
    assert cache_dir() == nowhere / "home" / ".cache" / "optimize"
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "x"))
    assert cache_dir() == nowhere / "x" / "optimize"
    monkeypatch.setenv("OPTIMIZE_CACHE", str(nowhere / "y"))
    assert cache_dir() == nowhere / "y"
