"""`optimize cache`: what is kept, and that nothing is removed unasked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Tuple

import pytest

from optimize.pipeline import cache
from optimize.pipeline.stages import now
from tests.terminal import await_reading

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell runs the tests in the background
sys.path[0] = sys.argv.pop(1)
from optimize.cli import main
main()
"""


@pytest.fixture
def kept(optimize_command: Any, tiny_onnx: Path, tmp_path: Path) -> Path:
    """A folder with an output folder two levels below it."""
    out = tmp_path / "projects" / "cars" / "engines"
    words = ("--precision", "fp32", "--batch", "1", "--backend", "onnxruntime", "-o", out)
    assert optimize_command("build", tiny_onnx, *words).exit_code == 0
    return tmp_path / "projects"


def test_the_list_tells_model_stage_size_and_age_however_deep(optimize_command: Any, kept: Path) -> None:
    found = json.loads(optimize_command("cache", "ls", kept, "--json").stdout)
    assert {one["model"] for one in found} == {"tiny.onnx"}
    assert {"export", "engine-fp32"} <= {one["name"] for one in found}
    told = optimize_command("cache", "ls", kept).stdout.splitlines()
    assert told[0].split() == ["model", "stage", "size", "age", "path"]
    export = next(text for text in told if " export " in text)
    assert export.startswith("tiny.onnx") and " MB " in export and str(kept) in export
    total = sum(one["bytes"] for one in found)
    assert told[-1] == f"{total / 1e6:.1f} MB in {len(found)} stages"


def test_before_there_is_a_bundle_the_folder_tells_the_model(optimize_command: Any, kept: Path) -> None:
    out = (kept / "cars" / "engines").rename(kept / "beetle.optimized")
    for file in out.glob("*/manifest.json"):
        file.unlink()
    assert {one["model"] for one in cache.entries(kept)} == {"beetle"}


@pytest.mark.parametrize(
    ("created", "told"), [("2020-01-01T00:00:00Z", " d"), ("", "?"), ("soon", "?"), ("2999-01-01T00:00:00Z", "now")]
)
def test_ages(created: str, told: str) -> None:
    assert cache.age(created).endswith(told)
    assert cache.age(now()) == "now" or cache.age(now()).endswith(" s")


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_without_a_terminal_only_yes_removes(optimize_command: Any, kept: Path, json_too: Tuple[str, ...]) -> None:
    before = cache.entries(kept)
    refused = optimize_command("cache", "rm", kept, *json_too)
    assert refused.exit_code == 2 and f"{len(before)} stages" in refused.stderr and "--yes" in refused.stderr
    assert cache.entries(kept) == before
    done = optimize_command("cache", "rm", kept, "--yes", *json_too)
    assert done.exit_code == 0 and cache.entries(kept) == []
    if json_too:
        assert len(json.loads(done.stdout)["removed"]) == len(before)
    assert optimize_command("cache", "rm", kept).exit_code == 0, "nothing is left to ask about"


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
@pytest.mark.parametrize(("typed", "code", "removed"), [(b"y\n", 0, True), (b"n\n", 0, False), (None, 130, False)])
def test_on_a_terminal_it_asks(kept: Path, typed: Any, code: int, removed: bool) -> None:
    """None is Ctrl-C."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CODE, str(ROOT), "cache", "rm", str(kept), "--json"]
    process = subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, cwd="/")
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 1000)
    if typed is None:
        await_reading(process)
        process.send_signal(signal.SIGINT)
    else:
        os.write(ours, typed)
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    told = json.loads(out)
    assert process.returncode == code, said
    assert ("error" in told) == (typed is None)
    assert (cache.entries(kept) == []) is removed and bool(told.get("removed")) is removed
    assert list(kept.glob("cars/engines/fp32-*/manifest.json")), "bundles stay"
