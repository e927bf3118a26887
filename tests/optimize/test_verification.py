"""The gate's numbers with what chance makes of them, and warnings where the images are not what the model knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import manifest
from optimize.verification import judge, surprise

Command = Callable[..., Any]


def test_a_bundle_holds_every_number_of_the_gate(built: Any) -> None:
    for one in built.bundles:
        accuracy = manifest.read(one.path)["accuracy"]
        low, high = accuracy["drop_interval"]
        assert low <= accuracy["top1_drop"] <= high
        low, high = accuracy["agreement_interval"]
        assert low <= accuracy["agreement"] <= high
        assert accuracy["top1_drop"] == pytest.approx(100 * (accuracy["lost"] - accuracy["won"]) / accuracy["n"])
        assert 0 <= accuracy["mcnemar_p"] <= 1 and accuracy["top5_drop"] is not None
        assert accuracy["source_top5"] >= accuracy["source_top1"]
        assert all(one["name"].startswith("colour") for one in accuracy["worst_classes"])
        assert one.to_json()["accuracy"] == accuracy
    assert built.warnings == [] and built.to_json()["warnings"] == []


@pytest.fixture(scope="module")
def worse_onnx(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier with one class made unlikely: an original that the bundle disagrees with."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(tiny_onnx))
    for item in model.graph.initializer:
        if item.name == "b3":
            value = numpy_helper.to_array(item).copy()
            value[3] += 100
            item.CopyFrom(numpy_helper.from_array(value, "b3"))
    path = tmp_path_factory.mktemp("worse") / "worse.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.journey
def test_verify_shows_them_and_a_failed_gate_says_them(
    optimize_command: Command, built: Any, tiny_onnx: Path, worse_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    import optimize

    bad = optimize.build(worse_onnx, "fp32", 8, out=tmp_path / "bad", preprocess="unit").bundles[0].path
    words = ["--against", tiny_onnx, "--data", cifar, "--min-agreement", 99]
    done = optimize_command("verify", bad, *words)
    assert done.exit_code == 3
    for text in ("top-1", "top-5", "(95%: ", "McNemar, exact", "class    colour", "of 20 right, 20 before"):
        assert text in done.stdout, text
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "points (95%: " in line and "agreement is" in line and "% (95%: " in line
    told = json.loads(optimize_command("verify", bad, *words, "--json").stdout)["accuracy"]
    assert len(told["worst_classes"]) == 5 and told["mcnemar_p"] < 1e-6 and told["lost"] > 100


def scaled(cifar: Path, out: Path, factor: float, overlap: int = 0) -> Path:
    """The images of `cifar` in another scale; the first test images are among those that may calibrate."""
    parts: Dict[str, Any] = {}
    for part, name in (("train", "data_batch_1.bin"), ("test", "test_batch.bin")):
        rows = np.frombuffer((cifar / name).read_bytes(), np.uint8).reshape(-1, 3073)
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) * factor
        parts[f"x_{part}"], parts[f"y_{part}"] = images.astype(np.uint8), rows[:, 0].astype(np.int64)
    for axis in "xy":
        parts[f"{axis}_train"][:overlap] = parts[f"{axis}_test"][:overlap]
    np.savez(out, **parts)
    return out


def test_images_of_another_scale_are_warned_of(
    optimize_command: Command, built: Any, tiny_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    dark = scaled(cifar, tmp_path / "dark.npz", 1 / 256)
    words = ["--data", dark, "--preprocess", "unit"]
    done = optimize_command("verify", built.bundles[0].path, "--against", tiny_onnx, *words)
    assert "warning: the original is right on 1" in done.stderr and "were recorded of" in done.stderr
    same = optimize_command("verify", built.bundles[0].path, "--against", tiny_onnx, "--data", cifar)
    assert same.exit_code == 0 and "warning" not in same.stderr
    given = ["build", tiny_onnx, "--precision", "fp32", "--batch", 8, *words, "-o", tmp_path / "out"]
    assert "no more than by guessing" in optimize_command(*given).stderr
    done = optimize_command(*given, "--expect-top1", 95, "--json")
    (text,) = json.loads(done.stdout)["warnings"]
    assert "95% are expected" in text and "--preprocess" in text
    refused = optimize_command(*given, "--expect-top1", 950)
    assert refused.exit_code == 2 and "--expect-top1 950" in refused.stderr


def test_calibration_images_among_the_test_images_are_warned_of(
    optimize_command: Command, tiny_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    data = scaled(cifar, tmp_path / "mixed.npz", 1, overlap=17)
    words = ["build", tiny_onnx, "--precision", "int8", "--batch", 8, "--backend", "onnxruntime", "--data", data]
    done = optimize_command(*words, "--preprocess", "unit", "-o", tmp_path / "out", "--search-budget", 0)
    assert "warning: 17 of the 400 images that calibrate INT8" in done.stderr, done.stderr
    assert "among the 200 test images" in done.stderr


ACCURACY = {"agreement": 0.95, "top1_drop": 2.5, "drop_interval": [1.25, 3.75], "agreement_interval": [0.94, 0.96]}


def test_the_gates_reasons() -> None:
    gate = judge(ACCURACY, 1.0, 97)
    assert gate["reasons"] == [
        "top-1 drops by 2.50 points (95%: 1.25 to 3.75), 1 are allowed",
        "agreement is 95.00% (95%: 94.00 to 96.00), 97% are asked",
    ]
    assert judge(ACCURACY, 2.5, 95)["passed"] and not judge(ACCURACY, 2.49, 95)["passed"]
    assert judge({"agreement": 0.5, "top1_drop": None}, 1.0, None) is None
    assert judge({"agreement": 0.5, "top1_drop": None}, 1.0, 50)["passed"]


@given(st.floats(0, 1), st.integers(30, 2000), st.floats(0, 1))
def test_an_original_as_good_as_recorded_is_no_surprise(recorded: float, n: int, better: float) -> None:
    before = {"source_top1": recorded, "dataset": {"name": "images", "n": n}}
    now = {"top1": recorded + better * (1 - recorded), "n": n}
    assert surprise(now, before) == []


def test_nothing_measured_is_no_surprise() -> None:
    assert surprise({}, None) == surprise({"top1": None, "n": 5}, None, 90.0) == []


@pytest.mark.journey
def test_without_labels_int8_is_built_and_only_agreement_judges(
    optimize_command: Command, tiny_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    images = scaled(cifar, tmp_path / "all.npz", 1.0)
    with np.load(images) as arrays:
        np.savez(tmp_path / "bare.npz", x_train=arrays["x_train"], x_test=arrays["x_test"])
    words = ["build", tiny_onnx, "--precision", "int8", "--batch", "8", "--data", tmp_path / "bare.npz", "-o", tmp_path]
    refused = optimize_command(*words, "--max-drop", "1")
    assert refused.exit_code == 1 and "have no labels" in refused.stderr
    done = optimize_command(*words)
    assert done.exit_code == 0 and "unmeasured" in done.stdout and "chosen by accuracy" not in done.stdout, done.stderr
    (bundle,) = tmp_path.glob("int8-*")
    about = manifest.read(bundle)
    assert about["gate"] is None and about["accuracy"]["top1"] is None and about["accuracy"]["agreement"] > 0.5
    assert about["calibration"]["samples"] > 0
    verify = ["verify", bundle, "--against", tiny_onnx, "--data", tmp_path / "bare.npz"]
    assert "only --min-agreement judges" in optimize_command(*verify).stdout
    assert optimize_command(*verify, "--max-drop", "1").exit_code == 2
    assert "passed" in optimize_command(*verify, "--min-agreement", "50").stdout


def test_an_original_that_is_not_finite_is_told_and_no_difference_is_made_up(
    built: Any, tiny_onnx: Path, optimize_command: Command, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(tiny_onnx))
    for item in model.graph.initializer:
        if item.name == "b3":
            item.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(item), np.nan), "b3"))
    broken = tmp_path / "nan.onnx"
    onnx.save(model, str(broken))
    done = optimize_command("verify", built.bundles[0].path, "--against", broken)
    assert done.exit_code == 3 and "the original is not finite (NaN or infinity)" in done.stderr
    assert "no numbers to compare on 64 seeded inputs" in done.stdout and "largest difference" not in done.stdout
