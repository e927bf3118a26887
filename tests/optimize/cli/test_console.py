"""How loud the commands are: `-q` leaves errors, warnings and what a command is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


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
    assert "warning: " not in optimize_command(*words).stderr


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
