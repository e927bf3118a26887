"""What only a host can do wrong, against OpenSSH's own server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, List

import pytest

from engines.errors import OptimizeError
from optimize.ship import triton
from optimize.ship.repository.place import open_repository
from tests.servers.sshd import Sshd

pytest.importorskip("tritonclient.grpc")


class Cut(Exception):
    """Stops a transfer."""


def test_a_version_is_hidden_until_it_is_whole_and_an_interrupted_upload_goes_on(
    ssh: Sshd, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    source, target = bundle(5 << 20), f"triton:{ssh.url}{tmp_path}/models"
    (model,) = triton._models(source, "m", 100)
    seen: List[List[str]] = []

    def stop(count: int) -> None:
        seen.append(sorted(path.name for path in (tmp_path / "models").glob("m/*")))
        if count > 5 << 20:
            raise Cut

    repository = open_repository(target)
    with pytest.raises(Cut):
        repository.add("m", 1, model.files, stop, 0)
    repository.close()
    assert seen and all(name.startswith(".1.") for names in seen for name in names)
    moved: List[int] = []
    repository = open_repository(target)
    repository.add("m", 1, model.files, moved.append, 0)
    assert moved[0] >= 5 << 20, "the large file was there"
    repository.close()
    assert [path.name for path in (tmp_path / "models/m").iterdir()] == ["1"]
    assert (tmp_path / "models/m/1/model.bin").read_bytes() == (source / "model.bin").read_bytes()
    assert (tmp_path / "models/m/1").stat().st_mode & 0o777 == 0o755


def test_a_version_that_another_has_written_meanwhile_is_not_touched(
    ssh: Sshd, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    (model,) = triton._models(bundle(), "m", 100)
    (tmp_path / "models/m/1").mkdir(parents=True)
    repository = open_repository(f"triton:{ssh.url}{tmp_path}/models")
    with pytest.raises(OptimizeError, match="was written by another meanwhile"):
        repository.add("m", 1, model.files, lambda count: None, 0)
    repository.close()
    assert list((tmp_path / "models/m/1").iterdir()) == []


def test_what_another_began_in_the_hidden_folder_does_not_stay_in_the_version(
    ssh: Sshd, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    (model,) = triton._models(bundle(), "m", 100)

    def begin(count: int) -> None:
        for hidden in (tmp_path / "models/m").glob(".1.*.part"):
            (hidden / ".model.bin.part").write_bytes(b"x")

    repository = open_repository(f"triton:{ssh.url}{tmp_path}/models")
    repository.add("m", 1, model.files, begin, 0)
    assert repository.holds("m", 1, model.files)
    repository.close()


def test_what_was_left_a_day_ago_is_removed(ssh: Sshd, tmp_path: Path) -> None:
    old, young = tmp_path / "models/m/.1.0.part", tmp_path / "models/m/.2.0.part"
    for folder, age in ((old, 90_000), (young, 80_000)):
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(b"x")
        os.utime(folder, (time.time() - age, time.time() - age))
    repository = open_repository(f"triton:{ssh.url}{tmp_path}/models")
    assert repository.versions("m") == []
    repository.close()
    assert not old.exists() and young.exists()
