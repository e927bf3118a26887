"""Reading a process while it lives, and ending it with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Iterator, List

import psutil
import pytest

from engines import process


@pytest.fixture
def started(tmp_path: Path) -> Iterator[List[subprocess.Popen]]:
    kept: List[subprocess.Popen] = []
    yield kept
    for one in kept:
        process.end(one, True)


def _start(tmp_path: Path, code: str, kept: List[subprocess.Popen]) -> subprocess.Popen:
    with open(tmp_path / "log.txt", "wb") as errors:
        kept.append(process.start([sys.executable, "-c", code], dict(os.environ), errors, True))
    return kept[-1]


def test_all_that_was_written_arrives_in_whole_lines(tmp_path: Path, started: List[subprocess.Popen]):
    code = "import sys\nfor i in range(20000): sys.stdout.write(f'line {i}\\n')\nsys.stdout.write('no end')"
    one = _start(tmp_path, code, started)
    assert [line.strip() for line in process.lines(one)] == [b"line %d" % i for i in range(20000)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
def test_a_fork_that_writes_for_ever_is_not_waited_for(tmp_path: Path, started: List[subprocess.Popen]):
    code = "import os\nif not os.fork():\n  while True: os.write(1, b'x\\n')\nos.write(1, b'first\\n')"
    assert b"first" in set(process.lines(_start(tmp_path, code, started)))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_ignores_the_polite_way_is_ended(
    tmp_path: Path, started: List[subprocess.Popen], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "_PATIENCE", 0.1)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    one = _start(tmp_path, code, started)
    assert next(process.lines(one)) == b"up"
    process.end(one, True)
    assert one.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_signals_are_passed_on_only_meanwhile_and_only_where_nobody_else_has_them(
    tmp_path: Path, started: List[subprocess.Popen]
):
    one = _start(tmp_path, "", started)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.passing_on(one, True):
            assert callable(signal.getsignal(signal.SIGTERM))
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        inside: List[object] = []

        def elsewhere() -> None:
            with process.passing_on(one, True):
                inside.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert inside == [signal.SIG_DFL]
    finally:
        signal.signal(signal.SIGHUP, before)


TWO = """
    import os, sys
    from engines import process

    command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    with open(os.devnull, "wb") as errors:
        two = [process.start(command, dict(os.environ), errors, True) for _ in range(2)]
    with process.passing_on(two[0], True):
        with process.passing_on(two[1], True):
            for one in two:
                assert next(process.lines(one)) == b"up"
            print(two[0].pid, two[1].pid, flush=True)
            try:
                two[0].wait()
            finally:
                for one in two:
                    process.end(one, True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_one_beside_another_stops_goes_on_and_ends_with_the_parent():
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(TWO)], cwd=str(root), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    two = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]

    def become(states: List[str]) -> bool:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if all(not one.is_running() or one.status() in states for one in two):
                return True
            time.sleep(0.02)
        return False

    parent.send_signal(signal.SIGTSTP)
    assert become([psutil.STATUS_STOPPED])
    parent.send_signal(signal.SIGCONT)
    assert become([psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING])
    assert all(one.is_running() for one in two)
    parent.terminate()
    assert parent.wait(30) == 128 + signal.SIGTERM
    parent.stdout.close()
    assert not any(one.is_running() for one in two)
    assert process._led == []
