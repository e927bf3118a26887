"""What is done on a board in each step: files to it, commands there, files back. Ansible's role knows no more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from engines.errors import DamagedError, PartialError
from optimize.fleet import plan as plans
from optimize.fleet.boards import Board

STORE = "store"
"""Name on the board."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")

Send = Tuple[Path, str]
"""A file of the control node, and where it goes in the board's folder."""


def job(
    board: Board,
    plan: plans.Plan,
    commands: Sequence[Sequence[str]],
    send: Sequence[Send] = (),
    fetch: Sequence[Tuple[str, Path]] = (),
    quiet: bool = False,
    accept: Sequence[int] = (0,),
) -> Dict[str, Any]:
    """What tasks/job.yml and tasks/raw.yml do.

    Args:
        board: Where.
        plan: Gives the limits.
        commands: Run in the board's folder, under its lock, one after the other.
        send: Files; of a board that is served by trtexec, parcels of `trtexec.parcel`.
        fetch: Files of the board's folder, and where they go.
        quiet: Wait until the board is quiet before the commands.
        accept: Exit codes of commands that have done what they should.
    """
    lock = ["flock", "--wait", str(int(plan.limits["lock"])), "--conflict-exit-code", "75", f"{board.folder}/lock"]
    return {
        "folder": board.folder,
        "lock": lock if board.flock else [],
        "commands": [list(words) for words in commands],
        "send": [{"src": str(source), "dest": f"{board.folder}/{name}"} for source, name in send],
        "fetch": [{"src": f"{board.folder}/{name}", "dest": str(target)} for name, target in fetch],
        "quiet": dict(plan.quiet) if quiet else False,
        "accept": list(accept),
    }


def build(board: Board, plan: plans.Plan, onnx: Path, model: str) -> Dict[str, Any]:
    """Build every precision of the plan, from the ONNX graph and the data that are sent.

    Args:
        board: The one of its class that builds.
        plan: What is built.
        onnx: Graph on the control node.
        model: Its name on the board.
    """
    assert board.key is not None
    data = plan.data_path
    words = [board.command, "build", model, "--precision", ",".join(plan.precisions)]
    words += ["--batch", ",".join(map(str, plan.batches)), "--backend", board.key.backend, "-o", "out", "--json"]
    words += ["--data", f"data/{data.name}"] if data else ["--data", plan.data] if plan.data else []
    kept = {name: value for name, value in plan.source.items() if name in ("preprocess", "task")}
    words += plans.words(kept) + plans.words(plan.build)
    send: List[Send] = [(onnx, model)]
    if data:  # Ansible copies a folder into the one that it names
        send.append((data, "data/") if data.is_dir() else (data, f"data/{data.name}"))
    return job(board, plan, [words], send)


def ship(board: Board, plan: plans.Plan, bundles: Dict[str, str], target: Path) -> Dict[str, Any]:
    """Make shipments where the engines run, since only there their golden outputs can be made, and fetch them.

    Args:
        board: The one that has built.
        plan: Gives the tag.
        bundles: Name of each shipment, and its bundle in `out`.
        target: Archive of a folder store on the control node.
    """
    to = ["--to", STORE, "--tag", plan.tag, "--json"]
    words = [[board.command, "ship", f"out/{bundle}", *to, "--name", name] for name, bundle in bundles.items()]
    return job(
        board,
        plan,
        [["rm", "-rf", STORE], *words, ["tar", "-cf", f"{STORE}.tar", "-C", STORE, "."]],
        fetch=[(f"{STORE}.tar", target)],
    )


def pull(
    board: Board,
    plan: plans.Plan,
    published: Mapping[str, Mapping[str, str]],
    source: str,
    archive: Optional[Path],
) -> Dict[str, Any]:
    """Pull the one build of the class, each shipment into a folder of its own, and say what every file there is.

    Args:
        board: Any of the class.
        plan: Gives the tag.
        published: By name `digest` of the index.
        source: URL of the store; `STORE` for the folder that is sent along.
        archive: Of that folder; None where the board reaches the store.
    """
    commands = [
        [*_pull(board, plan, name, one["digest"], source, archive), "-o", f"shipments/{name}"]
        for name, one in published.items()
    ]
    hashes = ["find", "shipments", "-type", "f", "-exec", "sha256sum", "{}", "+"]
    return job(board, plan, [["rm", "-rf", "shipments"], *_unpacked(archive), *commands, hashes], _sent(archive))


def _pull(board: Board, plan: plans.Plan, name: str, digest: str, source: str, archive: Optional[Path]) -> List[str]:
    """The variant of this very device: `this-device` would also take one of another class that fits.

    In a folder that was sent along the name points to the one index that is meant; elsewhere the digest says which.
    """
    assert board.key is not None
    device = json.dumps(board.key.to_json(), separators=(",", ":"))
    reference = f"{name}:{plan.tag}" if archive else f"{name}:{plan.tag}@{digest}"
    return [board.command, "pull", reference, "--from", source, "--for", device, "--json"]


def bench(board: Board, plan: plans.Plan, bundles: Sequence[str], target: Path, key: str) -> Dict[str, Any]:
    """Measure folders of the board, when it is quiet, and fetch the run file; `key` is of what is measured."""
    words = [board.command, "bench", *bundles, "--batch", ",".join(map(str, plan.batches)), "-o", _run(key), "-q"]
    commands = [[*words, *plans.words(plan.bench)]]
    some = (0, PartialError.exit_code)  # cells that failed are in the run file too
    return job(board, plan, commands, fetch=[(_run(key), target)], quiet=True, accept=some)


def _run(key: str) -> str:
    return f"runs-{key[:12]}.json"


def activate(
    board: Board, plan: plans.Plan, name: str, one: Mapping[str, str], source: str, archive: Optional[Path]
) -> Dict[str, Any]:
    """Pull a shipment into the board's node and let it serve from there.

    Args:
        board, plan, source, archive: See `pull`.
        name: Of the shipment.
        one: `digest` of its index and `variant`.
    """
    words = [
        _pull(board, plan, name, one["digest"], source, archive),
        [board.command, "node", "activate", one["variant"].partition(":")[2], "--json"],
        [board.command, "node", "status", "--json"],
    ]
    return job(board, plan, [*_unpacked(archive), *words], _sent(archive))


def collect(board: Board, plan: plans.Plan, target: Path, key: str) -> Dict[str, Any]:
    """Fetch the run file that a board has of what `bench` began there; it fails where there is none."""
    return {**job(board, plan, [], fetch=[(_run(key), target)]), "lock": []}


def status(board: Board, plan: plans.Plan) -> Dict[str, Any]:
    """Ask the node of a board what is active; no lock, since nothing is changed."""
    return {**job(board, plan, [[board.command, "node", "status", "--json"]]), "lock": []}


def _sent(archive: Optional[Path]) -> List[Send]:
    return [(archive, f"{STORE}.tar")] if archive else []


def _unpacked(archive: Optional[Path]) -> List[List[str]]:
    return [["rm", "-rf", STORE], ["mkdir", STORE], ["tar", "-xf", f"{STORE}.tar", "-C", STORE]] if archive else []


def plain(text: Any) -> str:
    """A name that a board has told, if it is a plain one.

    Raises:
        DamagedError: It is not: it could leave its folder, or mean something to a shell.
    """
    if not isinstance(text, str) or not _SAFE.fullmatch(text):
        raise DamagedError(f"the board tells a name that is none: {str(text)[:60]!r}")
    return text
