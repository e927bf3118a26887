from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest

from bench import runs, stats
from engines.errors import DamagedError
from optimize.fleet import results
from optimize.fleet import run as fleet
from optimize.fleet.boards import Board


def row(precision: str, batch: int, ms: float) -> Dict[str, Any]:
    samples = [ms] * 10
    entry = {"order": 0, "started": "2026-01-01T00:00:00Z", "samples_ms": samples}
    return {
        **{
            "target": f"net-{precision}",
            "role": "engine",
            "form": "",
            "backend": "onnxruntime",
            "precision": precision,
        },
        **{"achieved": {}, "batch": batch, "images": 10 * batch, "dataset": None, "origin": "measured"},
        **{"size_bytes": 1, "images_per_s": 1.0, "rounds": [entry], "samples_ms": samples, "device": None},
        **{"top1": None, "top1_drop": None, "agreement": None, "speedup": None, "flags": []},
        **stats.summary(samples),
    }


def write(path: Path, rows: List[Dict[str, Any]]) -> Path:
    run = {"schema": runs.SCHEMA, "created": "2026-01-01T00:00:00Z", "environment": {}, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write(path, run)
    return path


def campaign(tmp_path: Path, activate: str) -> Any:
    """What `choose` asks of a campaign: two boards of one class, and the shipments of two precisions."""
    published = {f"net-{precision}": {"precision": precision} for precision in ("fp16", "int8")}
    return SimpleNamespace(
        plan=SimpleNamespace(activate=activate),
        published={"orin": published},
        alive=lambda name: [Board("a"), Board("b"), Board("c")],
        run_file=lambda name: tmp_path / "runs" / f"{name}.json",
    )


def test_the_fastest_is_so_over_all_boards_and_batches_of_the_class(tmp_path):
    # int8 wins on one board, and by more than it loses on the other; the third has no run file
    write(
        tmp_path / "runs/a.json", [row("fp16", 1, 2.0), row("fp16", 8, 8.0), row("int8", 1, 1.0), row("int8", 8, 2.0)]
    )
    write(
        tmp_path / "runs/b.json", [row("fp16", 1, 2.0), row("fp16", 8, 8.0), row("int8", 1, 3.0), row("int8", 8, 9.0)]
    )
    assert results.choose(campaign(tmp_path, "fastest"), "orin") == "net-int8"


def test_a_precision_is_chosen_where_it_was_built(tmp_path):
    assert results.choose(campaign(tmp_path, "fp16"), "orin") == "net-fp16"
    assert results.choose(campaign(tmp_path, "fp32"), "orin") == ""


def test_nothing_is_the_fastest_where_nothing_was_measured(tmp_path):
    assert results.choose(campaign(tmp_path, "fastest"), "orin") == ""


def test_a_report_names_the_board_of_every_row_and_the_command(tmp_path):
    files = {name: write(tmp_path / f"{name}.json", [row("fp16", 1, ms)]) for name, ms in (("a", 1.0), ("b", 2.0))}
    written = results.report(files, tmp_path / "report", ["optimize", "fleet", "run", "plan.toml"])
    assert [path.name for path in written] == ["runs.json", "report.md", "report.html", "report.json"]
    assert [one["target"] for one in runs.read(written[0])["rows"]] == ["a: net-fp16", "b: net-fp16"]
    text = written[1].read_text()
    assert "a: net-fp16" in text and "optimize fleet run plan.toml" in text
    assert results.report({}, tmp_path / "none", []) == []


def test_a_board_whose_run_file_came_damaged_is_not_in_the_report_of_the_others(tmp_path):
    write(tmp_path / "runs/a.json", [row("fp16", 1, 1.0)])
    (tmp_path / "runs/b.json").write_text("{")
    said: List[str] = []
    about = SimpleNamespace(
        boards=[Board("a"), Board("b"), Board("c")],
        run_file=lambda name: tmp_path / "runs" / f"{name}.json",
        ansible=SimpleNamespace(inventory="hosts.yml"),
        plan=SimpleNamespace(path="plan.toml"),
        work=tmp_path,
        progress=lambda what, done, total: said.append(what),
    )
    written = fleet._report(about)  # type: ignore[arg-type]  # what it asks of a campaign
    assert [one["target"] for one in runs.read(Path(written[0]))["rows"]] == ["a: net-fp16"]
    assert len(said) == 1 and said[0].startswith("b is not in the report")


def test_a_run_file_that_came_damaged_or_was_changed_since(tmp_path):
    file = write(tmp_path / "a.json", [row("fp16", 1, 1.0)])
    kept = results.measured(file)
    assert kept["rows"] == 1 and results.is_whole(file, kept)
    file.write_text(json.dumps({"schema": "optimize.run/1"}))
    assert not results.is_whole(file, kept)
    odd = write(tmp_path / "odd.json", [{**row("fp16", 1, 1.0), "target": "net-\ud800"}])
    for broken in (file, tmp_path / "none.json", odd):
        with pytest.raises(DamagedError):
            results.measured(broken)
