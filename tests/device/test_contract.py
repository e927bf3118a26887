"""Every case on every version of the stand-in: what our code relies on holds there, or is absent for a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from tests.device.contract import CASES, chosen
from tests.device.world import Absent, Case, World, attempt, lines, need, raised, run

ABSENT = {
    "8": {"build.typed_fp16", "build.typed_with_a_flag", "build.progress"},
    "10": set(),
    "11": {
        "parse.implicit_batch",
        "build.fp16",
        "build.int8_entropy",
        "build.int8_minmax",
        "build.callback_raises",
        "build.no_batches",
        "build.no_calibrator",
        "build.calibrator_without_init",
        "build.typed_with_a_flag",
        "engine.int8_implicit",
    },
}
"""By major version: all else is there."""


@pytest.mark.tensorrt
@pytest.mark.journey
def test_every_case_holds_or_is_absent(trt: Any, surface: str, tmp_path: Path) -> None:
    """In one process, as on a board; what one leaves on the device, the fixture finds."""
    found: Dict[str, Dict[str, Any]] = {}
    for case in CASES.values():
        if case.needs == "tensorrt":
            folder = tmp_path / case.name
            folder.mkdir()
            found[case.name] = run(case, trt, folder)
    absent = {name for name, one in found.items() if one["status"] == "absent"}
    assert absent == ABSENT[surface.split(".")[0]]
    assert not {
        name: (one["why"], one["log"]) for name, one in found.items() if one["status"] not in ("held", "absent")
    }


def test_names_are_chosen_by_pattern() -> None:
    assert chosen([], True) == list(CASES)
    assert all(name.startswith("cuda.") for name in chosen([], False))
    assert chosen(["run.gr*", "api.*"], True) == ["api.names", "api.misuse", "run.graph"]
    assert chosen(["run.*"], False) == []


def _breaks(w: World) -> Dict[str, Any]:
    w.check("first", True)
    w.check("second", False)
    w.check("second", True)
    return {"told": 1}


def _raises(w: World) -> Dict[str, Any]:
    raise ZeroDivisionError("in a case")


def _lacks(w: World) -> Dict[str, Any]:
    need(False, "no such thing")
    return {}


def test_a_case_becomes_an_outcome_whatever_it_does(tmp_path: Path) -> None:
    outcomes = [run(Case("x.y", how, "cuda", own=True), None, tmp_path) for how in (_breaks, _raises, _lacks)]
    assert [(one["status"], one["why"]) for one in outcomes] == [
        ("broken", "second"),
        ("raised", "ZeroDivisionError: in a case"),
        ("absent", "no such thing"),
    ]
    assert outcomes[0]["told"] == {"told": 1} and outcomes[0]["checks"] == {"first": True, "second": False}


def test_what_is_raised_is_told_by_class_and_what_is_absent_passes() -> None:
    assert attempt(lambda: int("x")) == "ValueError"
    assert (attempt(lambda: None), attempt(lambda: False), attempt(object)) == (None, False, "object")
    with pytest.raises(Absent), raised():
        raise Absent("no such thing")


def test_log_lines_lose_what_differs_between_runs() -> None:
    said = [
        ("ERROR", "at 0x7f3a12 it failed"),
        ("ERROR", "at 0x7f3a99 it failed"),
        *[("WARNING", str(i)) for i in range(50)],
    ]
    found = lines(said)
    assert found[0] == ["ERROR", "at 0x… it failed"] and found[1] == ["WARNING", "0"] and len(found) == 12
