"""`--calibration-cache`: scales of somebody else make INT8 engines without images, and the manifest says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from engines import manifest
from engines.tensorrt import cachefile

Command = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]
BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from optimize.cli import main; main()"


@pytest.fixture(scope="module")
def written(tiny_onnx: Path, cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of `tiny_onnx`, with its sidecar."""
    from optimize.calibration import calibrate

    out = tmp_path_factory.mktemp("cache") / "tiny.cache"
    calibrate(tiny_onnx, str(cifar), out, samples=64, preprocess="unit", method="percentile:99.9")
    return out


def older(written: Path, out: Path, **scales: float) -> Path:
    """The same scales in a cache of TensorRT 7, without a sidecar."""
    found = cachefile.read(written)
    out.write_bytes(cachefile.render(cachefile.Cache("7103", "entropy", {**found.scales, **scales})))
    return out


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_int8_from_a_cache_needs_no_images(
    optimize_command: Command, tiny_onnx: Path, written: Path, tmp_path: Path, backend: str
) -> None:
    cache = older(written, tmp_path / "older.cache")
    words = [
        "build",
        tiny_onnx,
        "--precision",
        "int8",
        "--batch",
        8,
        "--backend",
        backend,
        "--calibration-cache",
        cache,
    ]
    done = optimize_command(*words, "--preprocess", "unit", "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    (built,) = json.loads(done.stdout)["bundles"]
    about = manifest.read(Path(built["path"]))
    calibration = about["calibration"]
    assert calibration["method"] == {"name": "imported"} and calibration["keep_float"] == []
    assert calibration["imported"]["header"] == "TRT-7103-EntropyCalibration2"
    assert calibration["imported"]["sha256"] == manifest.jsonfile.sha256(cache)
    assert about["gate"] is None and about["check"]["top1_agreement"] > 0.8 and "int8" in about["achieved"]
    assert not any(flag.startswith("calibration-cache") for flag in about["flags"])
    told = optimize_command("inspect", built["path"]).stdout
    assert "by the scales of older.cache (TRT-7103-EntropyCalibration2)" in told


@pytest.mark.journey
def test_with_data_the_engine_is_measured_and_a_sidecar_of_other_things_flagged(
    optimize_command: Command, tiny_onnx: Path, squeezed_onnx: Path, written: Path, cifar: Path, tmp_path: Path
) -> None:
    words = ["--precision", "int8", "--batch", 8, "--backend", "onnxruntime", "--calibration-cache", written, "--json"]
    words += ["--data", cifar, "--max-drop", 5, "--search-budget", 0]
    done = optimize_command("build", tiny_onnx, *words, "--preprocess", "unit", "-o", tmp_path / "a")
    assert done.exit_code == 0, done.stderr
    (built,) = json.loads(done.stdout)["bundles"]
    about = manifest.read(Path(built["path"]))
    assert about["gate"]["passed"] and about["flags"] == []
    assert about["calibration"]["dataset"]["sha256"] == about["calibration"]["imported"]["of"]["data"]
    done = optimize_command("build", squeezed_onnx, *words, "--preprocess", "raw", "-o", tmp_path / "b")
    (built,) = json.loads(done.stdout)["bundles"]
    assert done.exit_code == 3 and not built["gate"]["passed"]
    assert built["flags"] == ["calibration-cache-of-another-graph", "calibration-cache-of-another-preprocessing"]


@pytest.mark.parametrize(
    ("precision", "content", "code", "words"),
    [
        ("int8", None, 2, "no such calibration cache"),
        ("int8", b"TRT-8502-EntropyCalibration2\nx: zz\n", 1, "line 2"),
        ("int8", b"TRT-8502-EntropyCalibration2\nx: 3c010a14\n", 4, "no scale for"),
        ("fp16", b"TRT-8502-EntropyCalibration2\nx: 3c010a14\n", 2, "is for INT8"),
    ],
)
def test_what_does_not_fit_is_refused(
    optimize_command: Command, tiny_onnx: Path, tmp_path: Path, precision: str, content: Any, code: int, words: str
) -> None:
    cache = tmp_path / "c.cache"
    if content is not None:
        cache.write_bytes(content)
    given = ["--precision", precision, "--backend", "onnxruntime", "--calibration-cache", cache, "-o", tmp_path / "out"]
    done = optimize_command("build", tiny_onnx, *given)
    assert (done.exit_code, words in done.stderr) == (code, True), done.stderr


@pytest.mark.tensorrt
@pytest.mark.journey
def test_tensorrt_takes_the_cache_in_both_ways(trt: Any, tiny_onnx: Path, written: Path, tmp_path: Path) -> None:
    if not hasattr(trt, "IInt8EntropyCalibrator2") or not hasattr(trt.BuilderFlag, "FP16"):
        pytest.skip("this version has no calibrators")
    cache = older(written, tmp_path / "older.cache")
    words = ["build", tiny_onnx, "--precision", "int8", "--batch", 8, "--backend", "tensorrt", "--preprocess", "unit"]
    words += ["--calibration-cache", cache, "-o", tmp_path / "out", "--json"]
    line = [sys.executable, "-c", BOOT, str(ROOT), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    (built,) = json.loads(done.stdout)["bundles"]
    about = manifest.read(Path(built["path"]))
    assert {one["name"] for one in about["variants"]} == {"explicit", "implicit"}
    assert about["calibration"]["imported"]["name"] == "older.cache" and "cache" not in about["calibration"]
    (given,) = (tmp_path / "out" / ".optimize" / "stages").glob("engine-int8-implicit-*/calibration.cache")
    theirs, ours = cachefile.read(cache), cachefile.read(given)
    assert ours.version == cachefile.tag(str(trt.__version__))
    assert ours.scales["relu1"] == theirs.scales["r1"] and ours.scales["image"] == theirs.scales["image"]
