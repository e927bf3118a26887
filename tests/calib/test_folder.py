from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
import pytest
from PIL import Image

from calib.datasets import open_dataset, read_image
from calib.datasets.folder import open_folder
from engines.errors import DataError, UsageError


def picture(path: Path, seed: int, size: Sequence[int] = (9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def imagenet(root: Path, parts: Sequence[str], each: int = 6) -> Path:
    seed = 0
    for part in parts:
        for name in ("n02", "n01", "n03"):
            for number in range(each):
                seed += 1
                picture(root / part / name / f"{number}.png", seed, (8 + number, 8))
    return root


def flat(root: Path, n: int = 6) -> Path:
    for number in range(n):
        picture(root / f"img {number}.png", number)
    return root


def test_imagenet_layout_with_parts(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "photos", ("train", "val"))
    (root / "train" / "n01" / ".hidden.png").write_bytes(b"x")
    (root / "train" / "n01" / "notes.md").write_text("x")
    train, test = open_dataset(str(root), "train"), open_dataset(str(root), "test")
    assert train.name == "photos" and train.classes == test.classes == ("n01", "n02", "n03")
    assert test.labels is not None and test.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert len(train) == 18
    images = test.images([0, 1])
    assert [image.shape for image in images] == [(8, 8, 3), (8, 9, 3)]
    np.testing.assert_array_equal(images[1], read_image(root / "val" / "n01" / "1.png"))
    a, b = (open_dataset(str(root), split) for split in ("calibration", "holdout"))
    assert not set(a.indices.tolist()) & set(b.indices.tolist()) and len(a) == len(b) == 9
    assert a.labels is not None and np.bincount(a.labels).tolist() == [3, 3, 3]


def test_a_test_part_without_labels_gives_way_to_val(tmp_path: Path) -> None:
    root = imagenet(tmp_path, ("train", "val"))
    flat(root / "test")
    assert len(open_dataset(str(root), "test")) == 18


def test_unlike_classes_are_named(tmp_path: Path) -> None:
    root = imagenet(tmp_path, ("train", "val"))
    picture(root / "val" / "n09" / "1.png", 99)
    with pytest.raises(DataError, match="'n09' is in only one of train and val"):
        open_folder(root)


def test_division_by_content_survives_renaming_and_reordering(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "a", ("",), 20)
    before = {split: open_dataset(str(root), split, 512) for split in ("calibration", "holdout", "test", "train")}
    identities = {split: data.describe()["sha256"] for split, data in before.items()}
    sizes = {split: len(data) for split, data in before.items()}
    assert sizes["calibration"] + sizes["holdout"] == sizes["train"] and sizes["train"] + sizes["test"] == 60
    assert 15 <= sizes["test"] <= 45
    for number, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"x{number:03d}.PNG"))
    for split, identity in identities.items():
        assert open_dataset(str(root), split, 512).describe()["sha256"] == identity
    last = sorted(root.rglob("*.PNG"))[0]
    picture(last, 12345)
    assert open_dataset(str(root), "train").sha256 + open_dataset(str(root), "test").sha256 != (
        identities["train"] + identities["test"]
    )


def test_the_same_image_twice_lies_in_one_part(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / "a" / f"{number}.png", number % 5)
    parts = [open_dataset(str(tmp_path), split) for split in ("train", "test")]
    seen = [{image.tobytes() for image in data.images(range(len(data)))} for data in parts]
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "filename,label\n" + "".join(f"img {n}.png,{n % 3}\n" for n in range(6))),
        ("labels.csv", "".join(f'"img {n}.png", {n % 3}\n' for n in reversed(range(6)))),
        ("labels.txt", "".join(f"img {n}.png {n % 3}\n" for n in range(6))),
        ("val.txt", "".join(f"some/where/img {n}.png {n % 3}\n" for n in range(6))),
        ("anything.txt", "".join(f"img {n}\t{n % 3}\n" for n in range(6))),
        ("ILSVRC2012_validation_ground_truth.txt", "0\n1\n2\n0\n1\n2\n"),
        ("labels.txt", "\ufeff0\r\n1\r\n2\r\n0\r\n1\r\n2\r\n\r\n"),
    ],
)
def test_a_flat_folder_with_labels(tmp_path: Path, name: str, text: str) -> None:
    (flat(tmp_path) / name).write_text(text, encoding="utf-8")
    source = open_folder(tmp_path)
    assert source.labels is not None and source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.classes == ()


def test_labels_that_are_names(tmp_path: Path) -> None:
    flat(tmp_path / "val")
    (tmp_path / "val_labels.csv").write_text("".join(f"img {n}.png,{'cat' if n % 2 else 'ant'}\n" for n in range(6)))
    source = open_folder(tmp_path / "val")
    assert source.classes == ("ant", "cat")
    assert source.labels is not None and source.labels.tolist() == [0, 1, 0, 1, 0, 1]
    imagenet(tmp_path, ("train",))
    assert open_folder(tmp_path / "val").labels is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\n1\n", "2 labels for 6 images"),
        ("0\n1\n2\n0\nx\n2\n", "line 5: 'x' is no integer"),
        ("file,label\nimg 0.png,1\n", "no label for img 1.png .5 of 6"),
        ("img 0.png,1\nimg 99.png,1\n", "line 2: no image 'img 99.png'"),
        ("img 0.png,1\nimg 0.png,2\n", "line 2: a second label for img 0.png"),
        ("img 0.png,1\nx\n,2\n", "line 2: no label"),
        ("", "no label for img 0.png"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, text: str, words: str) -> None:
    (flat(tmp_path) / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        open_folder(tmp_path)
    assert "labels.csv" in caught.value.message


def test_the_development_kit_s_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib.datasets import folder

    file = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    file.write_text("490\n" * 50000)
    with pytest.raises(DataError, match="development kit"):
        folder._words(file, [f"{n}.JPEG" for n in range(50000)])


def test_no_labels_is_said_where_they_are_needed(tmp_path: Path) -> None:
    flat(tmp_path, 12)
    with pytest.raises(DataError, match=r"have no labels: .*labels.csv") as caught:
        open_dataset(str(tmp_path), "test")
    assert "labels.csv" in caught.value.hint
    assert open_dataset(str(tmp_path), "test", labelled=False).labels is None
    assert open_dataset(str(tmp_path), "calibration").labels is None
    with pytest.raises(DataError, match="no labels"):
        open_dataset(str(tmp_path), "calibration", labelled=True)


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        open_dataset(str(tmp_path), "test")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train: no image"):
        open_dataset(str(tmp_path), "test")


def test_bad_images_are_named(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", 1, (64, 64))
    cases: Dict[str, bytes] = {
        "text.png": b"hello",
        "empty.jpg": b"",
        "short.png": good.read_bytes()[:2000],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep.png.*8 bits"):
        read_image(tmp_path / "deep.png")
    with pytest.raises(UsageError, match=r"none.png"):
        read_image(tmp_path / "none.png")
    (tmp_path / "good.png").unlink()
    (tmp_path / "deep.png").unlink()
    data = open_folder(tmp_path)
    with pytest.raises(DataError, match=r"empty\.jpg"):
        data.images([0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_kinds_of_images_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert abs(int(image.mean()) - 200) < 60


def test_images_are_read_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib.datasets import folder

    root = imagenet(tmp_path, ("train", "test"))
    read: Any = []
    monkeypatch.setattr(folder, "read_image", lambda path: read.append(path) or read_image(path))
    data = open_dataset(str(root), "test")
    assert read == []
    data.images([4])
    assert [os.path.basename(path) for path in read] == ["4.png"]
