"""`optimize suite`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines import jsonfile
from optimize import suite
from optimize.selection import plans

QUICK = ("--quick", "--warmup", "5ms", "--duration", "5ms", "--iterations", "2")


@pytest.fixture()
def table(tmp_path: Path, tiny_onnx: Path) -> Path:
    """A suite of a model that builds, one that does not, and one that nobody has."""
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x08")
    value = jsonfile.read(Path(suite.tables.FOLDER, "jetson-nano.json"))
    good, bad, none = (dict(value["cells"][0], name=name) for name in ("good", "bad", "none"))
    good.update(made={"file": str(tiny_onnx)}, precision="fp32")
    bad.update(made={"file": "damaged.onnx"})
    none.update(made=None, why="it was never published")
    jsonfile.write(tmp_path / "my.json", {**value, "cells": [good, bad, none]})
    return tmp_path / "my.json"


def test_the_list_names_every_suite_and_its_source(optimize_command: Any) -> None:
    done = optimize_command("suite", "list")
    assert done.exit_code == 0, done.stderr
    told = json.loads(optimize_command("suite", "list", "--json").stdout)
    assert len(told) == len(suite.tables.names()) + len(plans.names()) > 5
    assert all(one["name"] in done.stdout and one["source"]["document"][:20] in done.stdout for one in told)


@pytest.mark.journey
def test_published_and_measured_stand_side_by_side(optimize_command: Any, table: Path) -> None:
    done = optimize_command("suite", "run", table, "--cells", "good", *QUICK)
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "not comparable" in words and "images/s" in words and "Jetson Nano deep learning" in words
    assert "run file: runs.json" in done.stderr and Path("runs.json").is_file()
    report = optimize_command("report", "runs.json", "-f", "md", "-o", "-")
    assert report.exit_code == 0 and "fp32" in report.stdout, "the run file is one as any other"
    again = optimize_command("suite", "run", table, "--cells", "good", *QUICK, "--json")
    (cell,) = json.loads(again.stdout)["cells"]
    assert cell["published"] == 36 and cell["ratio"] == pytest.approx(cell["value"] / 36)
    assert cell["why"][0].startswith("published on Jetson Nano, this is ")


@pytest.mark.journey
def test_a_failing_cell_keeps_the_others(optimize_command: Any, table: Path) -> None:
    done = optimize_command("suite", "run", table, *QUICK, "-o", "out/r.json", "--json")
    assert done.exit_code == 5, done.stderr
    told = json.loads(done.stdout)
    assert [one["verdict"] for one in told["cells"]] == ["not comparable", "failed", "not comparable"]
    assert told["cells"][0]["value"] > 0 and told["error"]["exit_code"] == 5
    assert Path("out/r.json").is_file() and "error: bad: " in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--cells", "none"), 4, "can be made here"),
        (("--cells", "bad"), 1, "could be measured"),
        (("--cells", "other"), 2, "good, bad, none"),
    ],
)
def test_exit_codes(optimize_command: Any, table: Path, words: Any, code: int, said: str) -> None:
    done = optimize_command("suite", "run", table, *words, *QUICK)
    assert done.exit_code == code and said in done.stderr
    assert not Path("runs.json").exists()


def test_a_damaged_suite_and_one_that_is_not_there(optimize_command: Any, table: Path) -> None:
    table.write_text(table.read_text()[:-9])
    assert optimize_command("suite", "run", table).exit_code == 1
    missing = optimize_command("suite", "run", "jetson-namo")
    assert missing.exit_code == 2 and "optimize suite list" in missing.stderr
