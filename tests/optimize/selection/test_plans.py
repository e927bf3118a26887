from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from engines import jsonfile
from engines.errors import DamagedError, UsageError
from optimize.selection import choose, plans

VNV: Dict[str, Any] = jsonfile.read(plans.FOLDER / "vnv.json")


def write(path: Path, **more: Any) -> Path:
    path.write_text(json.dumps({**VNV, **more}))
    return path


def test_the_plans_that_come_with_the_project_can_be_asked() -> None:
    assert plans.names() == ["vnv"]
    for name in plans.names():
        plan = plans.read(name)
        assert plan["name"] == name and plan["rounds"] >= 10
        keys = ("policy", "max_drop", "min_saving", "bandwidth", "rtt", "images", "batch", "cached")
        asked = choose.ask(**{key: plan[key] for key in keys}, device=None)
        assert asked.min_saving == 0.2 and asked.drop.words == "10 points"


def test_paths_are_the_files_own(tmp_path: Path) -> None:
    devices = [{"name": "nuc", "runs": ["nuc.json"], "device": "d.json"}]
    file = write(tmp_path / "p.json", devices=devices, models=[{"name": "net", "file": "net.onnx"}])
    plan = plans.read(file)
    assert plan["devices"][0] == {
        **{"name": "nuc", "runs": [str(tmp_path / "nuc.json")], "device": str(tmp_path / "d.json")}
    }
    assert plan["models"][0]["file"] == str(tmp_path / "net.onnx")


def test_plans_and_suites_are_told_apart(tmp_path: Path) -> None:
    assert plans.is_plan("vnv") and plans.is_plan(write(tmp_path / "p.json"))
    assert not plans.is_plan("jetson-nano") and not plans.is_plan(tmp_path / "none.json")
    assert not plans.is_plan(write(tmp_path / "s.json", schema="optimize.suite/1"))
    (tmp_path / "x.json").write_text("{")
    assert not plans.is_plan(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"models": [{"name": "a"}]}, "a file or an architecture"),
        ({"models": [{"name": "a", "architecture": "vgg19"}]}, "resnet18"),
        ({"models": [{"name": "a", "architecture": "resnet18", "file": "x"}]}, "a file or an architecture"),
        ({"models": [{"name": "a", "file": "x"}] * 2}, "there twice"),
        ({"models": []}, "there is no model"),
        ({"devices": []}, "devices"),
        ({"devices": [{"name": n, "runs": None, "device": None} for n in "ab"]}, "a and b have no runs"),
        ({"devices": [{"name": "a", "runs": [], "device": None}]}, "runs"),
        ({"precisions": ["int4"]}, "precisions"),
        ({"rounds": 0}, "rounds"),
        ({"training": {"epochs": 1}}, "training.batch"),
        ({"schema": "optimize.plan/2"}, "this version reads"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, more: Dict[str, Any], words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        plans.read(write(tmp_path / "p.json", **more))


def test_a_plan_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no plan is called nowhere"):
        plans.read("nowhere")
