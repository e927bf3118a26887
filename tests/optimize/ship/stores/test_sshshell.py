"""Questions to every POSIX shell of this machine, without an SSH between."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator, List

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimize.ship.stores import sshshell

SHELLS = [["sh"], ["dash"], ["bash"], ["busybox", "sh"], ["ksh"]]


@contextlib.contextmanager
def begun(command: List[str], before: str = "") -> Iterator[sshshell.Shell]:
    def start(script: str) -> subprocess.Popen[bytes]:
        words = [*command, "-c", f"LC_ALL=C; export LC_ALL; {before}{script}"]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    shell = sshshell.Shell(start)
    with contextlib.suppress(BrokenPipeError), shell.process as process:
        assert process.stdout and process.stdout.readline() == sshshell.GREETING
        yield shell


@pytest.fixture(params=[shell for shell in SHELLS if shutil.which(shell[0])], ids=" ".join)
def shell(request: pytest.FixtureRequest) -> Iterator[sshshell.Shell]:
    with begun(request.param) as shell:
        yield shell


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_input_comes_back_as_it_went(shell: sshshell.Shell, data: bytes) -> None:
    assert shell.ask("cat", (), data, 300) == data


def test_every_byte_and_what_looks_like_an_option_pass(shell: sshshell.Shell) -> None:
    for data in (bytes(range(256)), b"-v %s %n", b"\\0101\n\n", b"{}{0}", b"'; exit 3; '"):
        assert shell.ask("cat", (), data, 256) == data


def test_arguments_of_any_form_are_words(shell: sshshell.Shell) -> None:
    words = ("-rf", "a b", "it's", 'say "no"', "$(exit 3)", "*", "&& exit 3", "ümlaut", "", "{0}", "back\\slash")
    assert shell.ask('printf "<%s>" "$@"', words, b"", 200) == "".join(f"<{word}>" for word in words).encode()


def test_a_question_knows_nothing_of_the_one_before(shell: sshshell.Shell, tmp_path: Path) -> None:
    assert shell.ask('cd "$1" && x=1 && set -e && exec 2>&1 && pwd', (str(tmp_path),), b"", 500)
    assert shell.ask('echo "$x$1$PWD"', (), b"", 500) == f"{os.getcwd()}\n".encode()


def test_what_fails_has_no_answer_and_the_next_question_has(shell: sshshell.Shell) -> None:
    for script in ("exit 1", "no-such-program", "echo all; false", "cat /nonexistent"):
        assert shell.ask(script, (), b"", 100) is None
    assert shell.ask("echo well", (), b"", 100) == b"well\n"


def test_more_than_was_asked_for_is_no_answer(shell: sshshell.Shell) -> None:
    assert shell.ask("echo 12345", (), b"", 5) is None
    assert shell.ask("echo 1234", (), b"", 5) == b"1234\n"
    assert shell.ask("while :; do echo more; done", (), b"", 1000) is None
    assert shell.ask("echo 1234", (), b"", 5) is None  # the rest of the last answer stands in the way


def test_much_input_is_told_and_taken_to_its_end_though_the_script_ends_before(shell: sshshell.Shell) -> None:
    data = os.urandom(1_000_000)
    told: List[int] = []
    answer = shell.ask("sha256sum", (), data, 100, told.append)
    assert answer is not None and answer.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert told == sorted(told) and told[-1] == len(data)
    assert shell.ask("exit 1", (), data, 100) is None
    assert shell.ask("echo well", (), data, 100) == b"well\n"


def test_a_newline_in_a_word_is_not_asked(shell: sshshell.Shell) -> None:
    assert shell.ask("echo", ("a\nb",), b"", 100) is None
    assert shell.ask("echo well", (), b"", 100) == b"well\n"


def test_a_shell_that_is_gone_has_no_answer(shell: sshshell.Shell) -> None:
    shell.process.kill()
    shell.process.wait()
    assert shell.ask("echo", (), b"", 100) is None
    assert shell.ask("echo", (), b"", 100) is None


def test_a_line_that_was_cut_short_is_not_run(shell: sshshell.Shell, tmp_path: Path) -> None:
    assert shell.process.stdin
    shell.process.stdin.write(f"{shell._token} touch {tmp_path}/half".encode())
    shell.process.stdin.close()
    shell.process.wait()
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("head", ["head() { return 1; }; ", "head() { return 0; }; "])
def test_input_that_nobody_took_is_never_run(head: str, tmp_path: Path) -> None:
    with begun(["sh"], head) as shell:
        data = f"touch {tmp_path}/run\n".encode() * 100
        shell.ask("cat", (), data, 100)
        assert shell.ask("echo", (), b"", 100) is None
        assert shell.process.wait() != 0
    assert not (tmp_path / "run").exists()


def test_a_host_without_od_has_no_answer() -> None:
    with begun(["sh"], "od() { return 1; }; ") as shell:
        assert shell.ask("echo", (), b"", 100) is None
