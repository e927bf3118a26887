"""How loud the commands are: `-q` leaves errors, warnings and what a command is for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.optimize.cli.terminal import shown_on_a_terminal


def test_a_quiet_build_says_nothing(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    words = ("build", tiny_onnx, "--precision", "fp32", "--batch", "1", "-o", tmp_path / "out")
    done = optimize_command(*words, "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "out").glob("fp32-*/manifest.json"))
    assert json.loads(optimize_command(*words, "-q", "--json").stdout)["bundles"], "--json is asked for"
    assert "fp32" in optimize_command(*words).stdout


def test_a_quiet_build_tells_warnings(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    """ONNX Runtime has no fast 16-bit format on a CPU: the table flags it."""
    words = ("build", tiny_onnx, "--precision", "fp16", "--batch", "1", "--backend", "onnxruntime", "-o", tmp_path)
    done = optimize_command(*words, "-q")
    assert done.stdout == "" and "warning: fp16-" in done.stderr and "no-fast-fp16" in done.stderr
    assert "no-fast-fp16" not in optimize_command(*words).stderr


def test_a_quiet_build_tells_errors(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"")
    words = ("--precision", "fp32", "--batch", "1", "-o")
    failed = optimize_command("build", tmp_path / "bad.onnx", *words, tmp_path / "out", "-q")
    assert failed.exit_code == 1 and failed.stdout == "" and "error: " in failed.stderr
    (tmp_path / "good.onnx").write_bytes(tiny_onnx.read_bytes())
    several = optimize_command("build", tmp_path / "good.onnx", tmp_path / "bad.onnx", *words[:-1], "-q")
    assert several.exit_code == 5 and several.stdout == "" and "error: bad.onnx: " in several.stderr
    other = optimize_command("build", tiny_onnx, *words, tmp_path / "good.optimized", "-q")
    assert other.exit_code == 2 and "was built from good.onnx" in other.stderr


@pytest.mark.parametrize("command", ["inspect", "zoo list"])
def test_what_a_command_is_for_is_printed_quietly_too(optimize_command: Any, tiny_onnx: Path, command: str) -> None:
    words = [*command.split(), *([tiny_onnx] if command == "inspect" else [])]
    assert optimize_command(*words, "-q").stdout == optimize_command(*words).stdout != ""


def test_findings_stand_above_the_bars_of_a_terminal() -> None:
    """On a real terminal: one bar goes on, and each finding is a line of its own."""
    said = shown_on_a_terminal("""
from engines.spec import A_LINE
from optimize.cli.console import progress
with progress() as report:
    for step in range(1, 5):
        report("training", step, 4)
        if step % 2 == 0:
            report(f"epoch {step // 2} of 2", step // 2, A_LINE)
""")
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.split("\x1b[2K")[-1]).strip() for line in said.split("\n")]
    assert [line for line in shown if line.endswith(" of 2")] == ["epoch 1 of 2", "epoch 2 of 2"]
    last = [line for line in shown if line][-1]
    assert "training" in last and "4/4" in last


def test_only_what_runs_has_a_bar() -> None:
    """Two rounds of the same: what was given up goes away, what is done is one line above, once."""
    said = shown_on_a_terminal("""
from optimize.cli.console import progress
for _ in range(2):
    with progress(still=True) as report:
        for _ in range(2):
            report("loading [x]", 0, 0)
            for step in range(3):
                report("ranges", step, 2)
            for method in range(9):
                report(f"method {method}", method, 11)
""")
    assert "\x1b[2K" in said and "\x1b[1A" not in said, "the cursor never goes up: one bar at a time"
    assert "loading [x]" in said and "method 8" in said
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).replace("\r", "\n").split("\n")]
    assert len([line for line in lines if re.fullmatch(r"ranges 2/2 \d:\d\d:\d\d", line)]) == 2
    assert not [line for line in lines if re.match(r"method \d+ \d", line)], "given up: no line of its own"


def test_a_bar_stays_where_an_error_stopped_it() -> None:
    said = shown_on_a_terminal("""
from optimize.cli.console import progress
try:
    with progress(still=True) as report:
        report("queries", 3, 7)
        raise ValueError
except ValueError:
    pass
""")
    last = [line for line in said.replace("\x1b[2K", "\n").split("\n") if "queries" in line][-1]
    assert "3/7" in last


def test_a_still_bar_is_drawn_only_when_something_is_reported() -> None:
    said = shown_on_a_terminal("""
import threading, time
from optimize.cli.console import progress
with progress(still=True) as report:
    for step in range(3):
        report("queries", step, 2)
        time.sleep(0.5)
    assert threading.active_count() == 1
""")
    assert 3 <= said.count("queries") <= 8  # begun, told, ended; a clock would draw it fifteen times
    assert "2/2" in said


def test_an_interrupt_names_what_is_kept_only_where_it_is(tmp_path: Path) -> None:
    from engines.errors import Interrupted
    from optimize.cli.console import interruptible

    kept = tmp_path / "runs.json.partial"
    with pytest.raises(Interrupted, match="nothing was measured yet"), interruptible("cells are kept", kept):
        raise KeyboardInterrupt
    kept.touch()
    with pytest.raises(Interrupted, match=f"cells are kept in {re.escape(str(kept))}"), interruptible(
        "cells are kept", kept
    ):
        raise KeyboardInterrupt
