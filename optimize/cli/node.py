"""`optimize node status|activate|rollback|remove|policy|trust`: the engines of an inference node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import DamagedError, UsageError
from engines.terminal import Column
from engines.text import counted
from optimize.cli.command import about_node, command
from optimize.cli.console import VOICE, answer, line, progress, say, table, warn

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The engines of an inference node: which is there, which one runs, whose signatures are taken.",
)
trust_app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The public keys whose signatures this node takes.",
)
app.add_typer(trust_app, name="trust")

Node = Annotated[
    Optional[Path],
    typer.Option(
        "--node", metavar="DIR", help="Folder of the node [default: $OPTIMIZE_NODE, ~/.local/share/optimize/node]."
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for another command that writes there, or fail.")]
_SAMPLE_S = 0.5
"""Seconds over which it is watched what other programs take."""

_VERSION = "NAME, NAME:TAG, NAME@sha256:DIGEST, or 8 digits or more of a digest"


@app.command("status")
@command
def status(
    folder: Node = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Hold every file against its hash and signature; exit 1 if the active fails."),
    ] = False,
    facts: Annotated[
        bool, typer.Option("--facts", help="With --json: what the machine is too, for optimize select --device.")
    ] = False,
) -> None:
    """Which engine is active, what a rollback goes back to, and which versions are there."""
    from optimize.ship import node

    if facts and not VOICE.json:
        raise UsageError("--facts is for a file that another program reads", "optimize node status --facts --json")
    with progress() as report:
        found = node.status(node.home(folder), check, report)
    if facts:
        from optimize import device

        found["device"] = device.show(sample_s=_SAMPLE_S)
    answer(found, lambda: _show(found, folder), asked=True)
    for text in found["problems"]:
        warn(f"warning: {about_node(text, folder)}")
    active = found["active"]
    if check and active and active["damage"]:
        raise DamagedError(f"the active version: {active['damage']}", "optimize node rollback, or pull it again")


@app.command("activate")
@command
def activate(
    version: Annotated[
        Optional[str],
        typer.Argument(metavar="[VERSION]", help=f"{_VERSION} [default: the one pulled last]."),
    ] = None,
    folder: Node = None,
    health: Annotated[
        Optional[str],
        typer.Option(
            "--health",
            metavar="COMMAND",
            help="Ends with 0 where the node is well; OPTIMIZE_ACTIVE names the engine [default: the golden inputs].",
        ),
    ] = None,
    patience: Annotated[float, typer.Option("--health-timeout", metavar="SECONDS", help="That it may take.")] = 60.0,
    wait: Wait = True,
) -> None:
    """Check a version, run its golden inputs, switch to it, and switch back if the node is not well with it.

    Exit code 1 where a file is damaged, 4 where the signature or the device is wrong, 3 where the golden inputs or the
    health check fail; the version before stays active.
    """
    from optimize.ship import activate as activation
    from optimize.ship import node

    with progress() as report:
        found = activation.activate(node.home(folder), version, health, patience, wait, report)
    _switched(found, folder)


@app.command("rollback")
@command
def rollback(folder: Node = None, wait: Wait = True) -> None:
    """Switch back to the version that was active before; once more goes one further back.

    It is checked as by activate, with the same exit codes.
    """
    from optimize.ship import activate as activation
    from optimize.ship import node

    with progress() as report:
        found = activation.rollback(node.home(folder), wait, report)
    _switched(found, folder)


@app.command("remove")
@command
def remove(
    version: Annotated[Optional[str], typer.Argument(metavar="[VERSION]", help=f"{_VERSION}.")] = None,
    folder: Node = None,
    force: Annotated[bool, typer.Option("--force", help="Also the one that a rollback would go back to.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="What interrupted downloads have left, in place of a version.")
    ] = False,
    wait: Wait = True,
) -> None:
    """Remove a version from the disk; never the active one, nor one in use."""
    from optimize.ship import node

    place = node.home(folder)
    if unfinished == (version is not None):
        raise UsageError("a VERSION or --unfinished is expected", "optimize node status")
    with progress() as report:
        if version is None:
            left = node.remove_unfinished(place, wait, report)
            answer({"node": str(place), "unfinished": left}, [f"removed {counted(len(left), 'unfinished download')}"])
            return
        found = node.remove(place, version, force, wait, report)
    answer({"node": str(place), "removed": found}, [f"removed {_title(found)}"])


@app.command("policy")
@command
def policy(
    folder: Node = None,
    require: Annotated[
        Optional[bool],
        typer.Option(
            "--require-signature/--no-require-signature", help="Take only shipments that a trusted key has signed."
        ),
    ] = None,
    keep: Annotated[
        Optional[int], typer.Option("--keep", metavar="N", help="Versions beyond the active one and the one before it.")
    ] = None,
    wait: Wait = True,
) -> None:
    """Show what the node asks of shipments and how many it keeps, or change it."""
    from optimize.ship import node

    place = node.home(folder)
    changed = require is not None or keep is not None
    with progress() as report:
        found = node.set_policy(place, require, keep, wait, report) if changed else node.policy(place)
    signed = "required" if found["require_signature"] else "not required"
    answer(
        {"node": str(place), **found},
        [f"signatures: {signed}", f"kept beyond the active version and the one before it: {found['keep']}"],
        asked=True,
    )


@trust_app.command("add")
@command
def trust_add(
    key: Annotated[Path, typer.Argument(metavar="KEY.pub", help="Public key that optimize key new has made.")],
    folder: Node = None,
    wait: Wait = True,
) -> None:
    """Take the signatures of a key."""
    from optimize.ship import node, trusted

    place = node.home(folder)
    with progress() as report:
        found = trusted.add(place, key, wait, report)
    answer({"node": str(place), **found}, [f"{found['id']} is trusted" + ("" if found["new"] else " already")])
    if not node.policy(place)["require_signature"]:
        refuse = about_node("optimize node policy --require-signature", folder)
        say(f"unsigned shipments are taken too: {refuse} refuses them")


@trust_app.command("ls")
@command
def trust_ls(folder: Node = None) -> None:
    """List the keys that are trusted."""
    from optimize.ship import node, trusted

    found = trusted.listed(node.home(folder))
    answer(found, [f"{one['id']}  {one['line']}" for one in found] or ["no key is trusted"], asked=True)


@trust_app.command("rm")
@command
def trust_rm(
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as trust ls shows it.")],
    folder: Node = None,
    wait: Wait = True,
) -> None:
    """Take the signatures of a key no more."""
    from optimize.ship import node, trusted

    place = node.home(folder)
    with progress() as report:
        found = trusted.remove(place, key, wait, report)
    answer({"node": str(place), **found}, [f"{key} is trusted no more"])


def _switched(found: Dict[str, Any], folder: Optional[Path]) -> None:
    active, before = found["active"], found["before"]
    lines = [f"active: {_title(active)}, {active['path']}"]
    back = about_node("optimize node rollback", folder)
    lines.append(f"before: {_title(before)}: {back}" if before else "before: none")
    lines += [f"removed: {variant[:12]}" for variant in found["removed"]]
    answer(found, lines)
    if not active["verified"]:
        warn("warning: no golden answers were shipped with it: it answers, and nothing says whether rightly")


def _title(one: Dict[str, Any]) -> str:
    tag = f":{one['tag']}" if one["tag"] else ""
    return f"{one['name']}{tag} ({one['variant'][:12]})"


def _show(found: Dict[str, Any], folder: Optional[Path]) -> None:
    active = found["active"]
    there = Path(found["node"]).is_dir()
    pull = about_node("optimize pull", folder)
    line(f"node: {found['node']}" + ("" if there else f", which is not there yet: {pull} makes it"))
    line(f"active: {_title(active)} since {active['since'] or '?'}" if active else "active: none")
    if found["versions"]:
        _table(found["versions"], found["rollback"])
    for one in found["versions"]:
        if one.get("damage"):
            line(f"damaged: {_title(one)}: {one['damage']}")
    if found["unfinished"]:
        size = sum(one["bytes"] for one in found["unfinished"])
        rid = about_node("optimize node remove --unfinished", folder)
        count = len(found["unfinished"])
        line(f"unfinished downloads: {count}, {size / 1e6:.1f} MB; {pull} goes on with them, {rid} removes them")
    asked = found["policy"]
    signed = "signatures required" if asked["require_signature"] else "signatures not required"
    line(f"{signed}, {counted(len(found['trusted']), 'key')} trusted, keeps {counted(asked['keep'], 'more version')}")


_COLUMNS: Dict[Column, Callable[[Dict[str, Any]], str]] = {
    Column("version", least=16): lambda one: f"{one['name']}:{one['tag']}" if one["tag"] else one["name"],
    Column("variant"): lambda one: one["variant"][:12],
    Column("precision"): lambda one: one["precision"] or "?",
    Column("size", right=True): lambda one: "?" if one["bytes"] is None else f"{one['bytes'] / 1e6:.1f} MB",
    Column("pulled"): lambda one: one["pulled_at"] or "?",
    Column("golden"): lambda one: "passed" if one["verified"] else "",
}


def _table(versions: List[Dict[str, Any]], rollback_to: Optional[str]) -> None:
    rows = []
    for one in versions:
        mark = "active" if one["active"] else "before" if one["variant"] == rollback_to else ""
        rows.append([mark, *(show(one) for show in _COLUMNS.values())])
    table([Column(""), *_COLUMNS], rows, leave_out=("precision", "size", "pulled", "golden"))
