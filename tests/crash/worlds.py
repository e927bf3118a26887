"""A node and a store as they are before a death, and what must hold after it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

import pytest

from engines.errors import UsageError
from optimize.ship import fetch, journal, link, node, oci, records
from optimize.ship.url import open_store

CALLS = [
    *("write", "pwrite64", "writev", "copy_file_range", "sendfile", "ftruncate"),
    *("fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
]
"""System calls that change a disk."""

TRACE = "trace=" + ",".join(f"?{name}" for name in CALLS)
"""For strace, which leaves out those that a machine lacks (`?`)."""

OLDEST, OLD, NEW = 1, 2, 3
"""Seeds of the versions."""


class Runner:
    """Runs operations in forks of one process (`operations.py`); skips the test where they cannot be traced."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, operation: str, strace: Optional[List[str]] = None, **more: Any) -> Dict[str, Any]:
        options = {key: more.pop(key) for key in ("seconds", "limits") if key in more}
        request = {"operation": operation, "arguments": more, "strace": strace, **options}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply: Dict[str, Any] = json.loads(self.process.stdout.readline())
        if reply["error"] and reply["error"]["kind"] == "NoTrace":
            pytest.skip(f"strace may not trace here: {reply['error']['message'].strip()}")
        return reply

    def census(
        self, log: Path, operation: str, fails: bool = False, trace: str = TRACE, **more: Any
    ) -> List[Tuple[str, int, str]]:
        """Every call of an operation that `trace` names: its name, which of that name it is, and the line.

        Those of other threads do not count: they are ONNX Runtime's, and change nothing of a node.
        """
        done = self(operation, strace=["-o", str(log), "-e", trace], **more)
        assert (done["error"] is not None) == fails, done
        text = log.read_text()
        seen: Counter[str] = Counter()
        found = []
        for match in re.finditer(rf"^{text.split()[0]} +(\w+)\(.*$", text, re.M):
            seen[match[1]] += 1
            found.append((match[1], seen[match[1]], match[0]))
        return found


class World:
    """A node, a store, and what may be in them.

    Attributes:
        place: Folder of the node: the second version is active, the first was before it, the third is the last pulled.
        store: Folder of the store, where the name points to the second version.
        shipments: Their folders by seed.
    """

    def __init__(self, template: Path, room: Path, variants: Dict[int, str]) -> None:
        self.template, self.place, self.store = template, room / "node", room / "store"
        self.shipments = {seed: template / f"shipment{seed}" for seed in variants}
        self.oldest, self.old, self.new = variants[OLDEST], variants[OLD], variants[NEW]
        self.reset()

    def reset(self) -> None:
        """Everything as it was at first."""
        for place in (self.place, self.store):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(self.template / place.name, place, symlinks=True)

    def sound(self, allowed: Set[Optional[str]]) -> str:
        """Assert that one of the allowed versions is active, that it and all others are whole; returns it."""
        told = node.status(self.place, check=True)
        active = told["active"]
        assert active is not None and active["variant"] in allowed, told
        assert link.active(self.place) == self.place / "versions" / active["variant"]
        assert [one["damage"] for one in told["versions"]] == [None] * len(told["versions"])
        assert not [text for text in told["problems"] if "health check" not in text]
        return str(active["variant"])

    def tidy(self) -> None:
        """Assert that a finished operation leaves nothing behind, and a journal that says what is."""
        left = [p.name for p in self.place.rglob("*") if re.search(r"\.(part|old)$", p.name)]
        assert not left, left
        line = journal.last(self.place)
        assert line is not None and line["active"] == link.pointed(self.place)
        found, _ = journal.lines(self.place, 1000)
        numbers = [one["sequence"] for one in found]
        assert numbers == sorted(set(numbers)), numbers
        assert {p.stem for p in (self.place / "records").iterdir()} == set(records.present(self.place))


class Shop(World):
    """The same, where it is the store that must be whole."""

    def sound(self, allowed: Set[Optional[str]]) -> str:
        """Assert that the name points to one of the allowed versions, and that every byte of it is there."""
        store = open_store(str(self.store))
        index = fetch.find(store, "linear-fp32")
        assert len(index.entries) == 1 and index.entries[0].digest.split(":")[1] in allowed
        for blob in oci.read_variant(store.get_document("linear-fp32", index.entries[0].digest, 1 << 20)):
            path = self.store / "blobs" / "sha256" / blob.digest.split(":")[1]
            assert oci.digest_of(path.read_bytes()) == blob.digest
        return index.entries[0].digest.split(":")[1]

    def tidy(self) -> None:
        """Assert that no half of a blob is left; what a killed writer of a document leaves may be another writer's."""
        left = [p.name for p in self.store.rglob("*") if re.fullmatch(r"\.[0-9a-f]{64}\.part", p.name)]
        assert not left, left


class Case(NamedTuple):
    """What is killed.

    Attributes:
        operation: Of `operations.py`.
        arguments: Its own, beside the folder of the node.
        allowed: The versions that may be active after its death.
        prepare: What is done to the world before.
        then: What must hold when the operation was run again.
        ends: What it says when there is nothing left to do, or where it is to fail.
        world: Where.
    """

    operation: str
    arguments: Callable[[World], Dict[str, Any]]
    allowed: Callable[[World], Set[Optional[str]]]
    prepare: Callable[[World], None] = lambda world: None
    then: Callable[[World], None] = lambda world: None
    ends: str = ""
    world: Any = World


def lagging(world: World) -> None:
    """What a killed writer may leave: a journal behind the link, no record of a version, one of none, leftovers."""
    path = world.place / journal.NAME
    path.write_bytes(path.read_bytes()[:-20])
    records.path_of(world.place, world.new).unlink()
    shutil.copy(records.path_of(world.place, world.old), records.path_of(world.place, "f" * 64))
    (world.place / f".active.{'0' * 16}.part").symlink_to(f"versions/{world.new}")
    (world.place / "versions" / f".{'e' * 64}.{'0' * 16}.old").mkdir()


def swollen(world: World) -> None:
    """A journal that has grown to where a new file is begun."""
    path = world.place / journal.NAME
    path.write_bytes(b"x" * (1 << 20) + b"\n" + path.read_bytes())


def unpulled(world: World) -> None:
    """A node without the new version, and a store whose name points to it."""
    shutil.rmtree(world.place / "versions" / world.new)
    records.path_of(world.place, world.new).unlink()
    line = journal.last(world.place)
    assert line is not None
    (world.store / "refs" / "linear-fp32" / "latest.json").write_bytes(
        (world.store / "refs" / "linear-fp32" / "next.json").read_bytes()
    )


def unshipped(world: World) -> None:
    """A store that has never seen the new version."""
    (world.store / "refs" / "linear-fp32" / "next.json").unlink()
    store = open_store(str(world.store))
    used = {entry.digest for entry in fetch.find(store, "linear-fp32").entries}
    kept = {fetch.find(store, "linear-fp32").digest, *used}
    for digest in used:
        kept |= {blob.digest for blob in oci.read_variant(store.get_document("linear-fp32", digest, 1 << 20))}
    for path in (world.store / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in kept:
            path.unlink()


def has_it(world: World) -> None:
    """The new version was pulled, whole, under its tag."""
    assert records.find(world.place, "linear-fp32:latest")["variant"] == world.new


def has_it_not(world: World) -> None:
    """The new version is gone."""
    with pytest.raises(UsageError):
        records.find(world.place, world.new)


CASES: Dict[str, Case] = {
    "activate": Case(
        "activate", lambda w: {"version": w.new}, lambda w: {w.old, w.new}, then=lambda w: w.sound({w.new}) and None
    ),
    "rollback by a health check": Case(
        "activate",
        lambda w: {"version": w.new, "health": "false"},
        lambda w: {w.old, w.new},
        then=lambda w: w.sound({w.old}) and None,
        ends="health check ended with code 1",
    ),
    "rollback": Case(
        "rollback",
        lambda w: {},
        lambda w: {w.old, w.oldest},
        then=lambda w: w.sound({w.oldest}) and None,
        ends="no version to go back to",
    ),
    "remove": Case("remove", lambda w: {"version": w.new}, lambda w: {w.old}, then=has_it_not, ends="no such version"),
    "mend": Case("mend", lambda w: {}, lambda w: {w.old}, lagging),
    "journal": Case("note", lambda w: {}, lambda w: {w.old}),
    "journal begun anew": Case("note", lambda w: {}, lambda w: {w.old}, swollen),
    "pull": Case(
        "pull", lambda w: {"reference": "linear-fp32", "source": str(w.store)}, lambda w: {w.old}, unpulled, has_it
    ),
    "ship": Case(
        "ship",
        lambda w: {"bundle": str(w.shipments[NEW]), "to": str(w.store)},
        lambda w: {w.old, w.new},
        unshipped,
        lambda w: w.sound({w.new}) and None,
        world=Shop,
    ),
}


def run_again(runner: Runner, world: World, case: Case, told: Dict[str, Any]) -> None:
    """After a death the same command ends as it would have, and leaves everything in order."""
    again = runner(case.operation, **told)
    assert again["error"] is None or (case.ends and case.ends in again["error"]["message"]), again
    world.sound(case.allowed(world))
    case.then(world)
    world.tidy()
