"""Real loads, of both makes: they run, are told, and are gone afterwards, however that comes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import psutil
import pytest

from bench import runs
from bench.interference import Kind, interfering, kinds, sizes, stressng
from engines import scratch
from engines.errors import OptimizeError, UsageError

pytestmark = pytest.mark.journey

ROOT = Path(__file__).resolve().parents[3]

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(params=["own", "stress-ng"])
def program(request: pytest.FixtureRequest) -> str:
    if request.param == "own":
        return ""
    if not stressng.find():
        pytest.skip("stress-ng is not installed")
    return stressng.find()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Temporary files lie in a folder of this test, and nothing of it is left; so are no processes."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(scratch, "_swept", set())  # another test's folder may have had the same name
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield folder
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert list(folder.iterdir()) == []


def family() -> List[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def gone(pids: List[int]) -> bool:
    """Whether all end before long."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = []
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    left.append(pid)
        if not left:
            return True
        time.sleep(0.05)
    return False


def test_nothing_asked_is_nothing_run():
    with interfering([]) as told:
        assert told is None and family() == []


def test_all_kinds_run_and_say_what_they_are(program: str, make_run: Any):
    seen: List[Any] = []
    with interfering(kinds("cpu:50,memory:1,io:1"), lambda *words: seen.append(words), program=program) as told:
        assert told is not None
        pids = [one.pid for one in family()]
        groups = {os.getpgid(pid) for pid in pids}
        assert os.getpgid(0) not in groups and len(groups) >= 3
        assert [load["cpus"] for load in told["loads"]] == [None] * 3
        time.sleep(0.5)
    assert gone(pids)
    assert told["kinds"] == "cpu:50,memory:1,io:1"
    assert [(load["kind"], load["amount"]) for load in told["loads"]] == [("cpu", 50), ("memory", 1), ("io", 1)]
    assert {load["tool"] for load in told["loads"]} == {"stress-ng" if program else "own"}
    assert all(load["version"] and load["settings"]["workers"] >= 1 for load in told["loads"])
    assert all(load["cpus"] >= 0 for load in told["loads"]) and told["loads"][0]["cpus"] > 0
    assert "50% of the time" in told["words"] and "MiB" in told["words"]
    assert seen == [("background load", done, 3) for done in range(4)]
    run = make_run()
    run["rows"][0]["interference"] = told
    runs.validate(run)


def test_an_error_inside_ends_the_loads(program: str):
    with pytest.raises(ZeroDivisionError), interfering([Kind("cpu", 25)], program=program):
        pids = [one.pid for one in family()]
        assert pids
        raise ZeroDivisionError
    assert gone(pids)


@POSIX
def test_a_load_that_dies_early_spoils_the_measurement(program: str):
    with pytest.raises(OptimizeError, match="background load memory:2 has ended early"), interfering(
        [Kind("cpu", 25), Kind("memory", 2)], program=program
    ) as told:
        assert told is not None
        leaders = psutil.Process().children()
        last = leaders[-1].children()[0] if program else leaders[-1]
        last.send_signal(signal.SIGKILL)
        assert gone([last.pid])


@POSIX
def test_an_error_inside_goes_before_a_load_that_has_died():
    with pytest.raises(ZeroDivisionError), interfering([Kind("cpu", 25)], program=""):
        one = family()[0]
        one.kill()
        assert gone([one.pid])
        raise ZeroDivisionError


PARENT = """
    import signal, sys, time
    import psutil
    from bench.interference import interfering, kinds

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with interfering(kinds("cpu:25,io"), program=sys.argv[1]) as told:
        print(*[one.pid for one in psutil.Process().children(recursive=True)], flush=True)
        time.sleep(60)
"""


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_they_end_with_a_parent_that_is_ended(program: str, name: str, small: Path):
    if name == "SIGKILL" and sys.platform != "linux" and program:
        pytest.skip("only Linux ends stress-ng with its parent")
    command = [sys.executable, "-c", textwrap.dedent(PARENT), program]
    parent = subprocess.Popen(command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) >= 2
    parent.send_signal(getattr(signal, name))
    parent.wait(30)
    parent.stdout.close()
    assert gone(pids)
    if name == "SIGKILL":  # the next of ours sweeps
        assert list(small.iterdir())
        with interfering([Kind("io", 1)], program=""):
            pass
    else:
        assert parent.returncode in (-signal.SIGINT, 1, 128 + signal.SIGTERM)


@pytest.mark.parametrize("asked", ["file", "missing"])
def test_a_folder_that_is_none_is_refused(asked: str, tmp_path: Path, program: str):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError), interfering([Kind("io", 1)], folder=tmp_path / asked, program=program):
        pytest.fail("it runs")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path, program: str):
    denied = tmp_path / "denied"
    denied.mkdir(0o500)
    with pytest.raises(PermissionError), interfering([Kind("io", 1)], folder=denied, program=program):
        pytest.fail("it runs")


@pytest.fixture()
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_is_refused_before(tiny: Path, program: str):
    with pytest.raises(UsageError, match="io:1 writes 64 MiB"), interfering(
        [Kind("io", 1)], folder=tiny, program=program
    ):
        pytest.fail("it runs")


def test_a_disk_that_fills_up_is_told(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sizes, "check_disk", lambda folder, workers: None)
    with pytest.raises(OptimizeError, match=r"io:1 .*: no space left on the disk"), interfering(
        [Kind("io", 1)], folder=tiny, program=""
    ):
        assert gone([one.pid for one in family()])


@POSIX
def test_a_program_that_does_not_run_says_why(tmp_path: Path):
    other = tmp_path / "stress-ng"
    version = '[ "$1" = --version ] && echo "stress-ng, version 0.1 (gcc)" && exit'
    other.write_text(f"#!/bin/sh\n{version}\necho no such option >&2\nexit 2\n")
    other.chmod(0o755)
    with pytest.raises(OptimizeError, match="cpu:25 does not run: no such option"), interfering(
        [Kind("cpu", 25)], program=str(other)
    ):
        pytest.fail("it runs")


@pytest.mark.parametrize("other", [sys.executable, "/bin/true", "/nowhere/stress-ng"])
def test_what_is_not_stress_ng_is_not_taken_for_it(other: str):
    assert stressng.version(other) == ""


def test_files_of_the_user_do_not_shadow_ours(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("bench.py", "engines.py", "json.py", "random.py", "numpy.py"):
        (hostile / name).write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(hostile)
    monkeypatch.syspath_prepend(str(hostile))
    with interfering([Kind("cpu", 25)], program=program) as told:
        assert told is not None


def test_the_facts_of_a_load_are_what_was_started(program: str):
    with interfering([Kind("cpu", 25)], program=program) as told:
        assert told is not None
        (load,) = told["loads"]
        words: Dict[str, Any] = load["settings"]
        assert words["workers"] == len(sizes.cores())
        commands = [" ".join(one.cmdline()) for one in family()]
        if program:
            assert "--cpu-load=25" in words["options"] and any("--cpu-load=25" in command for command in commands)
        else:
            assert words["percent"] == 25 and len(commands) == words["workers"]
