"""Temporary folders: removed by their process, or by the next one where it was killed; nobody else's ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, Tuple

import pytest

from engines import scratch

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders there")

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from engines import scratch
with scratch.folder() as path:
    open(path + "/file", "w").write("full")
    print(path, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(tmp: Path) -> Iterator[Tuple[subprocess.Popen, Path]]:
    """Another process, and the folder that it has made."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(ROOT)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp)},
    )
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_empty_private_and_removed(tmp: Path):
    with scratch.folder() as path:
        assert Path(path).parent == tmp and not os.listdir(path)
        assert os.stat(path).st_mode & 0o777 == 0o700
        Path(path, "deep").mkdir()
        Path(path, "deep", "file").write_text("x")
    assert not os.path.exists(path)


def test_a_folder_may_be_made_elsewhere_and_what_was_left_there_is_swept(tmp: Path):
    place = tmp / "disk"
    place.mkdir()
    (place / "optimize-scratch-abcdefg3").mkdir()
    with scratch.folder(str(place)) as path:
        assert Path(path).parent == place and os.listdir(place) == [Path(path).name]
    assert not os.listdir(place)
    with pytest.raises(FileNotFoundError), scratch.folder(str(tmp / "none")):
        pass


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_has_is_not(
    tmp: Path, other: Tuple[subprocess.Popen, Path]
):
    process, folder = other
    with scratch.folder() as mine:
        scratch.sweep()
        assert (folder / "file").read_text() == "full" and os.path.isdir(mine)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert folder.exists()
        scratch.sweep()
        assert not folder.exists() and os.path.isdir(mine)


def test_the_first_folder_of_a_process_sweeps(
    tmp: Path, other: Tuple[subprocess.Popen, Path], monkeypatch: pytest.MonkeyPatch
):
    process, folder = other
    process.kill()
    process.wait()
    monkeypatch.setattr(scratch, "_swept", set())
    with scratch.folder():
        assert not folder.exists()


def test_a_sweep_leaves_what_is_not_such_a_folder(tmp: Path):
    kept = tmp / "kept"
    kept.mkdir()
    for name in (
        "optimize-results",
        "optimize-scratch-mine",
        "optimize-scratch-ABCDEFGH",
        "optimize-scratch-abcdefg1x",
    ):
        (tmp / name).mkdir()
    (tmp / "optimize-scratch-abcdefg1").write_text("a file")
    (tmp / "optimize-scratch-abcdefg2").symlink_to(kept)
    before = sorted(p.name for p in tmp.iterdir())
    scratch.sweep()
    assert sorted(p.name for p in tmp.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_stays(tmp: Path):
    (tmp / "optimize-scratch-abcdefgh").mkdir()
    os.chown(tmp / "optimize-scratch-abcdefgh", 12345, 12345)
    scratch.sweep()
    assert (tmp / "optimize-scratch-abcdefgh").is_dir()


def test_a_sweep_never_raises(tmp: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp / "not there"))
    scratch.sweep()


def test_a_folder_swept_before_it_was_locked_is_made_again(tmp: Path, monkeypatch: pytest.MonkeyPatch):
    """The sweep of another process, in the one moment in which it may take the folder of a live one."""
    make, made = tempfile.mkdtemp, []

    def swept_at_once(prefix: str, dir: str) -> str:  # noqa: A002  (tempfile's own word)
        made.append(make(prefix=prefix, dir=dir))
        if len(made) == 1:
            scratch.sweep()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept_at_once)
    with scratch.folder() as path:
        assert path == made[1] and os.path.isdir(path) and not os.path.exists(made[0])
