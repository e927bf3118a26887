"""Killed at every call that changes a disk, and at random moments: the old version is active, or the new one."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List, TypeVar

import pytest

from optimize.ship import link
from tests.crash.worlds import CASES, Case, Runner, World, run_again

Item = TypeVar("Item")
WorldOf = Callable[[Case], World]

ROOT = Path(__file__).resolve().parents[2]

FEW = 8
"""Deaths of an operation in the quick suite; the slow one takes them all."""


def spread(found: List[Item], most: int) -> List[Item]:
    """So many of all, evenly."""
    return [found[i * len(found) // most] for i in range(most)] if len(found) > most else found


def kill_at(runner: Runner, world: World, name: str, most: int, tmp_path: Path, record_property: Any) -> None:
    case = CASES[name]
    told = {"place": str(world.place), **case.arguments(world)}
    points = spread(runner.census(tmp_path / "log", case.operation, fails="health" in told, **told), most)
    assert points
    for call, which, line in points:
        world.reset()
        case.prepare(world)
        inject = f"inject={call}:signal=KILL:when={which}"
        done = runner(case.operation, strace=["-o", "/dev/null", "-e", f"trace={call}", "-e", inject], **told)
        assert done["killed"], (line, done)
        world.sound(case.allowed(world))
        run_again(runner, world, case, told)
    record_property("count", [f"killed at a call of {name}", len(points)])


@pytest.mark.parametrize("name", ["activate", "pull", "ship"])
def test_a_death_at_some_calls_leaves_one_whole_version(
    runner: Runner, world_of: WorldOf, name: str, tmp_path: Path, record_property: Any
) -> None:
    kill_at(runner, world_of(CASES[name]), name, FEW, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_death_at_every_call_leaves_one_whole_version(
    runner: Runner, world_of: WorldOf, name: str, tmp_path: Path, record_property: Any
) -> None:
    kill_at(runner, world_of(CASES[name]), name, 1 << 20, tmp_path, record_property)


def at_random(runner: Runner, world: World, deaths: int, record_property: Any) -> None:
    """One node that lives through all of them: what a death leaves is what the next operation begins with."""
    chance = random.Random(7)
    versions = [world.oldest, world.old, world.new]
    # The quickest of some: on a busy machine a single one may take so long that hardly any other lives to be killed.
    longest = min(runner("activate", place=str(world.place), version=version)["seconds"] for version in versions)
    done = 0
    while done < deaths:
        operation = chance.choice(["activate", "activate", "rollback", "pull", "note"])
        told = {"activate": {"version": chance.choice(versions)}}.get(operation, {})
        if operation == "pull":
            told = {"reference": "linear-fp32", "source": str(world.store)}
        before = link.pointed(world.place)
        may = {before, told["version"]} if operation == "activate" else set(versions)
        found = runner(operation, place=str(world.place), seconds=chance.uniform(0, longest), **told)
        world.sound(may if operation in ("activate", "rollback") else {before})
        done += found["killed"]
    assert runner("activate", place=str(world.place), version=world.new)["error"] is None
    world.sound({world.new})
    world.tidy()
    record_property("count", ["killed at random", deaths])


def test_deaths_at_random_moments(runner: Runner, world_of: WorldOf, record_property: Any) -> None:
    at_random(runner, world_of(CASES["activate"]), 10, record_property)


@pytest.mark.slow
def test_two_hundred_deaths_at_random_moments(runner: Runner, world_of: WorldOf, record_property: Any) -> None:
    at_random(runner, world_of(CASES["activate"]), 200, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "symlink", "fsync"])
def test_the_command_itself_is_killed(world_of: WorldOf, call: str, tmp_path: Path, record_property: Any) -> None:
    """With its children, which run the golden inputs, as a user starts it."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: apt-get install strace")
    world = world_of(CASES["activate"])
    command = [sys.executable, "-m", "optimize", "node", "activate", world.new, "--node", str(world.place)]
    deaths = 0
    for which in range(1, 100):
        world.reset()
        inject = f"inject={call}:signal=KILL:when={which}"
        traced = ["strace", "-f", "-o", str(tmp_path / "log"), "-e", f"trace={call}", "-e", inject, *command]
        done = subprocess.run(traced, capture_output=True, text=True, cwd=ROOT, check=False)
        world.sound({world.old, world.new})
        if done.returncode == 0:
            break
        assert "SIGKILL" in (tmp_path / "log").read_text(), done.stderr
        deaths += 1
    assert deaths
    assert subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 0
    world.sound({world.new})
    world.tidy()
    record_property("count", [f"the command killed at each {call}", deaths])
