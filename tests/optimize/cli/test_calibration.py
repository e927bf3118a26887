"""`optimize calibrate`: a cache beside its graph, and every slip told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from engines.tensorrt import cachefile

Command = Callable[..., Any]


def test_a_cache_is_written_beside_the_graph_and_the_next_command_told(
    optimize_command: Command, tiny_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(tiny_onnx.read_bytes())
    words = ["calibrate", model, "--data", cifar, "--samples", 64, "--method", "mse"]
    done = optimize_command(*words)
    assert done.exit_code == 0, done.stderr
    cache = tmp_path / "net.calibration.cache"
    about = cachefile.about(cache)
    assert about and (about["of"]["method"], about["of"]["samples"]) == ("mse", 64)
    assert "TRT-8502-EntropyCalibration2, scales of 9 tensors by mse on 64 images" in done.stdout.replace("\n", " ")
    assert "(chosen by accuracy)" in done.stdout
    assert f"--calibration-cache {cache}" in done.stderr and f"--calib={cache}" in done.stderr
    assert "--data " in done.stderr
    told = json.loads(optimize_command(*words, "--json", "--tensorrt", "10.3.0", "--preprocess", "unit").stdout)
    assert (told["header"], told["tensors"], told["cache"]) == ("TRT-100300-EntropyCalibration2", 9, str(cache))
    assert not told["preprocess"]["inferred"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "calibration needs images"),
        (["--data", "none.npz"], 2, "no such data set"),
        (["--data", "CIFAR", "--samples", "0"], 2, "at least one image"),
        (["--data", "CIFAR", "--method", "best"], 2, "unknown calibration method"),
        (["--data", "CIFAR", "--tensorrt", "8"], 2, "no version of TensorRT"),
        (["--data", "CIFAR", "--layout", "CHW"], 2, "NHWC or NCHW"),
        (["--data", "CIFAR", "-o", "MODEL"], 2, "no calibration cache"),
    ],
)
def test_bad_words(
    optimize_command: Command, tiny_onnx: Path, cifar: Path, words: Any, code: int, message: str
) -> None:
    known = {"CIFAR": cifar, "MODEL": tiny_onnx}
    before = tiny_onnx.read_bytes()
    done = optimize_command("calibrate", tiny_onnx, *(known.get(word, word) for word in words))
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr
    assert tiny_onnx.read_bytes() == before


def test_images_without_labels_leave_the_preprocessing_assumed(
    optimize_command: Command, tiny_onnx: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (64, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images)
    done = optimize_command("calibrate", tiny_onnx, "--data", tmp_path / "images.npz", "-o", tmp_path / "c")
    assert done.exit_code == 0 and "assumed" in done.stdout, done.stderr
