"""A long run in a real process: what comes back, how it stands in a run file, and how it ends early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import numpy as np
import pytest

from bench import longrun, runs, timings
from bench.rounds import Target
from engines.errors import ModelError, UsageError
from engines.spec import RunnerSpec

pytestmark = pytest.mark.journey

ROOT = Path(__file__).resolve().parents[2]


def target(path: Path) -> Target:
    spec = RunnerSpec(path=str(path), kind="onnx", backend="onnxruntime", layout="NHWC", threads=1)
    return Target("net", "engine", "", "fp32", "onnxruntime", {}, 1, spec)


@pytest.fixture(scope="module")
def found(model: Path) -> Tuple[longrun.Long, List[Tuple[str, int, int]]]:
    seen: List[Tuple[str, int, int]] = []
    return longrun.measure_many(target(model).spec, 2, 3000, 0.01, progress=lambda *told: seen.append(told)), seen


def test_every_sample_comes_back_in_order_with_its_start(found: Any):
    long, seen = found
    assert long.samples_ns.dtype == long.starts_ns.dtype == np.int64
    assert long.samples_ns.shape == long.starts_ns.shape == (3000,)
    assert (long.samples_ns > 0).all()
    assert long.starts_ns[0] == 0
    assert (np.diff(long.starts_ns) >= long.samples_ns[:-1]).all()
    assert long.first_ms > 0 and long.load_ms > 0
    assert long.achieved
    assert seen[0] == ("queries", 0, 3000) and seen[-1] == ("queries", 3000, 3000)


def test_it_stands_in_a_run_file_and_is_read_from_it(found: Any, model: Path, tmp_path: Path):
    long, _ = found
    row = longrun.row(target(model), 2, long)
    path = tmp_path / "run.json"
    runs.write(path, runs.make([row], long.before, long.after))
    (read,) = timings.read(path)
    assert read.samples_ms == pytest.approx(long.samples_ns / 1e6, rel=1e-5)
    assert read.starts_ms == pytest.approx(long.starts_ns / 1e6, abs=1e-3)
    assert (read.first_ms, read.interference, read.rounds) == (long.first_ms, None, [3000])
    assert row["p50_ms"] == pytest.approx(np.median(long.samples_ns) / 1e6, rel=1e-5)
    assert row["usage"]["cpus"] > 0


def test_who_makes_the_machine_busy_is_not_flagged_for_it(found: Any, model: Path):
    long = found[0]._replace(flags=["busy", "clocks free"])
    load = {"kind": "cpu", "tool": "optimize", "version": "1", "settings": {"percent": 50}}
    beside = {"kinds": "cpu:50", "words": "half of every core", "loads": [load]}
    quiet, loaded = longrun.row(target(model), 2, long), longrun.row(target(model), 2, long, beside)
    assert {"busy", "clocks free"} <= set(quiet["flags"]) and "busy" not in loaded["flags"]
    assert loaded["interference"] == beside
    runs.validate(runs.make([quiet, loaded], {}, {}))


@pytest.mark.parametrize("samples", [0, -5, longrun.MOST + 1])
def test_more_than_a_file_holds_or_nothing_at_all_is_refused(samples: int, model: Path):
    with pytest.raises(UsageError, match="--samples"):
        longrun.measure_many(target(model).spec, 1, samples)


def test_several_streams_have_no_order(model: Path):
    with pytest.raises(UsageError, match="one query at a time"):
        longrun.measure_many(target(model).spec.with_(options={"streams": 2}), 1)


def test_a_target_that_cannot_be_opened_says_why(tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        longrun.measure_many(target(tmp_path / "bad.onnx").spec, 1, 10)


@pytest.fixture()
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupted_it_leaves_nothing(model: Path, scratch: Path):
    code = """
        import json, signal, sys
        from bench import longrun
        from engines.spec import RunnerSpec

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

        def told(what, done, total):
            print(what, done, flush=True)

        longrun.measure_many(RunnerSpec.from_json(json.loads(sys.argv[1])), 1, 5_000_000, 0.0, progress=told)
    """
    spec = json.dumps(target(model).spec.to_json())
    command = [sys.executable, "-c", textwrap.dedent(code), spec]
    parent = subprocess.Popen(command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.split()[:2] == ["queries", "0"]:
            break
    parent.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    while parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert parent.poll() not in (None, 0)
    assert list(scratch.glob("optimize-*")) == []
    parent.stdout.close()
