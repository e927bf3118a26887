"""The whole path with TensorRT as the backend, on its stand-in: what comes out is what ONNX Runtime computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from engines import manifest

pytestmark = pytest.mark.tensorrt

ROOT = Path(__file__).resolve().parent.parent.parent
BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from optimize.cli import main; main()"


@pytest.fixture
def command(trt: Any, tmp_path: Path) -> Callable[..., Any]:
    """`command("build", ..., code=0)` in a process of its own, which finds the stand-in by its environment."""

    def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", BOOT, str(ROOT), *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=600)
        assert done.returncode == code, done.stderr
        return done

    return run


def answer(done: Any) -> Any:
    return json.loads(done.stdout)


@pytest.mark.journey
def test_every_precision_is_built_verified_measured_and_labelled(
    command: Callable[..., Any], trt: Any, surface: str, tiny_onnx: Path, cifar: Path, tmp_path: Path
):
    out = tmp_path / "tiny.optimized"
    words = ["build", tiny_onnx, "--backend", "tensorrt", "--precision", "fp32,fp16,int8", "--batch", "1,8"]
    words += ["--data", cifar, "--preprocess", "unit", "--samples", 64, "-o", out, "--json"]
    built = answer(command(*words))
    assert [one["precision"] for one in built["bundles"]] == ["fp32", "fp16", "int8"]
    abouts = {one["precision"]: manifest.read(Path(one["path"])) for one in built["bundles"]}
    for about in abouts.values():
        assert about["device"]["version"].endswith("+double") and "double" in about["flags"]
        assert about["device"]["compute_capability"] and about["options"]["trtexec"]
        assert about["gate"]["passed"] and about["accuracy"]["agreement"] >= 0.95
        assert [p["batch"] for p in about["options"]["profiles"]] == [1, 8]
    assert abouts["fp32"]["accuracy"]["agreement"] == 1
    assert set(abouts["fp32"]["achieved"]) == {"f32"}
    assert "int8" in abouts["int8"]["achieved"]
    weak = hasattr(trt.BuilderFlag, "FP16")
    assert [one["name"] for one in abouts["int8"].get("variants", [])] == (["explicit", "implicit"] if weak else [])

    again = answer(command(*words))
    assert all(one["reused"] for one in again["bundles"])

    bundles = [one["path"] for one in built["bundles"]]
    run = answer(
        command(
            *["bench", *bundles, "--baseline", tiny_onnx, "--batch", "1,8", "--quick", "--duration", "50ms"],
            *["--warmup", "10ms", "--data", cifar, "-o", tmp_path / "runs.json", "--json"],
        )
    )
    for row in (row for row in run["rows"] if row["role"] == "engine"):
        assert row["backend"] == "tensorrt double" and "double" in row["flags"]
        device = row["device"]
        assert device["mode"] == "trt10"
        for name in ("h2d_ms", "compute_ms", "d2h_ms", "enqueue_ms", "latency_ms"):
            assert device[name]["min"] <= device[name]["median"] <= device[name]["max"]
        assert row["top1"] == abouts[row["precision"]]["accuracy"]["top1"]
    assert "no result of that backend" in command("report", tmp_path / "runs.json", "-f", "md").stderr + (
        tmp_path / "report.md"
    ).read_text(encoding="utf-8")


@pytest.mark.journey
def test_a_graph_that_could_not_be_captured_is_not_reported_as_one(
    command: Callable[..., Any], tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ["build", tiny_onnx, "--backend", "tensorrt", "--precision", "fp16", "--batch", 1, "-o", tmp_path / "out"]
    (one,) = answer(command(*words, "--json"))["bundles"]
    bench = ["bench", one["path"], "--batch", 1, "--quick", "--duration", "50ms", "--warmup", "10ms", "--cuda-graph"]
    for failing in (False, True):
        if failing:
            monkeypatch.setenv("FAKECUDA_CAPTURE_FAIL", "instantiate")
        done = command(*bench, "-o", tmp_path / "runs.json")
        assert "on the GPU (mode" in done.stdout and "H2D " in done.stdout
        (row,) = json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))["rows"]
        assert row["device"]["how"]["graph"] is not failing
        assert ("no-cuda-graph" in row["flags"]) is failing


@pytest.mark.journey
def test_the_scores_are_those_of_onnx_runtime(
    command: Callable[..., Any], tiny_onnx: Path, cifar: Path, tmp_path: Path
):
    """fp32 to float rounding, and an image file as `predict` sees it."""
    from PIL import Image

    for backend in ("tensorrt", "onnxruntime"):
        command("build", tiny_onnx, "--backend", backend, "--precision", "fp32", "--batch", 4, "-o", tmp_path / backend)
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(image)
    scores: List[Dict[int, float]] = []
    for backend in ("tensorrt", "onnxruntime"):
        (bundle,) = (p for p in (tmp_path / backend).iterdir() if not p.name.startswith("."))
        (found,) = answer(command("predict", bundle, image, "--json", "--top", 10))
        scores.append({one["index"]: one["score"] for one in found["top"]})
    assert set(scores[0]) == set(scores[1]) == set(range(10))
    np.testing.assert_allclose([scores[0][i] for i in range(10)], [scores[1][i] for i in range(10)], atol=1e-5)


def test_a_flipped_byte_and_another_device_are_refused_before_the_plan_is_read(
    command: Callable[..., Any], tiny_onnx: Path, tmp_path: Path
):
    out = tmp_path / "out"
    (one,) = answer(
        command("build", tiny_onnx, "--backend", "tensorrt", "--precision", "fp16", "--batch", 1, "-o", out, "--json")
    )["bundles"]
    bundle = Path(one["path"])
    plan = bundle / "model.plan"
    whole = plan.read_bytes()
    plan.unlink()
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "one byte or more changed" in command("bench", bundle, "--quick", code=1).stderr
    plan.write_bytes(whole)
    about = json.loads((bundle / "manifest.json").read_text())
    for field, value, word in (
        ("version", "8.4.1", "version"),
        ("compute_capability", "5.3", "compute_capability"),
        ("gpu", "Orin, 16 SM", "gpu"),
    ):
        changed = {**about, "device": {**about["device"], field: value}}
        (bundle / "manifest.json").write_text(json.dumps(changed))
        assert word in command("bench", bundle, "--quick", code=4).stderr


@pytest.mark.journey
def test_what_was_measured_of_a_plan_is_said_of_no_other(command: Callable[..., Any], tiny_onnx: Path, tmp_path: Path):
    words = ["build", tiny_onnx, "--backend", "tensorrt", "--precision", "fp16", "--batch", 1, "-o", tmp_path, "--json"]
    (one,) = answer(command(*words))["bundles"]
    plan = Path(one["path"]) / "model.plan"
    whole = plan.read_bytes()
    with open(plan, "r+b") as handle:  # a hard link: the stage's file as well
        handle.seek(-1, 2)
        last = handle.read(1)
        handle.seek(-1, 2)
        handle.write(bytes([last[0] ^ 1]))
    answer(command(*words))
    lines = (tmp_path / ".optimize" / "journal.jsonl").read_text().splitlines()
    events = [(e["event"], e["stage"]) for e in map(json.loads, lines)]
    again = events[[i for i, e in enumerate(events) if e == ("started", "engine-fp16")][1] :]
    assert again[1] == ("done", "engine-fp16")
    assert (("started", "check-fp16") in again) is (plan.read_bytes() != whole)


def test_int8_is_built_the_way_that_can_be_built(
    command: Callable[..., Any], trt: Any, tiny_onnx: Path, cifar: Path, tmp_path: Path
):
    """Three images are no whole batch of four for TensorRT's calibrator; Q/DQ pairs are placed all the same."""
    import onnx

    model = onnx.load(str(tiny_onnx))
    for item in [*model.graph.input, *model.graph.output]:
        item.type.tensor_type.shape.dim[0].dim_value = 4
    fixed = tmp_path / "fixed.onnx"
    onnx.save(model, str(fixed))
    words = ["build", fixed, "--backend", "tensorrt", "--precision", "int8", "--batch", 4, "--data", cifar]
    words += ["--preprocess", "unit", "--samples", 3, "--max-drop", 100, "-o", tmp_path / "out", "--json"]
    (one,) = answer(command(*words))["bundles"]
    about = manifest.read(Path(one["path"]))
    assert about["options"]["int8_mode"] == "explicit"
    failed = about.get("failed_variants", [])
    assert [f["name"] for f in failed] == (["implicit"] if hasattr(trt.BuilderFlag, "INT8") else [])


def test_options_of_tensorrt_reach_the_plan(command: Callable[..., Any], tiny_onnx: Path, tmp_path: Path):
    words = [
        "build",
        tiny_onnx,
        "--backend",
        "tensorrt",
        "--precision",
        "fp16",
        "--batch",
        "1,2",
        "-o",
        tmp_path / "out",
    ]
    built = answer(
        command(*words, "--workspace", "64MiB", "--builds", 3, "--keep", "median", "--split-batches", "--json")
    )
    about = manifest.read(Path(built["bundles"][0]["path"]))
    assert about["options"]["workspace_bytes"] == 64 << 20
    assert len(about["options"]["builds"]) >= 3
    assert sorted(about["options"]["plans"]) == ["1", "2"]
    assert manifest.engine_files(about) == ["model-b1.plan", "model-b2.plan"]
    refused = command(*words, "--dla", 0, "--force", code=4).stderr
    assert "accelerator" in refused or "DLA" in refused


def test_options_of_tensorrt_are_refused_for_another_backend(tiny_onnx: Path, optimize_command: Callable[..., Any]):
    done = optimize_command("build", tiny_onnx, "--backend", "onnxruntime", "--workspace", "1MiB")
    assert done.exit_code == 2 and "--workspace" in done.stderr


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Path]:
    """1,200 training and 500 test images of CIFAR-10 in a file, and a folder whose stages all surfaces share."""
    from calib.datasets import open_dataset

    folder = tmp_path_factory.mktemp("real")
    arrays = {}
    for split, count in (("train", 1200), ("test", 500)):
        images = open_dataset(str(shared / "data" / "cifar-10-batches-bin"), split)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = np.asarray(images.images(range(count))), images.labels[:count]
    np.savez(str(folder / "cifar.npz"), **arrays)
    return folder / "cifar.npz", folder / "out"


@pytest.mark.slow
def test_the_real_model_gives_the_numbers_of_onnx_runtime(
    command: Callable[..., Any], surface: str, shared: Path, real: Tuple[Path, Path], tmp_path: Path
):
    """The user's file in fp16 and int8, built, gated and measured; top-1 and agreement as of the graphs themselves."""
    pytest.importorskip("tensorflow")
    data, out = real
    model = shared / "models" / "resnet34_cifar10_bs64_epochs10.keras"
    words = [model, "--custom-objects", f"{shared / 'models' / 'train.py'}:ResidualBlock", "--batch", "1,8"]
    words += ["--data", data, "--int8-mode", "explicit", "--preprocess", "unit", "-o", out, "--json"]
    built = answer(command("build", *words, "--backend", "tensorrt", "--precision", "fp16,int8"))
    for one in built["bundles"]:
        about = manifest.read(Path(one["path"]))
        accuracy = about["accuracy"]
        assert about["gate"]["passed"] and "double" in about["flags"], accuracy
        assert accuracy["agreement"] >= (0.99 if one["precision"] == "fp16" else 0.93), accuracy
        print(surface, one["precision"], accuracy["top1"], accuracy["source_top1"], accuracy["agreement"])
    bundles = [one["path"] for one in built["bundles"]]
    run = answer(
        command(
            *["bench", *bundles, "--batch", "1,8", "--quick", "--duration", "50ms", "--iterations", 3],
            *["--warmup", "10ms", "-o", tmp_path / "runs.json", "--json"],
        )
    )
    assert len(run["rows"]) == 4 and all("double" in row["flags"] for row in run["rows"])
