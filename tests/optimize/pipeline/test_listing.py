"""What identifies a data set: a change of any of its files gives another name, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.errors import UsageError
from optimize.pipeline.listing import list_data


def named(folder: Path) -> str:
    return list_data(str(folder)).identity


def test_data_behind_links_and_labels_beside_it_count(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cats").symlink_to(tmp_path / "real")
    first = named(tmp_path / "set")
    assert named(tmp_path / "set") == first
    (tmp_path / "real" / "a.png").write_bytes(b"22")
    second = named(tmp_path / "set")
    (tmp_path / "set.csv").write_text("a.png,cat")
    third = named(tmp_path / "set")
    os.utime(tmp_path / "set.csv", (1, 1))
    assert len({first, second, third, named(tmp_path / "set")}) == 4


def test_other_bytes_of_the_same_size_and_time_count(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"1")
    before, about = named(tmp_path), image.stat()
    image.write_bytes(b"2")
    os.utime(image, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert image.stat().st_mtime_ns == about.st_mtime_ns and named(tmp_path) != before


def test_another_file_of_the_same_size_and_time_counts(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for place, content in ((tmp_path / "set" / "a.png", b"1"), (tmp_path / "other.png", b"2")):
        place.write_bytes(content)
        os.utime(place, (1, 1))
    before = list_data(str(tmp_path / "set"))
    os.replace(tmp_path / "other.png", tmp_path / "set" / "a.png")
    assert list_data(str(tmp_path / "set")) != before


def test_the_newest_file_is_told(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(b"1")
    os.utime(tmp_path / "b.png", (1, 1))
    newest = list_data(str(tmp_path)).newest
    assert newest is not None and newest[1] == str(tmp_path / "b.png")


def test_what_a_build_writes_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.png").write_bytes(b"1")
    (tmp_path / "only.csv").write_text("a.png,1")
    before = named(tmp_path)
    for name in (
        ".optimize/stages/x.onnx",
        "net.optimized/.optimize/lock",
        "net.optimized/fp32-openvino2024.4/model.xml",
        "int8-onnxruntime1.19/manifest.json",
        "int8-onnxruntime1.19/model.onnx",
        "build.log",
        "runs.json",
        "cats/.a.png.swp",
        "../notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
        if name.endswith("model.onnx"):
            (tmp_path / "int8-onnxruntime1.19" / "manifest.json").write_text("{}")
    assert named(tmp_path) == before
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "manifest.json").write_text("{}")
    (tmp_path / "dogs" / "b.png").write_bytes(b"1")
    assert named(tmp_path) != before


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data set"):
        list_data(str(tmp_path / "nowhere"))
    assert list_data("synthetic") == ("synthetic", None)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list_data(str(tmp_path)).newest is not None
