"""Reports as files: every format can be written of every run that can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from bench import runs
from optimize import reporting
from tests.bench.conftest import make_run  # noqa: F401


def test_a_name_in_no_encoding_is_written_in_every_format(
    make_run: Callable[..., Dict[str, Any]],  # noqa: F811
    tmp_path: Path,
) -> None:
    run = make_run(1, batches=(1,))
    for row in run["rows"]:
        row["target"] = "net\udcff.onnx"
    runs.write(tmp_path / "runs.json", run)
    written = reporting.report([tmp_path / "runs.json"], "md,html,csv,json", tmp_path / "out")
    assert sorted(path.suffix for path in written) == [".csv", ".html", ".json", ".md"]
    assert "net\udcff.onnx" in {row["target"] for row in json.loads((tmp_path / "out/report.json").read_text())["rows"]}


@pytest.mark.parametrize("asked", ["", ",", "pdf"])
def test_a_format_that_is_none_is_told_with_those_that_are(
    make_run: Callable[..., Dict[str, Any]],  # noqa: F811  (pytest finds a fixture by its parameter's name)
    optimize_command: Callable[..., Any],
    tmp_path: Path,
    asked: str,
) -> None:
    runs.write(tmp_path / "runs.json", make_run(1, batches=(1,)))
    done = optimize_command("report", tmp_path / "runs.json", "-f", asked, "-o", tmp_path / "out")
    assert done.exit_code == 2 and "md, html, csv" in done.stderr and "try: -f md" in done.stderr
    assert not (tmp_path / "out").exists()
