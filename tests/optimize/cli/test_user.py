"""What a user types, in a folder of the user's own, through the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
CODE = "import sys; sys.path[0] = sys.argv.pop(1); from optimize.cli import main; main()"


def optimize(folder: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT), *map(str, words)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_the_plain_build(tmp_path: Path) -> None:
    """`optimize build resnet34.keras --precision fp16` in an empty folder: exit 0, unmeasured, the next command."""
    pytest.importorskip("tensorflow")
    optimize(tmp_path, "zoo", "make", "resnet34", "-o", "resnet34.keras")
    done = optimize(tmp_path, "build", "resnet34.keras", "--precision", "fp16")
    assert "unmeasured" in done.stdout and "seeded inputs" in done.stdout
    assert "next: optimize build" in done.stderr and "--data cifar10" in done.stderr
    visible = [p for p in (tmp_path / "resnet34.optimized").iterdir() if not p.name.startswith(".")]
    assert [p.name.split("-")[0] for p in visible] == ["fp16"]
    again = json.loads(optimize(tmp_path, "build", "resnet34.keras", "--precision", "fp16", "--json").stdout)
    assert [b["reused"] for b in again["bundles"]] == [True]
    assert again["bundles"][0]["accuracy"] is None and again["check"]["data"] == "seeded"
    assert again["check"]["passed"] and again["check"]["max_abs"] < 1e-4


HOSTILE = "raise SystemExit('a file of the user shadowed a module')\n"


@pytest.fixture
def hostile(tmp_path: Path, tiny_onnx: Path) -> Path:
    """A folder whose files have the names of our packages and of what they import."""
    folder = tmp_path / "mine"
    for package in ("calib", "engines", "optimize", "numpy"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(HOSTILE)
    for module in ("bench", "onnx", "select", "json", "typer", "onnxruntime", "openvino", "tensorflow", "scipy"):
        (folder / f"{module}.py").write_text(HOSTILE)
    shutil.copy(tiny_onnx, folder / "tiny.onnx")
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(folder / "image.png")
    times = 1 + np.random.default_rng(0).exponential(0.05, 3000)
    (folder / "times.csv").write_text("latency_ms\n" + "\n".join(f"{value:.6f}" for value in times))
    (folder / "table.csv").write_text("model,top1_percent,seconds,images\na,95,30,10\nb,91,16,10\n")
    return folder


@pytest.mark.slow
def test_every_command_in_a_folder_of_hostile_names(hostile: Path, cifar: Path) -> None:
    data = ("--data", cifar, "--preprocess", "unit")
    optimize(hostile, "doctor")
    optimize(hostile, "export", "tiny.onnx", "-o", "again.onnx", *data)
    optimize(hostile, "build", "tiny.onnx", "--precision", "int8", "--batch", "1,8", "--samples", "100", *data)
    (bundle,) = (hostile / "tiny.optimized").glob("int8-*")
    optimize(hostile, "verify", bundle, "--against", "tiny.onnx", "--data", cifar)
    optimize(
        hostile, "bench", bundle, "--baseline", "tiny.onnx", "--quick", "--duration", "50ms", "--batch", "1", *data
    )
    optimize(hostile, "report", "runs.json", "-f", "md,csv,json")
    optimize(hostile, "wcet", "times.csv")
    optimize(hostile, "select", "table.csv")
    optimize(hostile, "inspect", bundle)
    optimize(hostile, "predict", bundle, "image.png")
    optimize(hostile, "cache", "ls")
    optimize(hostile, "cache", "rm", "--yes")
    optimize(hostile, "zoo", "list")


@pytest.mark.slow
def test_zoo_make_in_a_folder_of_hostile_names(hostile: Path) -> None:
    pytest.importorskip("tensorflow")
    optimize(hostile, "zoo", "make", "resnet18", "-o", "r.keras")


def test_verify_says_pass_and_fail(optimize_command: Any, built: Any, tiny_onnx: Path, cifar: Path) -> None:
    bundle = built.bundles[2].path
    good = optimize_command("verify", bundle, "--against", tiny_onnx, "--data", cifar, "--json")
    assert good.exit_code == 0
    accuracy = json.loads(good.stdout)["accuracy"]
    assert accuracy["dataset"]["n"] == 200 and accuracy["agreement"] > 0.95
    said = optimize_command("verify", bundle, "--against", tiny_onnx, "--data", cifar).stdout
    assert "verdict    passed" in said and "another file" not in said
    numbers = optimize_command("verify", bundle, "--against", tiny_onnx)
    assert numbers.exit_code == 0 and "accuracy unmeasured" in numbers.stdout
    other = tiny_onnx.with_name("other.onnx")
    _with_other_weights(tiny_onnx, other)
    bad = optimize_command("verify", bundle, "--against", other, "--data", cifar, "--min-agreement", "99")
    assert bad.exit_code == 3 and "error: " in bad.stderr


@pytest.mark.parametrize(
    "words", [("--max-drop", "nan"), ("--min-agreement", "nan"), ("--batch", "0"), ("--batch=-3",)]
)
def test_verify_refuses_gates_that_mean_nothing(
    optimize_command: Any, built: Any, tiny_onnx: Path, cifar: Path, words: tuple
) -> None:
    done = optimize_command("verify", built.bundles[0].path, "--against", tiny_onnx, "--data", cifar, *words)
    assert done.exit_code == 2, done.stderr
    twice = optimize_command("verify", built.bundles[0].path, "--against", built.bundles[1].path, "--data", cifar)
    assert twice.exit_code == 2 and "the original model is expected" in twice.stderr


def test_verify_against_nonsense(
    optimize_command: Any, built: Any, tiny_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    _with_other_weights(tiny_onnx, tmp_path / "nan.onnx", float("nan"))
    done = optimize_command("verify", built.bundles[0].path, "--against", tmp_path / "nan.onnx", "--data", cifar)
    assert done.exit_code == 1 and "not finite" in done.stderr


def _with_other_weights(source: Path, target: Path, factor: float = 1.0) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    for weight in model.graph.initializer:
        if weight.name == "w3":
            weight.CopyFrom(
                numpy_helper.from_array(np.roll(numpy_helper.to_array(weight) * np.float32(factor), 3, axis=0), "w3")
            )
    onnx.save(model, str(target))


@pytest.mark.journey
def test_a_failed_gate_is_exit_3_and_keeps_the_bundle(
    optimize_command: Any, squeezed_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    """Nothing in INT8 agrees on all images with scores squeezed to one step, and no layer may stay float."""
    done = optimize_command(
        "build",
        squeezed_onnx,
        "--precision",
        "int8",
        "--data",
        cifar,
        "--batch",
        "8",
        "--preprocess",
        "unit",
        "--min-agreement",
        "100",
        "--max-drop",
        "0",
        "--search-budget",
        "0",
        "-o",
        tmp_path / "out",
    )
    assert done.exit_code == 3, done.stderr
    about = json.loads(next((tmp_path / "out").glob("int8-*/manifest.json")).read_text())
    assert about["gate"]["passed"] is False and about["gate"]["reasons"]
    assert "FAILED" in done.stdout


def test_predict_uses_the_names_of_the_data(optimize_command: Any, built: Any, cifar: Path, tmp_path: Path) -> None:
    plane = np.frombuffer((cifar / "test_batch.bin").read_bytes()[1:3073], np.uint8).reshape(3, 32, 32)
    Image.fromarray(plane.transpose(1, 2, 0)).save(tmp_path / "first.png")
    done = optimize_command("predict", built.bundles[0].path, tmp_path / "first.png", "--json", "--top", "2")
    (one,) = json.loads(done.stdout)
    assert one["top"][0]["label"] == "colour0" and 0 < one["top"][1]["score"] <= one["top"][0]["score"] <= 1
    (tmp_path / "short.txt").write_text("a\nb\n")
    bad = optimize_command("predict", built.bundles[0].path, tmp_path / "first.png", "--labels", tmp_path / "short.txt")
    assert bad.exit_code == 2 and "2 labels" in bad.stderr


def test_options_can_stand_in_a_file(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "here" / "optimize.toml").write_text('[build]\nprecision = ["fp32"]\nbatch = ["2"]\n')
    plan = json.loads(optimize_command("build", tiny_onnx, "--dry-run", "--json").stdout)
    assert [Path(b["path"]).name.split("-")[0] for b in plan["bundles"]] == ["fp32"]
    plan = json.loads(optimize_command("build", tiny_onnx, "--dry-run", "--json", "--precision", "fp16").stdout)
    assert [Path(b["path"]).name.split("-")[0] for b in plan["bundles"]] == ["fp16"]
    (tmp_path / "here" / "optimize.toml").write_text('[build]\nprecision = "int8"\ndata = "synthetic"\n')
    plan = json.loads(optimize_command("build", tiny_onnx, "--dry-run", "--json").stdout)
    assert [Path(b["path"]).name.split("-")[0] for b in plan["bundles"]] == ["int8"]
    (tmp_path / "here" / "optimize.toml").write_text('[build]\nprecison = "int8"\n')
    misspelt = optimize_command("build", tiny_onnx, "--dry-run")
    assert misspelt.exit_code == 2 and "precison" in misspelt.stderr
    (tmp_path / "here" / "optimize.toml").write_text("[build\n")
    assert optimize_command("build", tiny_onnx, "--dry-run").exit_code == 2


@pytest.mark.journey
def test_several_models_and_a_bad_one(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.onnx"
    shutil.copy(tiny_onnx, good)
    (tmp_path / "bad.onnx").write_bytes(b"")
    done = optimize_command("build", good, tmp_path / "bad.onnx", "--precision", "fp32", "--batch", "1")
    assert done.exit_code == 5 and "bad.onnx" in done.stderr
    assert list((tmp_path / "good.optimized").glob("fp32-*/manifest.json"))


@pytest.mark.skipif(os.name != "posix", reason="hard links of POSIX")
def test_removing_the_cache_keeps_the_bundles(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    optimize_command("build", tiny_onnx, "--precision", "fp32", "--batch", "1", "-o", out)
    assert "removed" in optimize_command("cache", "rm", out, "--yes").stdout
    (bundle,) = out.glob("fp32-*")
    assert "runs here   yes" in optimize_command("inspect", bundle).stdout


@pytest.mark.slow
def test_best_is_one_of_the_candidates(optimize_command: Any, tiny_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    done = optimize_command(
        "build",
        tiny_onnx,
        "--precision",
        "best",
        "--data",
        cifar,
        "--batch",
        "1",
        "--preprocess",
        "unit",
        "--samples",
        "100",
        "-o",
        tmp_path / "out",
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    about = json.loads(next((tmp_path / "out").glob("best-*/manifest.json")).read_text())
    assert about["chosen"]["precision"] in about["chosen"]["log_ms"]
    assert about["chosen"]["log_ms"][about["chosen"]["precision"]] == min(about["chosen"]["log_ms"].values())


@pytest.mark.slow
def test_bench_takes_one_original(optimize_command: Any, built: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    for name in ("a", "b"):
        optimize_command("zoo", "make", "resnet18", "-o", tmp_path / f"{name}.keras")
    done = optimize_command("bench", built.bundles[0].path, tmp_path / "a.keras", "--baseline", tmp_path / "b.keras")
    assert done.exit_code == 2 and "both originals" in done.stderr


def test_errors_of_the_command_line_are_one_line_and_json(tmp_path: Path) -> None:
    done = optimize(tmp_path, "build", "m.onnx", "--threads", "-1", "--json", code=2)
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert len(done.stderr.strip().splitlines()) == 2
    assert "Usage" in optimize(tmp_path).stdout
    (tmp_path / "file").write_text("x")
    (tmp_path / "m.onnx").write_bytes(b"")
    assert "error: " in optimize(tmp_path, "build", "m.onnx", "-o", "file", code=1).stderr


LEAVING = """
import sys
import torch

class Net(torch.nn.Module):
    def __init__(self, end=None):
        super().__init__()
        self.f = torch.nn.Linear(12, 3)
        self.end = end

    def forward(self, x):
        if self.end:
            raise self.end
        return self.f(x.flatten(1))

def leaves(): sys.exit(7)
def interrupts(): raise KeyboardInterrupt
def leaves_late(): return Net(SystemExit(7))
def interrupts_late(): return Net(KeyboardInterrupt())
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("leaves", 2, "--factory net.py:leaves failed: sys.exit(7)"),
        ("interrupts", 2, "--factory net.py:interrupts failed: KeyboardInterrupt"),
        ("leaves_late", 1, "net.py, line 13, in forward: ended by sys.exit(7)"),
        ("interrupts_late", 1, "net.py, line 13, in forward: ended by KeyboardInterrupt"),
    ],
)
def test_a_factory_that_leaves_is_named(tmp_path: Path, name: str, code: int, said: str) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(LEAVING)
    torch.save({"f.weight": torch.zeros(3, 12), "f.bias": torch.zeros(3)}, str(tmp_path / "m.pt"))
    words = ("--input-shape", "3,2,2", "--preprocess", "unit", "-o", "m.onnx", "--no-progress")
    done = optimize(tmp_path, "export", "m.pt", "--factory", f"net.py:{name}", *words, code=code)
    assert said in done.stderr
