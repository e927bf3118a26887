"""`optimize fleet check|run|status|collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.terminal import Column
from engines.text import counted
from optimize.cli.command import command
from optimize.cli.console import answer, line, progress, say, table

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Many boards at once, through Ansible: build once for each class, bench on every board, ship.",
)

Plan = Annotated[Path, typer.Argument(metavar="PLAN.toml", help="What is to be done.")]
Inventory = Annotated[
    Path, typer.Option("-i", "--inventory", metavar="INVENTORY", help="Ansible's inventory, handed over as it is.")
]
Limit = Annotated[str, typer.Option("--limit", metavar="PATTERN", help="Ansible's pattern of boards.")]
Out = Annotated[
    Optional[Path],
    typer.Option("-o", "--out", metavar="DIR", help="Folder of the run [default: PLAN.fleet beside the plan]."),
]


@app.command("check")
@command
def fleet_check(plan: Plan, inventory: Inventory, limit: Limit = "", out: Out = None) -> None:
    """Ask every board what it is, and say which class it belongs to and what is missing.

    Exit code 5 where boards were lost or failed, 1 where all were.
    """
    from optimize.fleet import run as fleet

    with progress() as report:
        found = fleet.check(plan, inventory, limit, out, report)
    answer(found, lambda: _show(found), asked=True)
    fleet.outcome(found)


@app.command("run")
@command
def fleet_run(plan: Plan, inventory: Inventory, limit: Limit = "", out: Out = None) -> None:
    """Build once for each class, bench on every board, ship, activate; run again, it goes on where it stopped.

    Exit code 5 where boards were lost or failed, 1 where all were.
    """
    from optimize.fleet import run as fleet

    with progress() as report:
        found = fleet.run(plan, inventory, limit, out, report)
    answer(found, lambda: _show(found))
    for path in found["report"]:
        say(f"report: {path}")
    fleet.outcome(found)


@app.command("status")
@command
def fleet_status(
    plan: Plan,
    inventory: Inventory,
    limit: Limit = "",
    out: Out = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no board; the journal alone tells.")] = False,
) -> None:
    """What is done on each board, and what its node has active now."""
    from optimize.fleet import run as fleet

    with progress() as report:
        found = fleet.status(plan, inventory, limit, out, offline, report)
    answer(found, lambda: _show(found), asked=True)


@app.command("collect")
@command
def fleet_collect(plan: Plan, inventory: Inventory, limit: Limit = "", out: Out = None) -> None:
    """Fetch run files that are on the boards still, and write the report again.

    Exit code 5 where boards were lost or failed, 1 where all were.
    """
    from optimize.fleet import run as fleet

    with progress() as report:
        found = fleet.collect(plan, inventory, limit, out, report)
    answer(found, found["report"], asked=True)
    fleet.outcome(found)


_COLUMNS = {"board": 12, "class": 16, "python": 7, "steps": 8, "active": 16, "state": 8}


def _show(found: Dict[str, Any]) -> None:
    rows = []
    for one in found["boards"]:
        steps = " ".join(step["step"] for step in one["steps"] if step["state"] == "done")
        active = one["active"] or {}
        tag = f":{active['tag']}" if active.get("tag") else ""
        serves = f"{active['name'] or active['variant'][:12]}{tag}" if active else ""
        state = "lost" if one["lost"] else one["failed"] or "ok"
        rows.append([one["board"], one["class"], one["python"], steps, serves, state])
    columns = [Column(name, least=least) for name, least in _COLUMNS.items()]
    table(columns, rows, counted(len(found["boards"]), "board"), leave_out=("python", "class", "steps"))
    for one in found["classes"]:
        line(_class(one))
    for text in _fixes(found["boards"]):
        line(text)


def _class(one: Dict[str, Any]) -> str:
    built = [f"{b['precision']} {b['variant'][:19] or b['build_key'][:12]}" for b in one["bundles"]]
    keys = {b["signed_by"] for b in one["bundles"] if b["signed_by"]}
    signed = f"; signed by {', '.join(sorted(keys))}" if keys else ""
    words = f"{one['class']} ({one['by']}): {', '.join(one['boards'])}"
    return (
        f"{words}; built on {one['builder']}: {', '.join(built)}{signed}"
        if built
        else f"{words}{'; ' + one['why'] if one['why'] else ''}"
    )


def _fixes(boards: List[Dict[str, Any]]) -> List[str]:
    return [f"{one['board']}: {one['why']}\n  try: {one['fix']}" for one in boards if one["why"] and one["fix"]]
