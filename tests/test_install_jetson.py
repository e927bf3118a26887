"""install-jetson.sh on made-up boards: its commands are real, the board's Python and pip note what they are asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOARDS = Path(__file__).resolve().parent / "boards"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a script for Linux boards")

# A Python of another version with another set of packages. What `-c` gives it runs for real; pip only notes the line.
PYTHON = """#!{executable} -S
import os, pathlib, sys, sysconfig
board = pathlib.Path({board!r})
here = pathlib.Path(__file__).absolute().parent.parent
venv = (here / "pyvenv.cfg").exists()
sys.path[:0] = [str(here / "site")] * venv + [str(board / "packages")]
words = sys.argv[1:]
if words[0] == "-c":
    if "version_info" in words[1]:
        print((board / "version").read_text())
        sys.exit()
    true = sysconfig.get_paths
    sysconfig.get_paths = lambda *words: {{**true(*words), "include": str(board / "usr/include")}}
    sys.argv = words[1:]
    exec(words[1], {{}})
elif words[:2] == ["-m", "venv"]:
    made = pathlib.Path(words[-1])
    for folder in ("bin", "site"):
        (made / folder).mkdir(parents=True, exist_ok=True)
    (made / "bin/python").write_text(pathlib.Path(__file__).read_text())
    (made / "bin/python").chmod(0o755)
    (made / "pyvenv.cfg").write_text("include-system-site-packages = true\\n")
elif words[:2] == ["-m", "pip"]:
    for word in words:
        name, _, version = word.partition("==")
        if version:
            folder = here / "site" / f"{{name}}-{{version}}.dist-info"
            folder.mkdir(exist_ok=True)
            (folder / "METADATA").write_text(f"Name: {{name}}\\nVersion: {{version}}\\n")
    if (board / "pip-brings-tensorrt").exists():
        (here / "site/tensorrt.py").write_text("")
    if (board / "pip-fails").exists():
        sys.exit(1)
with (board / "log").open("a") as log:
    print(*words, "CUDA_ROOT=" + os.environ.get("CUDA_ROOT", ""), "PATH=" + os.environ["PATH"].split(":")[0], file=log)
"""


class Board:
    """A board's files and the commands on it."""

    def __init__(self, folder: Path, name: str, version: str) -> None:
        self.root = folder / "board"
        self.venv = folder / "venv"
        shutil.copytree(str(BOARDS / name / "etc"), str(self.root / "etc"))
        (self.root / "version").write_text(version)
        self.package("tensorrt", "8.5.2.2")
        (self.root / "packages/tensorrt").mkdir()
        (self.root / "packages/tensorrt/__init__.py").write_text("raise ImportError('not loaded by the script')")
        for path in ("usr/include/Python.h", "commands/c++", "usr/local/cuda/bin/nvcc"):
            self.command(path, "#!/bin/sh\n")
        self.command("usr/bin/python3", PYTHON.format(executable=sys.executable, board=str(self.root)))
        self.command("commands/dpkg-query", "#!/bin/sh\nexit 1\n")

    def command(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def package(self, name: str, version: str) -> None:
        folder = self.root / "packages" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")

    def install(self, *words: str) -> Any:
        path = f"{self.root / 'commands'}:/usr/bin:/bin"
        environment = {"PATH": path, "OPTIMIZE_BOARD_ROOT": str(self.root), "HOME": os.environ.get("HOME", "/")}
        line = ["bash", str(ROOT / "install-jetson.sh"), "--venv", str(self.venv), *words]
        return subprocess.run(line, capture_output=True, text=True, env=environment)

    @property
    def pip(self) -> List[str]:
        log = self.root / "log"
        return [line for line in log.read_text().splitlines() if line.startswith("-m pip")] if log.exists() else []


@pytest.fixture
def nano(tmp_path: Path) -> Board:
    return Board(tmp_path, "orin-nano-jp5.1.2", "3.8")


@pytest.mark.parametrize(
    ("name", "python", "constraints"),
    [
        ("orin-nano-jp5.1.2", "3.8", "jetpack5"),
        ("orin-nano-jp6.2", "3.10", "jetpack6"),
        ("agx-orin-jp6.1", "3.10", "jetpack6"),
        ("xavier-nx-jp5", "3.8", "jetpack5"),
        ("thor-jp7", "3.12", "jetpack7"),
    ],
)
def test_a_dry_run_says_everything_and_changes_nothing(
    tmp_path: Path, name: str, python: str, constraints: str
) -> None:
    board = Board(tmp_path, name, python)
    done = board.install("--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"constraints/{constraints}.txt, Python {python}" in done.stdout
    assert f"{board.venv}/bin/optimize doctor" in done.stdout and "nothing was changed" in done.stdout
    assert "-m venv --system-site-packages" in done.stdout and "pycuda" in done.stdout
    assert not board.venv.exists() and not board.pip


def test_installs_with_the_pins_and_asks_pip_for_no_tensorrt(nano: Board) -> None:
    done = nano.install()
    assert done.returncode == 0, done.stderr
    held = (nano.venv / "constraints.txt").read_text().splitlines()
    assert {"numpy==1.23.5", "pycuda==2022.2.2", "tensorrt==8.5.2.2", "tensorflow==2.12.0+nv23.06"} <= set(held)
    assert not any(line.startswith("tensorflow-cpu") for line in held)
    assert all(f"-c {nano.venv}/constraints.txt" in line for line in nano.pip[1:])
    assert not any("tensorrt" in line.split("PATH=")[0].replace("constraints", "") for line in nano.pip)
    (pycuda,) = [line for line in nano.pip if " pycuda" in line]
    cuda = nano.root / "usr/local/cuda"
    assert "--no-build-isolation" in pycuda
    assert f"CUDA_ROOT={cuda} " in pycuda and pycuda.endswith(f"PATH={cuda}/bin")
    (tensorflow,) = [line for line in nano.pip if "tensorflow==" in line]
    assert "/jp/v512 tensorflow==2.12.0+nv23.06" in tensorflow
    assert f"-e {ROOT}[openvino,report,tensorflow]" in nano.pip[-1]


def test_a_second_run_keeps_environment_and_tensorflow(nano: Board) -> None:
    assert nano.install().returncode == 0
    first = len(nano.pip)
    done = nano.install()
    assert done.returncode == 0, done.stderr
    assert "is there and sees JetPack's packages" in done.stdout
    assert "tensorflow 2.12.0+nv23.06 is there and stays" in done.stdout
    assert not any("tensorflow==" in line for line in nano.pip[first:])


def test_a_tensorflow_of_another_release_is_held(nano: Board) -> None:
    nano.package("tensorflow", "2.11.0+nv23.03")
    done = nano.install()
    assert done.returncode == 0, done.stderr
    assert "tensorflow==2.11.0+nv23.03" in (nano.venv / "constraints.txt").read_text().splitlines()
    assert not any("tensorflow==" in line for line in nano.pip)


def test_no_tensorflow_if_asked(nano: Board) -> None:
    assert nano.install("--no-tensorflow").returncode == 0
    assert nano.pip[-1].startswith("-m pip install") and "[openvino,report]" in nano.pip[-1]
    assert not any("tensorflow==" in line for line in nano.pip)


def test_jetpack7_has_none_of_nvidias(tmp_path: Path) -> None:
    thor = Board(tmp_path, "thor-jp7", "3.12")
    done = thor.install()
    assert done.returncode == 0 and "without CUDA" in done.stdout
    assert "[openvino,report,tensorflow]" in thor.pip[-1]
    assert not any("extra-index-url" in line for line in thor.pip)


def test_an_environment_that_hides_jetpack_is_made_again_over_it(nano: Board) -> None:
    assert nano.install().returncode == 0
    (nano.venv / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    (nano.venv / "mine").write_text("stays")
    assert nano.install().returncode == 0
    assert "true" in (nano.venv / "pyvenv.cfg").read_text() and (nano.venv / "mine").exists()


def test_l4t_is_asked_of_dpkg_where_the_file_is_missing(nano: Board) -> None:
    (nano.root / "etc/nv_tegra_release").unlink()
    nano.command("commands/dpkg-query", "#!/bin/sh\necho 35.6.1-20250117000000\n")
    done = nano.install("--dry-run")
    assert done.returncode == 0 and "L4T 35.6.1: constraints/jetpack5.txt" in done.stdout


@pytest.mark.parametrize(
    ("breaks", "why", "mend"),
    [
        ("etc/nv_tegra_release", "this is no Jetson", "make setup"),
        ("usr/local/cuda/bin/nvcc", "no nvcc", "sudo apt install nvidia-jetpack"),
        ("packages/tensorrt/__init__.py", "has no tensorrt", "sudo apt install python3-libnvinfer"),
        ("usr/include/Python.h", "no Python.h", "sudo apt install python3-dev"),
        ("usr/bin/python3", "no /usr/bin/python3", "sudo apt install python3"),
    ],
)
def test_what_is_missing_stops_it_before_anything_is_changed(nano: Board, breaks: str, why: str, mend: str) -> None:
    (nano.root / breaks).unlink()
    if breaks.startswith("packages"):
        (nano.root / breaks).parent.rmdir()
    done = nano.install()
    assert done.returncode == 4
    assert why in done.stderr and mend in done.stderr
    assert not nano.venv.exists() and not nano.pip


@pytest.mark.parametrize(
    ("name", "python", "why"), [("nano-jp4", "3.6", "JetPack 4"), ("thor-jp7", "3.11", "for 3.12")]
)
def test_refuses_a_board_or_python_that_cannot(tmp_path: Path, name: str, python: str, why: str) -> None:
    done = Board(tmp_path, name, python).install()
    assert done.returncode == 4 and why in done.stderr


def test_an_environment_of_another_python_is_not_touched(nano: Board) -> None:
    assert nano.install().returncode == 0
    other = (nano.venv / "bin/python").read_text().replace('(board / "version").read_text()', '"3.11"')
    (nano.venv / "bin/python").write_text(other)
    done = nano.install()
    assert done.returncode == 4 and "is of Python 3.11, not 3.8" in done.stderr


def test_a_failing_pip_ends_it_with_a_word(nano: Board) -> None:
    (nano.root / "pip-fails").write_text("")
    done = nano.install()
    assert done.returncode == 1 and "run this again" in done.stderr
    assert len(nano.pip) == 0


def test_a_tensorrt_that_pip_brought_is_found(nano: Board) -> None:
    (nano.root / "pip-brings-tensorrt").write_text("")
    done = nano.install()
    assert done.returncode == 1 and "hides JetPack's" in done.stderr and "pip uninstall tensorrt" in done.stderr


@pytest.mark.parametrize("words", [["--venv"], ["--nonsense"]])
def test_usage(nano: Board, words: List[str]) -> None:
    assert nano.install(*words).returncode == 2


def test_help(nano: Board) -> None:
    done = nano.install("--help")
    assert done.returncode == 0 and "--dry-run" in done.stdout and "can be run again" in done.stdout
