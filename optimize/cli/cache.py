"""`optimize cache ls|rm`: the finished stages that builds keep."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer
from typing_extensions import Annotated

from engines.errors import Interrupted, UsageError
from engines.terminal import Column
from engines.text import counted
from optimize.cli.command import command
from optimize.cli.console import answer, line, say, table

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The finished stages that builds keep under .optimize/ of their output folders.",
)

Folder = Annotated[Path, typer.Argument(help="An output folder, or one that holds some, however deep.")]


_COLUMNS = (
    Column("model", least=12),
    Column("stage"),
    Column("size", right=True),
    Column("age", right=True),
    Column("path", least=16),
)


@app.command("ls")
@command
def cache_ls(folder: Folder = Path(".")) -> None:
    """List the stages that a later build would use again: model, stage, size, age, and the total."""
    from optimize.pipeline import cache

    found = cache.entries(folder)

    def show() -> None:
        if found:
            rows = [
                [one["model"], one["name"], _size(one["bytes"]), cache.age(one["created"]), one["path"]]
                for one in found
            ]
            table(_COLUMNS, rows, leave_out=("age", "model"))
        line(f"{_size(sum(one['bytes'] for one in found))} in {len(found)} stages")

    answer(found, show, asked=True)


@app.command("rm")
@command
def cache_rm(
    folder: Folder = Path("."),
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Remove without asking, as a script must.")] = False,
) -> None:
    """Remove the stages, after asking; bundles stay."""
    from optimize.pipeline import cache

    found, size = cache.removable(folder)
    if found and not yes and not _agreed(f"{len(found)} stages ({_size(size)}) in {folder.resolve()}", folder):
        answer({"removed": []}, ["nothing was removed"])
        return
    removed = cache.remove(folder) if found else []
    answer({"removed": [str(p) for p in removed]}, [f"removed {counted(len(removed), 'stage')}, {_size(size)}"])
    say("bundles were kept")


def _agreed(what: str, folder: Path) -> bool:
    """Ask on the terminal; without one, only `--yes` agrees."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{what} would be removed, and there is no terminal to ask on",
            f"optimize cache rm {shlex.quote(str(folder))} --yes",
        )
    try:
        return typer.confirm(f"remove {what}?", err=True)
    except typer.Abort:
        raise Interrupted("interrupted: nothing was removed", "run the same command again") from None


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
