"""`optimize select` and `optimize suite run` of a plan: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Tuple

import pytest

from engines import jsonfile
from optimize.selection import choice, plans

TABLES = Path(__file__).parents[1] / "selection" / "tables"
RTX, NUC = TABLES / "rtx-3080-ti.json", TABLES / "nuc.json"


def test_the_verdict_line_says_all(optimize_command: Any) -> None:
    done = optimize_command("select", RTX, "-o", "choice.json")
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "PASS: ResNet-152 -> ResNet-18 saves 45.4% and loses 4.07 points" in words
    assert "at least 20% asked, 10 points may be lost" in words and "inference only: 10,000 images" in words
    assert "point estimate" in words and "unknown: data set of the accuracy: all; size: all" in words
    assert choice.read(Path("choice.json"))["chosen"] == "ResNet-18" and "choice: choice.json" in done.stderr


def test_the_reason_of_a_verdict_is_told_once(optimize_command: Any) -> None:
    done = optimize_command("select", RTX, "--max-drop", "1")
    assert " ".join((done.stdout + done.stderr).split()).count("the baseline itself is chosen") == 1
    assert "error: the verdict is FAIL" in done.stderr


def test_json_is_a_choice(optimize_command: Any) -> None:
    done = optimize_command("select", NUC, "--json", "--max-drop", "10%")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    choice.validate(found)
    assert (found["baseline"], found["chosen"], found["interval"]) == ("ResNet-101", "ResNet-18", None)
    assert found["asked"]["max_drop"]["unit"] == "relative"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((RTX, "--min-saving", "50%"), 3, "FAIL"),
        ((RTX, "--max-drop", "1"), 3, "try: --policy greedy, or --min-saving 0"),
        ((RTX, "--max-drop", "1", "--min-saving", "0"), 0, ""),
        ((RTX, "--policy", "greedy", "--min-saving", "1%"), 3, "try: --min-saving 0"),
        ((RTX, "--policy", "greedy"), 0, ""),
        ((RTX, "--policy", "best"), 2, "greedy"),
        ((RTX, "--max-drop", "much"), 2, "--max-drop"),
        ((RTX, NUC), 4, "unlike devices"),
        (("nowhere.json",), 2, "no such run file"),
        ((plans.FOLDER / "vnv.json",), 1, "optimize.run/1"),
    ],
)
def test_exit_codes(optimize_command: Any, words: Tuple[Any, ...], code: int, said: str) -> None:
    done = optimize_command("select", *words)
    assert done.exit_code == code and said in done.stderr, done.stderr
    told = optimize_command("select", *words, "--json")
    assert told.exit_code == code and ("error" in json.loads(told.stdout)) == (code != 0)


def test_a_plan_prints_the_documents_table_and_steps(optimize_command: Any, tmp_path: Path) -> None:
    devices = [{"name": path.stem, "runs": [str(path)], "device": None} for path in (RTX, NUC)]
    value = {**jsonfile.read(plans.FOLDER / "vnv.json"), "devices": devices, "models": []}
    (tmp_path / "plan.json").write_text(json.dumps(value))
    done = optimize_command("suite", "run", tmp_path / "plan.json")
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "1. device: not told" in words and "4. baseline, the most accurate: ResNet-152, 95.11%, 30.79 s" in words
    assert "5. advanced, the fastest within the drop limit (10 points may be lost): ResNet-18, 86.72%" in words
    assert "PASS: over 2 devices 54.8% is saved as mean of ratios, 58.2% as ratio of sums; at most 5.01 points" in words
    assert "remark: ResNet-18 is not the same model on all devices" in words
    value["min_saving"] = "90%"
    (tmp_path / "plan.json").write_text(json.dumps(value))
    failed = optimize_command("suite", "run", tmp_path / "plan.json", "--json")
    assert failed.exit_code == 3 and json.loads(failed.stdout)["verdict"] == "FAIL"
    value["rounds"] = 0
    (tmp_path / "plan.json").write_text(json.dumps(value))
    assert optimize_command("suite", "run", tmp_path / "plan.json").exit_code == 1
