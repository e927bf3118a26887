"""What only a folder can hold, and two who write there at once."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

import optimize
from engines import jsonfile
from engines.errors import OptimizeError, UsageError
from optimize.ship import triton
from optimize.ship.repository.place import open_repository
from optimize.ship.stores.folder import FolderPlace

pytest.importorskip("tritonclient.grpc")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_two_who_ship_at_once_get_a_version_each(bundle: Callable[..., Path], tmp_path: Path) -> None:
    sources, target = [bundle(200_000) for _ in range(4)], f"triton:{tmp_path / 'models'}"
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda one: optimize.ship([one], to=target, name="m", limit=2_000_000), sources))
    versions = [one["models"][0]["version"] for one in done]
    assert sorted(versions) == [1, 2, 3, 4]
    for source, version in zip(sources, versions):
        there = tmp_path / "models/m" / str(version) / "model.bin"
        assert there.read_bytes() == (source / "model.bin").read_bytes()


def test_a_writer_finds_its_own_files_though_another_began_meanwhile(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    (model,) = triton._models(bundle(), "m", 100)
    first, second = (open_repository(f"triton:{tmp_path / 'models'}") for _ in range(2))
    first.add("m", 1, model.files, lambda count: [].extend(second.versions("m")), 0)  # as where there are no locks
    assert first.holds("m", 1, model.files)


def test_a_version_that_another_has_written_meanwhile_is_not_touched(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    ours, theirs = (next(iter(triton._models(bundle(), "m", 100))) for _ in range(2))
    repository = open_repository(f"triton:{tmp_path / 'models'}")
    begun = threading.Event()

    def moved(count: int) -> None:
        if not begun.is_set():
            begun.set()
            repository.add("m", 1, theirs.files, lambda count: None, 0)

    with pytest.raises(OptimizeError, match="was written by another meanwhile") as caught:
        repository.add("m", 1, ours.files, moved, 0)
    assert caught.value.hint and repository.holds("m", 1, theirs.files)
    assert [path.name for path in (tmp_path / "models/m").iterdir()] == ["1"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_ship_waits_for_another_that_writes(bundle: Callable[..., Path], tmp_path: Path) -> None:
    done: Any = []
    ship = threading.Thread(target=lambda: done.append(optimize.ship([bundle()], to=f"triton:{tmp_path}", name="m")))
    with FolderPlace(tmp_path, "").alone():
        ship.start()
        ship.join(0.5)
        assert ship.is_alive() and not (tmp_path / "m").exists()
    ship.join()
    assert done[0]["models"][0]["version"] == 1


@pytest.mark.parametrize("name", ["config.pbtxt", "labels.txt"])
@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_a_configuration_that_is_no_file_is_refused_before_anything_is_written(
    bundle: Callable[..., Path], tmp_path: Path, name: str, kind: str
) -> None:
    place = tmp_path / "models/m" / name
    place.parent.mkdir(parents=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("elsewhere")
    else:
        os.mkfifo(place)
    with pytest.raises(UsageError, match="is no plain file"):
        optimize.ship([bundle()], to=f"triton:{tmp_path / 'models'}", name="m")
    assert list((tmp_path / "models").rglob("*")) == [tmp_path / "models/m", place]


@pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "file"])
def test_a_model_that_is_no_folder_of_its_own_is_refused(
    bundle: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "theirs").mkdir()
    if kind == "file":
        (tmp_path / "models/m").write_text("theirs")
    else:
        (tmp_path / "models/m").symlink_to(tmp_path / ("theirs" if kind == "link to a folder" else "nowhere"))
    with pytest.raises(UsageError, match="not a model of its own"):
        optimize.ship([bundle()], to=f"triton:{tmp_path / 'models'}", name="m")
    assert not list((tmp_path / "theirs").iterdir()) and [one.name for one in (tmp_path / "models").iterdir()] == ["m"]


def test_a_repository_that_is_a_link_to_nothing_is_refused(bundle: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to("nowhere")
    with pytest.raises(UsageError, match="a link to nothing"):
        optimize.ship([bundle()], to=f"triton:{tmp_path / 'models'}", name="m")


def test_what_was_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), jsonfile.replacing_file(tmp_path / "m/config.pbtxt") as part:
        name = part.name
        raise KeyError
    (tmp_path / "m" / name).write_text("half")
    repository = open_repository(f"triton:{tmp_path}")
    assert repository.versions("m") == [] and (tmp_path / "m" / name).exists()
    os.utime(tmp_path / "m" / name, (0, 0))
    assert repository.versions("m") == [] and not (tmp_path / "m" / name).exists()
