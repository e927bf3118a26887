"""The stand-in held to what boards told: `tests/device/reports/*.json`, as `make test-device` writes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict, List

import pytest

from tests.device import replay, report
from tests.device.contract import CASES
from tests.device.world import run
from tests.doubles import bindings
from tests.doubles import surface as surfaces
from tests.doubles.plugin import SURFACES

REPORTS = sorted((Path(__file__).resolve().parent / "reports").glob("*.json"))
NONE = pytest.param(None, marks=pytest.mark.skip(reason="no board has sent a report yet (tests/device/reports)"))


def cases(trt: Any, folder: Path, *groups: str) -> List[Dict[str, Any]]:
    """The outcomes of all cases of these groups, here."""
    found = []
    for case in CASES.values():
        if case.name.split(".")[0] in groups and case.name != "cuda.loop_overhead":
            (folder / case.name).mkdir(parents=True)
            found.append(run(case, trt, folder / case.name))
    return found


def written(path: Path, outcomes: List[Dict[str, Any]], version: str) -> Dict[str, Any]:
    """A report of these outcomes, written and read again."""
    from engines import jsonfile

    jsonfile.write(path, report.assemble({}, outcomes, version, "", {"user": ["marie.curie"]}))
    return replay.read(path)


@pytest.mark.tensorrt
@pytest.mark.parametrize("path", REPORTS or [NONE], ids=lambda path: getattr(path, "stem", "none"))
def test_the_stand_in_tells_what_the_board_told(path: Path, trt: Any, surface: str, tmp_path: Path) -> None:
    made = replay.read(path)
    wanted = replay.surface_of(made["tensorrt"], SURFACES)
    if surface != (wanted or "10.3.0"):  # of CUDA alone: any
        pytest.skip(f"this report is of TensorRT {made['tensorrt'] or 'nothing'}")
    mine = cases(trt, tmp_path, *{one["name"].split(".")[0] for one in made["cases"]})
    assert replay.differences(made["cases"], mine) == []


@pytest.mark.slow
@pytest.mark.tensorrt
def test_a_report_made_here_replays_clean_and_a_changed_one_names_the_case(
    trt: Any, surface: str, tmp_path: Path
) -> None:
    groups = ("cuda", "api", "parse", "run")  # test_contract.py runs the others too
    made = written(tmp_path / "report.json", cases(trt, tmp_path / "first", *groups), str(trt.__version__))
    assert replay.surface_of(made["tensorrt"], SURFACES) == surface
    mine = cases(trt, tmp_path / "second", *groups)
    assert replay.differences(made["cases"], mine) == []
    changed = copy.deepcopy(made["cases"])
    (shapes,) = (one for one in changed if one["name"] == "run.shapes")
    shapes["told"]["outside"] = True
    (line,) = replay.differences(changed, mine)
    assert line == "run.shapes: told.outside: the report has True, the stand-in False"


@pytest.mark.tensorrt
def test_names_told_under_the_stand_in_are_those_of_the_surface(trt: Any, surface: str, tmp_path: Path) -> None:
    """So that a board's names are held against the version's own, not against the stand-in's mistakes."""
    from tensorrt._real import SURFACE

    if surface == surfaces.DERIVED and not bindings.available("8.6.1"):
        pytest.skip("its callback bases are made here, since 8.6.1 has no wheel for this Python")
    told = run(CASES["api.names"], trt, tmp_path)["told"]
    for name, members in told["enums"].items():
        assert members == SURFACE["classes"].get(name, {}).get("enum", {}), name
    for name, members in told["members"].items():
        if name == "IHostMemory":
            continue
        known, wanted = [name], set()
        while known:
            kind = SURFACE["classes"].get(known.pop(), {})
            known += kind.get("bases", [])
            for part in ("methods", "props", "statics", "nested"):
                wanted |= {one for one in kind.get(part, ()) if not one.startswith("_")}
        assert set(members) == wanted, name


def one(**changes: Any) -> Dict[str, Any]:
    base: Dict[str, Any] = {"name": "run.x", "status": "held", "told": {"a": [1, {"b": None}]}, "checks": {"c": True}}
    return {**base, "log": [["WARNING", "w"]], **changes}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, None),
        ({"log": [["WARNING", "in other words"]]}, None),
        ({"seen": {"bytes": 5}}, None),
        ({"status": "crashed", "told": {}}, "status: the report has 'crashed', the stand-in 'held'"),
        ({"told": {"a": [1, {"b": 0}]}}, "told.a.1.b: the report has 0, the stand-in None"),
        ({"told": {"a": [1]}}, "told.a: the report has [1], the stand-in [1, {'b': None}]"),
        ({"told": {}}, "told.a: the report has 'nothing', the stand-in [1, {'b': None}]"),
        ({"checks": {"c": False}}, "checks.c: the report has False, the stand-in True"),
        ({"log": [["ERROR", "e"]]}, "an ERROR in the log: the report has True, the stand-in False"),
    ],
)
def test_a_difference_is_named_with_its_place(change: Dict[str, Any], line: Any) -> None:
    assert replay.differences([one(**change)], [one()]) == ([f"run.x: {line}"] if line else [])


def test_known_differences_are_left_out_and_each_has_a_case_and_a_reason() -> None:
    flipped = one(name="run.flipped_byte", status="crashed")
    assert replay.differences([flipped], [one(name="run.flipped_byte")]) == []
    assert replay.differences([one(name="run.of_another_table")], [one()]) == []
    for known in replay.KNOWN:
        assert known.reason and any(replay.fnmatch.fnmatchcase(name, known.case) for name in CASES)


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("8.5.2.2", "8.5.2"),
        ("8.6.1", "8.6.1"),
        ("10.3.0.30", "10.3.0"),
        ("10.13.3.9", "10.13"),
        ("10.16.1.11+double", "10.16"),
        ("11.4.1", "11.4"),
        ("10.1.0", ""),
        ("", ""),
        ("8.2.1.8", ""),
    ],
)
def test_a_version_finds_its_surface(version: str, found: str) -> None:
    assert replay.surface_of(version, SURFACES) == found
