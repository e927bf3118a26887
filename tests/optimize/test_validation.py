"""The validation run: the user's two devices over their tables, and a small plan that is built and measured here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from bench import runs
from engines import jsonfile
from engines.errors import UsageError
from optimize import validation
from optimize.selection import choice, plans
from optimize.suite import MODELS
from tests.optimize.selection.conftest import noisy, row, run_of

pytestmark = pytest.mark.journey

TABLES = Path(__file__).parent / "selection" / "tables"

QUICK: Dict[str, Any] = {"warmup": "5ms", "duration": "5ms", "iterations": 2}

Plan = Callable[..., Path]


@pytest.fixture()
def plan(tmp_path: Path) -> Plan:
    """Write a plan that differs from `vnv` as told."""

    def write(**more: Any) -> Path:
        path = tmp_path / "plan.json"
        path.write_text(json.dumps({**jsonfile.read(plans.FOLDER / "vnv.json"), "name": "mine", **more}))
        return path

    return write


def users(*names: str) -> List[Dict[str, Any]]:
    return [{"name": name, "runs": [str(TABLES / f"{name}.json")], "device": None} for name in names]


def test_the_users_two_devices(plan: Plan) -> None:
    done = validation.run(plan(devices=users("rtx-3080-ti", "nuc"), models=[]))
    rtx, nuc = done["devices"]
    assert (rtx["baseline_s"], rtx["advanced_s"]) == pytest.approx((30.79, 16.80))
    assert [one["choice"]["baseline"] for one in (rtx, nuc)] == ["ResNet-152", "ResNet-101"]
    assert round(100 * done["saving"], 1) == 54.8 and round(100 * done["saving_of_means"], 1) == 58.2
    assert round(done["drop_points"], 2) == 5.01 and done["verdict"] == "PASS" and "point estimate" in done["why"]
    assert "ResNet-18 is not the same model on all devices: 91.04% on rtx-3080-ti, 86.72% on nuc" in done["remarks"]
    assert [text.split(":")[0].split(",")[0] for text in rtx["steps"]] == [
        *("device", "models", "feasible", "baseline", "advanced", "trials", "verdict")
    ]
    for device in done["devices"]:
        choice.validate(device["choice"])


def test_a_device_that_saves_too_little_counts_in_the_mean(plan: Plan) -> None:
    done = validation.run(plan(devices=users("rtx-3080-ti", "nuc"), min_saving="60%"))
    assert [one["choice"]["verdict"] for one in done["devices"]] == ["FAIL", "PASS"] and done["verdict"] == "FAIL"


def test_a_device_whose_best_is_its_fastest_saves_nothing_for_sure(plan: Plan, tmp_path: Path) -> None:
    """The other device's interval decides: nothing is uncertain about a model held against itself."""
    devices = []
    for name, slow in (("one", 10.0), ("other", 1.0)):
        rows = [row("big", 0.9, noisy(slow)), row("small", 0.85, noisy(2.0, seed=1))]
        runs.write(tmp_path / f"{name}.json", run_of(rows))
        devices.append({"name": name, "runs": [f"{name}.json"], "device": None})
    done = validation.run(plan(devices=devices, models=[]))
    one, other = (device["choice"] for device in done["devices"])
    assert one["chosen"] == "small" and other["chosen"] == other["baseline"] == "big"
    assert done["saving"] == pytest.approx(0.4, abs=0.01)
    assert done["interval"] == pytest.approx([end / 2 for end in one["interval"]])
    assert done["verdict"] == "PASS" and "rounds" not in done["why"]


@pytest.mark.slow
def test_what_a_plan_asks_is_built_and_judged(plan: Plan, tiny_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    out = tmp_path / "work" / "runs.json"
    file = plan(models=[{"name": "tiny", "file": str(tiny_onnx)}], data=str(cifar))
    done = validation.run(file, out=out, preprocess="unit", rounds=2, **QUICK)
    (device,) = done["devices"]
    found = device["choice"]
    assert device["name"] == "here" and device["runs"] == [str(out)] and done["failures"] == []
    assert {one["precision"] for one in found["candidates"]} == {"fp32", "int8"}
    assert all(one["top1"] > 0.5 and one["size_bytes"] > 0 for one in found["candidates"])
    assert found["rounds"] == 2 and (found["paired"] or found["baseline"] == found["chosen"])
    rows = runs.read(out)["rows"]
    assert all(row["load_ms"] > 0 and row["first_ms"] > 0 and len(row["rounds"]) == 2 for row in rows)
    assert all(one["times"]["cached_s"] > 0 for one in found["candidates"]), "load and first inference are measured"
    assert (out.parent / MODELS / "tiny.optimized").is_dir(), "beside the run, not beside the user's model"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is missing")
def test_a_model_that_is_not_there_is_trained_once(plan: Plan, cifar: Path, tmp_path: Path) -> None:
    file = plan(
        models=[{"name": "resnet18", "architecture": "resnet18"}],
        precisions=["fp32", "fp16"],
        training={"epochs": 1, "batch": 16, "images": 32, "seed": 0},
        data=str(cifar),
    )
    done = validation.run(file, out=tmp_path / "runs.json", rounds=1, **QUICK)
    assert done["verdict"] in ("INCONCLUSIVE", "FAIL") and done["failures"] == []
    (model,) = (tmp_path / MODELS).glob("*_bs16_epochs1_32images_seed0/resnet18.keras")
    names = [one["target"] for one in done["devices"][0]["choice"]["candidates"]]
    assert [name.split("-")[0] for name in names] == ["fp32", "fp16"]
    written = model.stat().st_mtime_ns
    validation.run(file, out=tmp_path / "runs.json", rounds=1, **QUICK)
    assert model.stat().st_mtime_ns == written


@pytest.mark.slow
def test_one_that_does_not_build_leaves_the_others(plan: Plan, tiny_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x08")
    models = [{"name": "bad", "file": "damaged.onnx"}, {"name": "tiny", "file": str(tiny_onnx)}]
    file = plan(models=models, data=str(cifar), precisions=["fp32", "fp16"])
    done = validation.run(file, out=tmp_path / "runs.json", preprocess="unit", rounds=1, **QUICK)
    assert [one["target"] for one in done["failures"]] == ["bad"]
    assert len(done["devices"][0]["choice"]["candidates"]) == 2


def test_usage(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resnet18, resnet34, resnet50"):
        validation.run("vnv", cells="vgg*", out=tmp_path / "runs.json")
    with pytest.raises(UsageError, match="is a folder"):
        validation.run("vnv", out=tmp_path)
    with pytest.raises(UsageError, match="no such run file"):
        validation.run(plan(devices=[{"name": "a", "runs": ["none.json"], "device": None}]))
    with pytest.raises(UsageError, match="ARCHITECTURE=FILE"):
        validation.run("vnv", models=["resnet18"], out=tmp_path / "runs.json")


def test_the_catalogue_tells_the_plans() -> None:
    (one,) = validation.catalogue()
    assert (one["name"], one["cells"], one["made"]) == ("vnv", 6, 6) and one["source"]["document"]
