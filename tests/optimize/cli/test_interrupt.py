"""Ctrl-C in every stage of a build ends with 130, leaves nothing half-written, and the next run resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell runs the tests in the background
sys.path[0] = sys.argv.pop(1)
from optimize.cli import main
main()
"""
STAGES = ("data", "export", "check", "accuracy-source", "calibrate", "engine-int8", "accuracy-int8")


def journal(out: Path) -> list:
    file = out / ".optimize" / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.journey
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_every_stage_can_be_interrupted_and_resumed(tmp_path: Path, tiny_onnx: Path, cifar: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", CODE, str(ROOT), "build", str(tiny_onnx), "--precision", "int8", "--batch", "1,8"]
    command += ["--data", str(cifar), "--preprocess", "unit", "-o", str(out), "--samples", "100", "--no-progress"]
    for stage in STAGES:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while not any(e["event"] == "started" and e["stage"] == stage for e in journal(out)):
            assert process.poll() is None, f"the build ended before {stage}: {process.stderr.read()}"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, (stage, errors)
        assert "Traceback" not in errors and "same command again" in errors
        assert not [p for p in out.rglob("*") if p.suffix == ".part" or p.name == "manifest.json"], stage
        assert journal(out)[-1]["event"] == "interrupted" and journal(out)[-1]["stage"] == stage
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reused = [e["stage"] for e in journal(out) if e["event"] == "reused"]
    assert set(STAGES[:-1]) <= set(reused), "finished stages were not run again"
    assert len(list(out.glob("int8-*/manifest.json"))) == 1
