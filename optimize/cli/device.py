"""`optimize device show|lock|restore`."""

from __future__ import annotations

import sys
from typing import Any, Dict, List

import typer
from typing_extensions import Annotated

from engines.errors import Interrupted, UsageError
from optimize.cli.command import command
from optimize.cli.console import answer, say

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Power mode, clocks, power and temperatures of this machine.",
)

Yes = Annotated[bool, typer.Option("-y", "--yes", help="Run the commands without asking, as a script must.")]


@app.command("show")
@command
def device_show() -> None:
    """Say how the machine stands: what every measurement depends on."""
    from optimize import device

    found = device.show(sample_s=0.2)
    answer(found, device.lines(found), asked=True)


@app.command("lock")
@command
def device_lock(
    mode: Annotated[str, typer.Option("--mode", help="Power mode to take first, by name or number (Jetson).")] = "",
    yes: Yes = False,
) -> None:
    """Lock the clocks at their highest, after asking, and keep what they were."""
    from optimize import device

    store = device.kept()
    found = device.show()
    commands = device.lock_commands(found, store, mode)
    if not _agreed(device.typed(commands), yes, "lock"):
        answer({"run": []}, ["nothing was changed"])
        return
    clocks = device.lock(commands, store, found)
    answer({"run": device.typed(commands), "clocks": clocks}, [f"clocks: {clocks['state']}"])
    say("give them back with: optimize device restore")


@app.command("restore")
@command
def device_restore(yes: Yes = False) -> None:
    """Give the clocks back as they were before they were locked, after asking."""
    from optimize import device

    store = device.kept()
    found: Dict[str, Any] = device.show()
    commands = device.restore_commands(found, store)
    if not _agreed(device.typed(commands), yes, "restore"):
        answer({"run": []}, ["nothing was changed"])
        return
    device.restore(commands, store)
    answer({"run": device.typed(commands)}, ["the clocks are as they were"])


def _agreed(commands: List[str], yes: bool, verb: str) -> bool:
    """Show the commands and ask on the terminal; without one, only `--yes` agrees."""
    say("\n".join(["this runs:", *(f"  {text}" for text in commands)]))
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "clocks are never changed unasked, and there is no terminal to ask on",
            f"optimize device {verb} --yes",
        )
    try:
        return typer.confirm("run it?", err=True)
    except typer.Abort:
        raise Interrupted("interrupted: nothing was changed", "run the same command again") from None
