"""The entry point: Ctrl-C however early, output that nobody reads, and terminals that cannot show everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

import pytest

from tests.terminal import await_reading

ROOT = Path(__file__).resolve().parents[3]
CODE = "import sys; sys.path[0] = sys.argv.pop(1); from optimize.cli import main; main()"
posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and locales of POSIX")

INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell runs the tests in the background

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == WHEN:
            os.kill(os.getpid(), signal.SIGINT)

sys.path[0], WHEN = sys.argv.pop(1), sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
from optimize.cli import main
main()
"""


def run(words: List[str], code: str = CODE, shell: str = '"$@"', **more: object) -> subprocess.CompletedProcess:
    """The command, as a shell with these redirections starts it."""
    command = ["sh", "-c", f"exec {shell}", "sh", sys.executable, "-c", code, str(ROOT), *words]
    done = subprocess.run(command, **{"capture_output": True, "text": True, **more})
    assert "Traceback" not in (done.stderr or "") and "Exception ignored" not in (done.stderr or ""), done.stderr
    return done


@posix
@pytest.mark.parametrize("when", ["engines.scratch", "optimize.cli.app", "typer", "optimize.cli.zoo"])
def test_an_interrupt_while_the_command_is_imported(when: str) -> None:
    done = run([when, "--version"], INTERRUPTED)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("error: interrupted\n")
    done = run([when, "doctor", "--json"], INTERRUPTED)
    assert done.returncode == 130 and json.loads(done.stdout)["error"]["exit_code"] == 130


@posix
def test_an_interrupt_while_options_are_read(tmp_path: Path) -> None:
    """A configuration file that is a pipe keeps the command there until somebody writes; typer has its own answer."""
    os.mkfifo(tmp_path / "pipe.toml")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + CODE
    command = [sys.executable, "-c", code, str(ROOT), "doctor", "--config", "pipe.toml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    while process.poll() is None:
        try:
            writer = os.open(tmp_path / "pipe.toml", os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads yet
            time.sleep(0.02)
    await_reading(process)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out) == (130, b"") and errors.startswith(b"error: interrupted\n")


@posix
def test_an_interrupt_that_typer_has_caught_is_told() -> None:
    code = "import sys; sys.path[0] = sys.argv.pop(1); import typer; from optimize.cli import _usage; "
    done = run([], code + "_usage(typer.Abort())")
    assert done.returncode == 130 and done.stderr.startswith("error: interrupted\n")


def test_hardly_anything_is_imported_before_an_interrupt_is_expected() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import optimize.cli; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code, str(ROOT)], stdout=subprocess.PIPE, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "optimize", "optimize.cli"}


def test_help_loads_no_engines() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import optimize.cli.app; "
        "print(*sorted(name for name in sys.modules if name.startswith(('engines', 'bench', 'calib', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, text=True, check=True)
    light = {f"engines{part}" for part in ("", ".errors", ".open", ".spec", ".terminal", ".text")}
    assert set(done.stdout.split()) <= light, done.stdout


@posix
@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["zoo", "list"], 0), (["--help"], 0), (["nonsense"], 2)]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(words: List[str], code: int, closed: str) -> None:
    assert run(words, shell=f'"$@" {closed}').returncode == code


@posix
def test_a_file_does_not_get_the_number_of_a_closed_stream() -> None:
    code = (
        "import sys; sys.path[0] = sys.argv.pop(1); from optimize.cli import streams; streams.prepare(); "
        "sys.exit(open(sys.executable, 'rb').fileno())"
    )
    assert run([], code, shell='"$@" <&- >&- 2>&-').returncode > 2


@posix
@pytest.mark.parametrize(
    ("words", "code"),
    [(["--version"], 0), (["zoo", "list"], 0), (["zoo", "list", "--json"], 0), (["--help"], 0), (["nonsense"], 2)],
)
def test_a_reader_that_has_left_changes_no_exit_code(words: List[str], code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(words, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        assert done.returncode == code and (code or not done.stderr)
        assert run(words, capture_output=False, stdout=writer, stderr=writer).returncode == code
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["zoo", "list"]])
def test_a_full_disk_is_told(words: List[str]) -> None:
    done = run(words, shell='"$@" >/dev/full')
    assert done.returncode == 1 and "o space left" in done.stderr


LOCALES: Dict[str, Dict[str, str]] = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "told to be ascii": {"PYTHONIOENCODING": "ascii:strict"},
}


@posix
@pytest.mark.parametrize("locale", sorted(LOCALES))
def test_a_terminal_without_the_characters_ends_nothing(locale: str, tmp_path: Path) -> None:
    env = {**os.environ, **LOCALES[locale]}
    for words, code in ((["zoo", "list"], 0), (["inspect", "nö/✓"], 2), (["bäd"], 2), (["--bäd"], 2)):
        done = run(words, env=env, cwd=tmp_path, text=False, encoding="utf-8", errors="replace")
        assert done.returncode == code, done.stderr
        assert not code or done.stderr.startswith("error: ")
    code_for_all = "import sys; sys.path[0] = sys.argv.pop(1); from optimize.cli import streams; streams.prepare(); "
    done = run([], code_for_all + r"print('a\u2713b\udcc3c'); print('d\u2713', file=sys.stderr)", env=env)
    assert (done.stdout, done.stderr, done.returncode) == ("a?b?c\n", "d?\n", 0)
