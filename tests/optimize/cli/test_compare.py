"""`optimize compare`: its table, its refusals and its gates, on a run that was measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import optimize
from bench import runs, stats
from optimize import comparison
from tests.optimize.cli.terminal import shown_on_a_terminal


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, built: Any) -> Path:
    """Measured in one round, which stands in for five: only those give a verdict."""
    out = tmp_path_factory.mktemp("run") / "runs.json"
    value, _ = optimize.bench([built.bundles[0].path], (1, 4), rounds=1, warmup=0.0, duration=0.005, out=None)
    for row in value["rows"]:
        row["rounds"] *= 5
        row["samples_ms"] *= 5
        row.update(stats.summary(row["samples_ms"]))
    runs.write(out, value)
    return out


@pytest.fixture()
def slower(run: Path, tmp_path: Path) -> Path:
    """The run, twice as slow."""
    value = json.loads(run.read_text())
    for row in value["rows"]:
        for entry in row["rounds"]:
            entry["samples_ms"] = [2 * ms for ms in entry["samples_ms"]]
        row["samples_ms"] = [ms for entry in row["rounds"] for ms in entry["samples_ms"]]
        row.update(stats.summary(row["samples_ms"]))
    path = tmp_path / "slower.json"
    path.write_text(json.dumps(value))
    return path


def test_a_run_is_no_different_from_itself(optimize_command: Any, run: Path) -> None:
    done = optimize_command("compare", run, run, "--fail-slower", "1%")
    assert done.exit_code == 0, done.stderr
    assert "the same" in done.stdout and "no difference" in done.stdout
    assert "geometric mean of 2 cells: the same" in done.stdout and "threads" not in done.stdout
    assert f"{run} beside the reference {run}" in done.stdout
    found = json.loads(optimize_command("compare", run, run, "--json").stdout)
    assert found["schema"] == "optimize.compare/1" and found["reference"] == str(run)
    assert [cell["ratio"] for cell in found["runs"][0]["cells"]] == [1.0, 1.0]


def test_one_cell_has_no_mean(optimize_command: Any, run: Path, tmp_path: Path) -> None:
    value = json.loads(run.read_text())
    del value["rows"][1:]
    (tmp_path / "one.json").write_text(json.dumps(value))
    done = optimize_command("compare", tmp_path / "one.json", tmp_path / "one.json")
    assert done.exit_code == 0 and "the same" in done.stdout and "geometric mean" not in done.stdout


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_a_narrow_terminal_cuts_no_number(run: Path, slower: Path, columns: int) -> None:
    found = comparison.compare(run, [slower])
    code = f"import json\nfrom optimize.cli import compare\ncompare._show(json.loads({json.dumps(found)!r}))"
    shown = shown_on_a_terminal(code, columns, talk=False)
    (one,) = found["runs"]
    heading = shown.split("──")[0]
    for cell in one["cells"]:
        assert f"{1 / cell['ratio']:.2f}x slower" in shown and cell["verdict"] in shown
        assert "interval" not in heading or f"[{cell['interval'][0]:.3f}, {cell['interval'][1]:.3f}]" in shown
    assert "…" not in shown and ("left out, the terminal is narrow: precision" in shown) is (columns < 100)
    assert all(name in heading for name in ("target", "batch", "change", "verdict"))


def test_cells_of_several_threads_are_told_apart(optimize_command: Any, run: Path, tmp_path: Path) -> None:
    value = json.loads(run.read_text())
    for row in value["rows"]:
        row["threads"] = 1
    value["rows"] += [{**row, "threads": 2} for row in value["rows"]]
    several = tmp_path / "several.json"
    several.write_text(json.dumps(value))
    done = optimize_command("compare", several, several)
    assert done.exit_code == 0 and "threads" in done.stdout, done.stdout


def test_a_slower_run_breaks_the_gate(optimize_command: Any, run: Path, slower: Path) -> None:
    done = optimize_command("compare", run, slower, "--fail-slower", "5%")
    assert done.exit_code == 3 and "2.00x slower" in done.stdout and "100.0% slower, 5% are allowed" in done.stderr
    assert optimize_command("compare", run, slower).exit_code == 0
    drop = optimize_command("compare", run, run, "--fail-drop", "0.5")
    assert drop.exit_code == 3 and "top-1 unmeasured" in drop.stderr


def test_another_machine_is_refused_unless_forced(optimize_command: Any, run: Path, tmp_path: Path) -> None:
    value = json.loads(run.read_text())
    value["environment"]["cpu"] = "Another CPU"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(value))
    refused = optimize_command("compare", run, other)
    assert refused.exit_code == 4 and "Another CPU" in refused.stderr and "--force" in refused.stderr
    forced = optimize_command("compare", run, other, "--force")
    assert forced.exit_code == 0 and "warning: unlike the reference: processor" in forced.stderr


@pytest.mark.parametrize("words", [("--fail-slower", "much"), ("--fail-slower", "-5%"), ("--fail-drop", "-1")])
def test_limits_that_are_none_are_usage_errors(optimize_command: Any, run: Path, words: Any) -> None:
    assert optimize_command("compare", run, run, *words).exit_code == 2


def test_files_that_are_no_runs(optimize_command: Any, run: Path, tmp_path: Path) -> None:
    assert optimize_command("compare", run, tmp_path / "none.json").exit_code == 2
    newer = tmp_path / "newer.json"
    newer.write_text(run.read_text().replace("optimize.run/1", "optimize.run/9"))
    done = optimize_command("compare", run, newer)
    assert done.exit_code == 4 and "optimize.run/9" in done.stderr
    nan = tmp_path / "nan.json"
    nan.write_text(json.dumps({**json.loads(run.read_text()), "rows": [{"p50_ms": float("nan")}]}))
    assert optimize_command("compare", run, nan).exit_code == 1
