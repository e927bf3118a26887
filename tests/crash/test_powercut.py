"""A node whose machine loses power at any moment: what was not synced may be gone, and one whole version is active."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import pytest

from optimize.ship import node
from tests.crash import powercut
from tests.crash.worlds import CASES, Case, Runner, World, run_again

WorldOf = Callable[[Case], World]
State = Dict[str, Tuple[str, bytes]]


def states_of(
    runner: Runner, world: World, case: Case, told: Dict[str, Any], folder: Path, log: Path
) -> Tuple[List[State], int]:
    """The different folders that a cut during an operation may leave, and how many moments were cut."""
    disk = powercut.Disk(folder)
    options = ["-o", str(log), "-xx", "-s", str(powercut.LONGEST), "-e", powercut.TRACE]
    done = runner(case.operation, strace=options, **told)
    assert (done["error"] is not None) == ("health" in told), done
    lines = log.read_text().splitlines()
    pid = lines[0].split()[0]
    found: Dict[str, State] = {}
    moments = 0
    for line in ["", *lines]:
        if disk.play(line, pid) or not line:
            moments += 1
            for state in disk.states():
                found.setdefault(hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest(), state)
    assert not disk.unknown, disk.unknown
    assert disk.last() == on_disk(folder), "the replay is not what the disk holds"
    return list(found.values()), moments


def on_disk(root: Path) -> State:
    found: State = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path).encode())
        elif path.is_dir():
            found[name] = ("folder", b"")
        else:
            found[name] = ("file", path.read_bytes())
    return found


def cut(runner: Runner, world: World, name: str, finished: int, tmp_path: Path, record_property: Any) -> None:
    case = CASES[name]
    told = {"place": str(world.place), **case.arguments(world)}
    folder = world.store if name == "ship" else world.place
    states, moments = states_of(runner, world, case, told, folder, tmp_path / "log")
    seen: Set[Optional[str]] = set()
    for state in states:
        powercut.put(state, folder)
        seen.add(world.sound(case.allowed(world)))
    assert seen == case.allowed(world)
    for state in states[:: max(1, len(states) // finished)]:
        powercut.put(state, folder)
        run_again(runner, world, case, told)
    record_property("count", [f"disks that a power cut may leave in {moments} moments of {name}", len(states)])


def test_a_cut_during_an_activation(runner: Runner, world_of: WorldOf, tmp_path: Path, record_property: Any) -> None:
    cut(runner, world_of(CASES["activate"]), "activate", 4, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_cut_during_any_operation(
    runner: Runner, world_of: WorldOf, name: str, tmp_path: Path, record_property: Any
) -> None:
    cut(runner, world_of(CASES[name]), name, 60, tmp_path, record_property)


def test_a_version_that_appears_before_its_bytes_are_synced_is_found(
    runner: Runner, world_of: WorldOf, tmp_path: Path
) -> None:
    case = CASES["pull"]._replace(operation="pull_unsynced")
    world = world_of(case)
    told = {"place": str(world.place), **case.arguments(world)}
    states, _ = states_of(runner, world, case, told, world.place, tmp_path / "log")
    damaged = set()
    for state in states:
        powercut.put(state, world.place)
        damaged |= {one["damage"] for one in node.status(world.place, check=True)["versions"]} - {None}
    assert damaged


def test_the_replay_drops_what_was_not_synced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"old")
    disk = powercut.Disk(root)
    hexed = "".join(f"\\x{byte:02x}" for byte in f"{root}/part".encode())
    target = "".join(f"\\x{byte:02x}" for byte in f"{root}/old".encode())
    for line in (
        f'7 openat(AT_FDCWD, "{hexed}", O_WRONLY|O_CREAT|O_EXCL, 0600) = 3',
        '7 write(3, "\\x6e\\x65\\x77\\x21", 4) = 4',
        f'7 rename("{hexed}", "{target}") = 0',
    ):
        assert disk.play(line, "7")
    left = [state.get("old", ("", b"gone"))[1] for state in disk.states()]
    assert {b"old", b"", b"ne", b"new!"} == set(left)  # a rename before the bytes were synced
    assert disk.play("7 fsync(3) = 0", "7")
    assert {state["old"][1] for state in disk.states()} == {b"old", b"new!"}
