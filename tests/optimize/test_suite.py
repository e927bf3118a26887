"""Suites of one's own, built and measured here for real; a cell that fails, one that cannot be made, a second run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from bench import runs
from engines import jsonfile
from engines.errors import UsageError
from optimize import suite

Write = Callable[..., Path]

QUICK: Dict[str, Any] = {"rounds": 1, "warmup": "5ms", "duration": "5ms", "iterations": 2}

CONDITIONS = {
    "board": "a made-up board",
    **{"modules": [], "gpu": None, "cpu": None, "processor": None, "power_mode": None, "jetpack": None},
    **{"tensorrt": None, "backend": None, "timed": "query", "measured_by": "nobody"},
}


def cell(name: str, made: Optional[Dict[str, Any]], **more: Any) -> Dict[str, Any]:
    about = {"precision": "fp32", "batch": 1, "quantity": "images_per_s", "published": 100.0}
    return {"name": name, "model": "a net", "made": made, "source": "made up", "note": "", **about, **more}


def write(path: Path, cells: List[Dict[str, Any]]) -> Path:
    source = {"document": "made up for a test", "url": None, "date": None}
    about = {"name": "mine", "title": "A table", "source": source, "conditions": CONDITIONS, "tolerance": 0.05}
    jsonfile.write(path, {"schema": "optimize.suite/1", **about, "cells": cells})
    return path


@pytest.fixture()
def mine(tmp_path: Path, tiny_onnx: Path) -> Path:
    """Three cells of a real model, one of a damaged file, two that cannot be made."""
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x08")
    net = {"file": str(tiny_onnx)}
    return write(
        tmp_path / "mine.json",
        [
            cell("net-fp32-b1", net),
            cell("net-fp32-b4", net, batch=4, quantity="mean_ms"),
            cell("net-fp16-b1", net, precision="fp16"),
            cell("net-int8-b1", net, precision="int8"),
            cell("damaged", {"file": "damaged.onnx"}),
            cell("no-model", None, why="nobody knows what it is"),
            cell("no-batch", net, batch=None),
            cell("unknown", {"architecture": "resnet20", "size": 32, "classes": 10}),
            cell("int8-random", {"architecture": "resnet18", "size": 32, "classes": 10}, precision="int8"),
        ],
    )


def by_name(done: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return {one["name"]: one for one in done["cells"]}


@pytest.mark.journey
def test_what_can_be_measured_is_and_the_rest_says_why(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "work" / "runs.json"
    done = suite.run(mine, out=out, **QUICK)
    found = by_name(done)
    assert [one["name"] for one in done["cells"]] == [one["name"] for one in jsonfile.read(mine)["cells"]]
    for name in ("net-fp32-b1", "net-fp32-b4", "net-fp16-b1"):
        one = found[name]
        assert one["verdict"] == "not comparable" and one["why"][0].startswith("published on a made-up board, this is ")
        assert one["value"] > 0 and one["ratio"] > 0 and one["weights"] == "as given"
        assert (one["published"], one["source"], one["interval"]) == (100.0, "made up", None)
    assert found["net-fp32-b1"]["ratio"] == pytest.approx(found["net-fp32-b1"]["value"] / 100)
    assert found["net-fp32-b4"]["ratio"] == pytest.approx(100 / found["net-fp32-b4"]["value"])
    assert found["damaged"]["verdict"] == "failed" and found["damaged"]["why"] and found["damaged"]["value"] is None
    reasons = {
        "no-model": "nobody knows",
        "no-batch": "does not state the batch",
        "unknown": "no architecture that is known",
        "net-int8-b1": "--data",
        "int8-random": "random weights",
    }
    for name, words in reasons.items():
        assert (found[name]["verdict"], found[name]["ratio"]) == ("not comparable", None)
        assert found[name]["why"][0].startswith("not made here: ") and words in found[name]["why"][0]
    run = runs.read(out)
    assert {(row["precision"], row["batch"]) for row in run["rows"]} == {
        (p, b) for p in ("fp32", "fp16") for b in (1, 4)
    }
    assert run["suite"]["cells"] == done["cells"]
    assert done["run"] == str(out) and (out.parent / "runs.json.cells").is_dir(), "a cell failed: kept for the next run"


@pytest.mark.journey
def test_int8_of_a_model_file_is_calibrated_with_the_data_given(mine: Path, cifar: Path, tmp_path: Path) -> None:
    done = suite.run(mine, cells="net-int8*", data=str(cifar), out=tmp_path / "runs.json", **QUICK)
    (one,) = done["cells"]
    assert one["value"] > 0 and runs.read(tmp_path / "runs.json")["rows"][0]["precision"] == "int8"
    assert not (tmp_path / "runs.json.cells").exists()


@pytest.mark.slow
def test_a_run_with_a_failed_cell_goes_on_where_it_was(mine: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    """The damaged model is mended in the end: only its cell is measured then."""
    out, some = tmp_path / "runs.json", "*[2g]*"  # net-fp32-b1, net-fp32-b4, damaged

    def bundles() -> Dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns for path in (tmp_path / suite.MODELS / "tiny.optimized").rglob("model.xml")
        }

    suite.run(mine, cells=some, out=out, **QUICK)
    measured, built = runs.read(out)["rows"], bundles()
    assert len(measured) == 2 and built
    again = suite.run(mine, cells=some, out=out, **QUICK)
    assert by_name(again)["damaged"]["verdict"] == "failed"
    assert runs.read(out)["rows"] == measured and bundles() == built, "neither built nor measured anew"
    suite.run(mine, cells=some, out=out, fresh=True, **QUICK)
    assert [row["rounds"] for row in runs.read(out)["rows"]] != [row["rounds"] for row in measured], "unless asked to"
    more = by_name(suite.run(mine, cells=some, out=out, **{**QUICK, "rounds": 5}))["net-fp32-b1"]
    assert more["interval"][0] <= more["ratio"] <= more["interval"][1], "other settings are another measurement"
    kept = [row["samples_ms"] for row in runs.read(out)["rows"]]
    assert [len(row["rounds"]) for row in runs.read(out)["rows"]] == [5, 5] and bundles() == built
    shutil.copy(tiny_onnx, tmp_path / "damaged.onnx")
    whole = by_name(suite.run(mine, cells=some, out=out, **{**QUICK, "rounds": 5}))
    assert whole["damaged"]["value"] > 0
    assert [row["samples_ms"] for row in runs.read(out)["rows"]][:2] == kept
    assert not (tmp_path / "runs.json.cells").exists()


@pytest.mark.journey
def test_a_model_of_ones_own_stands_in_for_random_weights(tiny_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    made = {"architecture": "resnet18", "size": 32, "classes": 10}
    file = write(tmp_path / "mine.json", [cell("int8", made, precision="int8"), cell("fp32", made)])
    out = tmp_path / "runs.json"
    done = suite.run(file, out=out, models=[f"resnet18={tiny_onnx}"], data=str(cifar), preprocess="unit", **QUICK)
    for one in done["cells"]:
        assert one["weights"] == "as given" and one["value"] > 0 and "random weights" not in one["remarks"]
    for words, said in (
        ("resnet18", "ARCHITECTURE=FILE"),
        ("net=x.onnx", "resnet152"),
        ("resnet18=nowhere", "no such"),
    ):
        with pytest.raises(UsageError, match=said):
            suite.run(file, out=out, models=[words])


def test_nothing_of_it_can_be_made(mine: Path, tmp_path: Path) -> None:
    done = suite.run(mine, cells="no-*", out=tmp_path / "runs.json", **QUICK)
    assert done["run"] is None and not (tmp_path / "runs.json").exists()


def test_usage(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="net-fp32-b4, "):
        suite.run(mine, cells="resnet*", out=tmp_path / "runs.json")
    with pytest.raises(UsageError, match="cannot be written"):
        suite.run(mine, out=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is missing")
def test_a_networks_random_weights_are_told(tmp_path: Path) -> None:
    """The smallest network that the zoo makes."""
    made = {"architecture": "resnet18", "size": 32, "classes": 10}
    file = write(tmp_path / "mine.json", [cell("resnet18", made, batch=2)])
    done = suite.run(file, out=tmp_path / "runs.json", **QUICK)
    (one,) = done["cells"]
    assert one["weights"] == "random weights" and one["remarks"][0] == "random weights" and one["value"] > 0
    assert one["assumed"] == "" and (tmp_path / suite.MODELS / "resnet18-32px-10classes-random.pt").is_file()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is missing")
def test_what_was_assumed_of_a_network_is_told(tmp_path: Path) -> None:
    """Unless a model of the user's stands in for it: then nothing was."""
    made = {"architecture": "super_resolution", "size": [24, 32], "assumed": "it makes images 3 times as large"}
    file = write(tmp_path / "mine.json", [cell("larger", made)])
    (one,) = suite.run(file, out=tmp_path / "runs.json", **QUICK)["cells"]
    assert one["verdict"] == "not comparable" and one["assumed"] == made["assumed"] and one["value"] > 0
    assert one["why"][-1].endswith(made["assumed"]) and one["weights"] == "random weights"
    random = tmp_path / suite.MODELS / "super_resolution-32x24px-random.pt"
    given = [f"super_resolution={shutil.copy(random, tmp_path / 'mine.pt')}"]
    (one,) = suite.run(file, out=tmp_path / "again.json", models=given, **QUICK)["cells"]
    assert one["weights"] == "as given" and not any("assumed" in why for why in one["why"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is missing")
def test_an_original_is_measured_in_its_form(tmp_path: Path) -> None:
    made = {"architecture": "resnet18", "size": 32, "classes": 10}
    about = {"precision": "mixed", "batch": 2, "form": "predict", "threads": 1, "quantity": "ms_per_image"}
    file = write(
        tmp_path / "mine.json",
        [cell("cpu", made, conditions={"backend": "tensorflow", "processor": "CPU"}, **about)],
    )
    (one,) = suite.run(file, out=tmp_path / "runs.json", **QUICK)["cells"]
    (row,) = runs.read(tmp_path / "runs.json")["rows"]
    assert (row["role"], row["form"], row["threads"], row["on"]) == ("original", "predict", 1, "cpu")
    assert one["value"] == pytest.approx(row["mean_ms"] / 2)
    assert "published in mixed, measured in fp32" in one["why"]


def test_the_catalogue_counts() -> None:
    found = {one["name"]: one for one in suite.catalogue()}
    assert (found["jetson-nano"]["cells"], found["jetson-nano"]["made"]) == (14, 14)
    assert found["resnet-family-edge"]["made"] == 0 and all(one["source"]["document"] for one in found.values())
