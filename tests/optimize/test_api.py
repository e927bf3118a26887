"""The Python API: the functions of the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optimize
from engines import manifest
from engines.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def test_the_functions_are_there() -> None:
    for name in ("build", "export", "verify", "bench", "load", "predict", "profile", "inspect", "report"):
        assert callable(getattr(optimize, name))
    assert set(optimize.__all__) <= set(dir(optimize))
    with pytest.raises(AttributeError):
        optimize.no_such_thing  # noqa: B018


def test_load_runs_a_bundle(built: Any) -> None:
    with optimize.load(built.bundles[0].path) as engine:
        image = np.zeros((8, 3, 32, 32), np.float32)
        scores = engine.infer({engine.inputs[0].name: image})[engine.outputs[0].name]
    assert scores.shape == (8, 10) and np.isfinite(scores).all()


def test_a_build_says_what_it_measured(built: Any) -> None:
    assert [b.precision for b in built.bundles] == ["fp32", "fp16", "int8"] and not built.failures
    fp32, fp16, int8 = (b.manifest for b in built.bundles)
    assert fp32["accuracy"]["agreement"] == 1.0 and set(fp32["achieved"]) == {"f32"}
    assert int8["calibration"]["samples"] == 100 and int8["calibration"]["dataset"]["n"] == 100
    assert int8["achieved"].get("int8", 0) >= 4
    assert all(b["gate"]["passed"] for b in (fp32, fp16, int8))
    assert [b["batch"] for b in int8["accuracy"]["batches"]] == [1]
    assert fp32["classes"][0] == "colour0"


def test_export_checks_the_graph(tiny_onnx: Path, tmp_path: Path, cifar: Path) -> None:
    done = optimize.export(tiny_onnx, tmp_path / "out.onnx", data=str(cifar), preprocess="unit")
    assert done["check"]["passed"] and done["check"]["data"] != "seeded" and Path(done["onnx"]).is_file()
    with pytest.raises(UsageError, match="the model itself"):
        optimize.export(tiny_onnx, tiny_onnx)


def test_bench_returns_a_run(built: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    run, failures = optimize.bench(
        [built.bundles[0].path], 1, tiny_onnx, rounds=1, duration=0.05, warmup=0, out=tmp_path / "runs.json"
    )
    assert not failures and [row["role"] for row in run["rows"]] == ["engine", "original"]
    assert all(row["p50_ms"] > 0 and row["top1"] is None for row in run["rows"])
    first = built.bundles[0]
    assert [row["bundle"] for row in run["rows"]] == [
        {"path": str(first.path.resolve()), **manifest.identity(first.manifest)},
        None,
    ]
    (report,) = optimize.report([tmp_path / "runs.json"], "md", tmp_path)
    assert "unmeasured" in report.read_text()


def test_importing_is_light() -> None:
    heavy = ("tensorflow", "torch", "openvino", "onnxruntime", "onnx", "matplotlib", "rich", "numpy")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import optimize.cli.app; "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
