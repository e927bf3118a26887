"""`optimize cache ls|rm`: the finished stages that builds keep."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import List

import typer
from typing_extensions import Annotated

from engines.errors import Interrupted, UsageError
from engines.text import counted, plain
from optimize.cli.command import command
from optimize.cli.console import answer, console, line, say

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The finished stages that builds keep under .optimize/ of their output folders.",
)

Folder = Annotated[Path, typer.Argument(help="An output folder, or one that holds some, however deep.")]


@app.command("ls")
@command
def cache_ls(folder: Folder = Path(".")) -> None:
    """List the stages that a later build would use again: model, stage, size, age, and the total."""
    from optimize.pipeline import cache

    found = cache.entries(folder)

    def show() -> None:
        if found:
            _table(
                [
                    [one["model"], one["name"], _size(one["bytes"]), cache.age(one["created"]), one["path"]]
                    for one in found
                ]
            )
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


def _table(rows: List[List[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "stage", "size", "age", "path"):
        table.add_column(column, overflow="fold", justify="right" if column in ("size", "age") else "left")
    for row in rows:
        table.add_row(*map(plain, row))
    console().print(table)
