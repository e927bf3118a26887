"""A disk that is full or fails: the refusal says so, the old version or the new one is active, and nothing is torn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from tests.crash.test_kills import spread
from tests.crash.worlds import CALLS, CASES, Case, Runner, World, run_again

WorldOf = Callable[[Case], World]

TRACE = "trace=" + ",".join(f"?{name}" for name in ("openat", *CALLS))

WORDS = re.compile("no space left|disk failed|too large|cannot be written|input/output error", re.I)
"""What a refusal must say."""


def faults(found: List[Tuple[str, int, str]]) -> List[Tuple[str, int, str]]:
    """Each call that can fail for want of space, and each sync that can fail, with the error it gets."""
    full = [f for f in found if f[0] != "openat" or "O_CREAT" in f[2]]
    kinds = {"fsync": "EIO", "fdatasync": "EIO"}
    gone = ("unlink", "unlinkat", "rmdir", "ftruncate")  # these never want space
    return [(name, which, kinds.get(name, "ENOSPC")) for name, which, _ in full if name not in gone]


def fail_at(runner: Runner, world: World, name: str, most: int, tmp_path: Path, record_property: Any) -> None:
    case = CASES[name]
    told = {"place": str(world.place), **case.arguments(world)}
    found = runner.census(tmp_path / "log", case.operation, fails="health" in told, trace=TRACE, **told)
    points = spread(faults(found), most)
    refused = 0
    for call, which, error in points:
        world.reset()
        case.prepare(world)
        inject = f"inject={call}:error={error}:when={which}"
        done = runner(case.operation, strace=["-o", "/dev/null", "-e", f"trace={call}", "-e", inject], **told)
        assert not done["killed"]
        world.sound(case.allowed(world))
        if done["error"] is not None and not (case.ends and case.ends in done["error"]["message"]):
            assert done["error"]["exit_code"] in (1, 4) and WORDS.search(done["error"]["message"]), (call, which, done)
            refused += 1
        run_again(runner, world, case, told)
    assert refused
    record_property("count", [f"calls that failed in {name} (disk full, or failing to sync)", len(points)])


@pytest.mark.parametrize("name", ["activate", "pull"])
def test_some_calls_that_fail(
    runner: Runner, world_of: WorldOf, name: str, tmp_path: Path, record_property: Any
) -> None:
    fail_at(runner, world_of(CASES[name]), name, 6, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_call_that_fails(
    runner: Runner, world_of: WorldOf, name: str, tmp_path: Path, record_property: Any
) -> None:
    fail_at(runner, world_of(CASES[name]), name, 1 << 20, tmp_path, record_property)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB: what `pull` keeps free, and a little more."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", ["activate", "pull"])
@pytest.mark.parametrize("left", [0, 4096])
def test_a_disk_that_is_full(runner: Runner, world_of: WorldOf, small_disk: Path, name: str, left: int) -> None:
    case = CASES[name]
    world = world_of(case)
    shutil.move(str(world.place), str(small_disk / "node"))
    world.place = small_disk / "node"
    told = {"place": str(world.place), **case.arguments(world)}
    with open(small_disk / "ballast", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(small_disk).free - left)
    done = runner(case.operation, **told)
    if done["error"] is not None:
        assert done["error"]["exit_code"] == 1 and "no space left" in done["error"]["message"], done
    world.sound({world.old} if done["error"] else case.allowed(world))
    assert done["error"] or left
    (small_disk / "ballast").unlink()
    run_again(runner, world, case, told)


@pytest.mark.parametrize("most", [0, 200, 1000, 3000])
def test_a_limit_on_the_size_of_files(runner: Runner, world_of: WorldOf, most: int) -> None:
    case = CASES["activate"]
    world = world_of(case)
    told = {"place": str(world.place), **case.arguments(world)}
    done = runner(case.operation, limits={"RLIMIT_FSIZE": most}, **told)
    assert done["error"] is None or WORDS.search(done["error"]["message"]), done
    world.sound(case.allowed(world))
    run_again(runner, world, case, told)


@pytest.mark.parametrize(
    "inject, words",
    [
        ("?symlink,?symlinkat:error=EPERM", "no symbolic links"),
        ("flock:error=EOPNOTSUPP", "no locks"),
    ],
)
def test_a_file_system_without_links_or_locks_is_refused(
    runner: Runner, tmp_path: Path, inject: str, words: str
) -> None:
    names = inject.split(":")[0]
    options = ["-o", "/dev/null", "-e", f"trace={names}", "-e", f"inject={inject}"]
    done = runner("mend", place=str(tmp_path / "node"), strace=options)
    assert done["error"]["exit_code"] == 4 and words in done["error"]["message"], done


def test_a_read_only_node_is_read_and_not_written(runner: Runner, world_of: WorldOf, small_disk: Path) -> None:
    case = CASES["activate"]
    world = world_of(case)
    shutil.move(str(world.place), str(small_disk / "node"))
    world.place = small_disk / "node"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    world.sound({world.old})
    done = runner(case.operation, place=str(world.place), **case.arguments(world))
    assert done["error"]["exit_code"] == 4 and "cannot be written" in done["error"]["message"], done
