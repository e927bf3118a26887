"""`make test-device` as a user runs it: in a process, on the stand-ins; and what it does when something goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from engines import jsonfile
from engines.errors import DamagedError
from tests.device import child, redact, replay, report
from tests.device.contract import CASES

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "tests" / "device"


def started(folder: Path, *words: str, **environment: str) -> Any:
    """The command in a folder that is not the repository."""
    return subprocess.run(
        [sys.executable, str(ENTRY), *words],
        cwd=str(folder),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def outcome(name: str, **changes: Any) -> Dict[str, Any]:
    return {**child._without(name, "held", ""), "seconds": 0.1, **changes}


@pytest.mark.tensorrt
def test_a_report_is_written_and_redacted(trt: Any, surface: str, tmp_path: Path) -> None:
    if surface not in ("8.5.2", "11.4"):
        pytest.skip("the oldest and the newest are enough")
    names = ["cuda.context", "cuda.kernel", "api.misuse", "parse.*", "build.fp32", "engine.refusals"]
    only = [word for name in names for word in ("--only", name)]
    done = started(tmp_path, *only, "-o", "deep/report.json", USER="marie.curie", HOSTNAME="orin-nano-7")
    assert done.returncode == 0, done.stdout + done.stderr
    made = replay.read(tmp_path / "deep" / "report.json")
    assert [one["name"] for one in made["cases"]][:3] == ["cuda.context", "cuda.kernel", "api.misuse"]
    assert made["tensorrt"].startswith(surface) and made["double"] is True and made["without_tensorrt"] == ""
    assert made["summary"]["held"] + made["summary"]["absent"] == len(made["cases"])
    assert made["facts"]["machine"]["gpu"]["compute_capability"] == "8.7"
    text = (tmp_path / "deep" / "report.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text and str(ROOT) not in text
    assert "read it" in done.stdout and "[ 1/" in done.stdout


@pytest.mark.tensorrt
def test_with_cuda_alone_the_report_is_partial(cuda_ledger: Any, tmp_path: Path) -> None:
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libnvinfer.so.8: cannot open')\n")
    done = started(tmp_path, "--only", "cuda.st*", "--only", "run.*", PYTHONPATH=str(package.parent))
    assert done.returncode == 0, done.stderr
    made = replay.read(tmp_path / "device-report.json")
    assert [one["name"] for one in made["cases"]] == ["cuda.streams"]
    assert made["tensorrt"] == "" and "libnvinfer.so.8" in made["without_tensorrt"]
    assert "what needs CUDA alone" in done.stdout


@pytest.mark.tensorrt
def test_without_a_gpu_it_says_so(cuda_ledger: Any, tmp_path: Path) -> None:
    done = started(tmp_path, FAKECUDA_DEVICES="0")
    assert done.returncode == 4 and done.stderr.startswith("error: "), done.stderr
    assert "GPU" in done.stderr and not list(tmp_path.iterdir())


def test_without_pycuda_it_says_so(tmp_path: Path) -> None:
    package = tmp_path / "site" / "pycuda"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    done = started(tmp_path, PYTHONPATH=str(package.parent))
    assert done.returncode == 4 and "pycuda" in done.stderr, done.stderr


def test_a_python_without_the_packages_gets_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-S", "-E", str(ENTRY)], cwd=str(tmp_path), capture_output=True, text=True)
    assert done.returncode == 4 and "has no numpy, onnx, onnxruntime" in done.stderr, done.stderr
    assert "install-jetson.sh" in done.stderr and "Traceback" not in done.stderr


def test_cases_are_listed_and_unknown_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = started(tmp_path, "--list")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(CASES)
    assert all(len(line.split(None, 1)) == 2 for line in done.stdout.splitlines())
    monkeypatch.setattr(report.cuda, "unavailable", lambda: "")
    monkeypatch.setattr(report.device, "tensorrt_version", lambda: ("", "not installed"))
    assert report.main(["--only", "nothing.*", "-o", str(tmp_path / "x.json")]) == 2


def test_what_does_not_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def run_all(names: List[str], with_tensorrt: bool, tell: Any, limit_s: float) -> List[Dict[str, Any]]:
        found = [outcome(names[0]), outcome(names[1], status="broken", why="memory comes back")]
        for one in found:
            tell(one)
        return found

    monkeypatch.setattr(report.cuda, "unavailable", lambda: "")
    monkeypatch.setattr(report.device, "tensorrt_version", lambda: ("", "not installed"))
    monkeypatch.setattr(child, "run_all", run_all)
    out = tmp_path / "report.json"
    assert report.main(["--only", "cuda.context", "--only", "cuda.buffers", "-o", str(out)]) == 1
    assert "Not as the code expects: cuda.buffers" in capsys.readouterr().out
    assert jsonfile.read(out, report.SCHEMA)["summary"]["broken"] == 1


def test_an_interrupt_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(report.cuda, "unavailable", lambda: "")
    monkeypatch.setattr(report.device, "tensorrt_version", lambda: ("", "not installed"))
    monkeypatch.setattr(child, "run_all", run_all)
    assert report.main(["-o", str(tmp_path / "report.json")]) == 130
    assert not list(tmp_path.iterdir())


def test_names_of_cases_stay_whoever_the_user_is() -> None:
    cases = [outcome("build.fp32", told={"outcome": ["build of marie"]}, seen={"x": float("nan")})]
    made = report.assemble({}, cases, "8.5.2.2", "", {"user": ["build", "marie", "held"]})
    assert made["cases"][0]["name"] == "build.fp32" and made["cases"][0]["status"] == "held"
    assert made["cases"][0]["told"] == {"outcome": ["<user> of <user>"]} and made["cases"][0]["seen"] == {"x": None}
    jsonfile.dumps(made)


def test_facts_hold_what_is_named_and_no_more() -> None:
    found = report.facts()
    assert set(found) == {"machine", "packages", "board", "power"}
    assert not {"hostname", "user", "serial"} & set(redact.tree(found, {})["machine"])
    assert set(found["board"]) == set(report._BOARD)


CHILD = """
import json, os, sys, time
names = [word for word in sys.argv[1:] if not word.startswith("-")]
for name in names:
    print(json.dumps({"begin": name}), flush=True)
    if name == "dies":
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), 11)
    if name == "hangs":
        time.sleep(600)
    print(json.dumps({"outcome": {"name": name, "status": "held"}}), flush=True)
"""


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of the one that runs cases."""
    (tmp_path / "__main__.py").write_text(CHILD)
    monkeypatch.setattr(child, "_HERE", tmp_path)
    return tmp_path


def test_a_case_that_ends_its_process_is_an_outcome_and_the_others_run(cases: Path) -> None:
    told: List[Any] = []
    found = child.run_all(["one", "dies", "two", "hangs", "three"], False, told.append, limit_s=3)
    assert [(one["name"], one["status"]) for one in found] == [
        ("one", "held"),
        ("dies", "crashed"),
        ("two", "held"),
        ("hangs", "timeout"),
        ("three", "held"),
    ]
    assert found == told
    assert found[1]["why"] == "ended by SIGSEGV: the last words" and found[3]["why"] == "not done after 3 s"


def test_a_process_that_does_not_start_is_tried_once(cases: Path) -> None:
    (cases / "__main__.py").write_text("raise SystemExit('no module named x')")
    found = child.run_all(["one", "two"], False, lambda outcome: None)
    assert [one["status"] for one in found] == ["crashed", "crashed"]
    assert found[1]["why"] == "ended with 1: no module named x"


@pytest.mark.parametrize(
    "made",
    [
        {"schema": "optimize.device-report/2", "cases": [], "tensorrt": ""},
        {"schema": report.SCHEMA, "cases": {}, "tensorrt": ""},
        {"schema": report.SCHEMA, "cases": [], "tensorrt": None},
        {"schema": report.SCHEMA, "cases": [{"name": "a"}], "tensorrt": ""},
        {"schema": report.SCHEMA, "cases": [7], "tensorrt": ""},
    ],
)
def test_a_file_that_is_no_report_is_refused(made: Any, tmp_path: Path) -> None:
    jsonfile.write(tmp_path / "report.json", made)
    with pytest.raises(DamagedError):
        replay.read(tmp_path / "report.json")
