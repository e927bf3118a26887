"""What a build leaves for other machines: the float graph, ranges, images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from engines import jsonfile, manifest
from engines.errors import DamagedError
from engines.tensorrt import cachefile
from optimize.ship import material


@pytest.fixture(scope="module")
def bundles(built: Any) -> Dict[str, Path]:
    return {one.precision: one.path for one in built.bundles}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_float_graph_of_a_bundle_is_found_by_its_hashes(bundles: Dict[str, Path], precision: str) -> None:
    about = manifest.read(bundles[precision])
    found = material.find(bundles[precision], about)
    assert found is not None
    exported = json.loads((found.graph.parent / "stage.json").read_text())
    assert exported["name"] == "export"
    assert jsonfile.sha256(found.graph) == exported["files"]["model.onnx"]
    assert (found.quantised is None) == (precision != "int8")


def test_a_bundle_that_was_moved_or_whose_stages_are_damaged_has_none(bundles: Dict[str, Path], tmp_path: Path) -> None:
    about = manifest.read(bundles["int8"])
    moved = Path(shutil.copytree(bundles["int8"], tmp_path / "out" / "int8"))
    assert material.find(moved, about) is None
    shutil.copytree(bundles["int8"].parent / ".optimize", tmp_path / "out/.optimize")
    found = material.find(moved, about)
    assert found is not None
    with open(found.graph, "r+b") as file:
        file.seek(100)
        file.write(b"\0\0")
    assert material.find(moved, about) is None
    assert material.find(moved, {**about, "model": {**about["model"], "sha256": "0" * 64}}) is None


def test_ranges_of_int8_go_along_and_are_tied_to_the_graph(bundles: Dict[str, Path], tmp_path: Path) -> None:
    about = manifest.read(bundles["int8"])
    names, remarks = material.put(tmp_path, about, material.find(bundles["int8"], about))
    assert names == ["calibration.cache", "calibration.cache.json"]
    assert remarks == []
    of = cachefile.about(tmp_path / "calibration.cache")
    assert of is not None
    assert of["of"]["model"] == jsonfile.sha256(tmp_path / "graph.onnx")
    assert of["of"]["data"] == about["calibration"]["dataset"]["sha256"]


def test_images_go_along_where_they_are_given(bundles: Dict[str, Path], cifar: Path, tmp_path: Path) -> None:
    about = manifest.read(bundles["int8"])
    names, _ = material.put(tmp_path, about, material.find(bundles["int8"], about), str(cifar))
    assert names[0] == "calibration.npz"
    with np.load(tmp_path / "calibration.npz") as arrays:
        assert arrays["x_train"].shape == (200, 32, 32, 3)
        assert arrays["x_train"].dtype == np.uint8
        assert len(arrays["x_test"]) == len(arrays["y_test"]) == 100
        assert list(arrays["classes"]) == [f"colour{i}" for i in range(10)]


def test_images_without_labels_stay_at_home(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", x=np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8))
    kept = material.images(str(tmp_path / "bare.npz"), 64, str(tmp_path / "out.npz"))
    assert "no labels" in kept["why_not"]
    assert not (tmp_path / "out.npz").exists()


def test_a_float_bundle_takes_no_calibration_along(bundles: Dict[str, Path], cifar: Path, tmp_path: Path) -> None:
    about = manifest.read(bundles["fp16"])
    assert material.put(tmp_path, about, material.find(bundles["fp16"], about), str(cifar)) == ([], [])
    assert [p.name for p in tmp_path.iterdir()] == ["graph.onnx"]


def test_without_its_build_a_bundle_says_what_cannot_be_done(bundles: Dict[str, Path], tmp_path: Path) -> None:
    names, (remark,) = material.put(tmp_path, manifest.read(bundles["int8"]), None)
    assert names == []
    assert "no float graph beside the bundle" in remark


def test_images_that_would_grow_are_refused_before_they_are_read(tmp_path: Path) -> None:
    material.check(tmp_path)
    images, many = tmp_path / "calibration.npz", np.zeros(1 << 24, np.uint8)
    np.savez(images, x_train=many)
    material.check(tmp_path)
    np.savez_compressed(images, x_train=many)
    assert images.stat().st_size < many.nbytes >> 6
    with pytest.raises(DamagedError, match=r"x_train\.npy is compressed"):
        material.check(tmp_path)
    images.write_bytes(b"PK")
    with pytest.raises(DamagedError, match=r"not an \.npz file"):
        material.check(tmp_path)
    with open(images, "r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(DamagedError, match="larger than 128 MiB"):
        material.check(tmp_path)
