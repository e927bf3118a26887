"""`optimize cache ls|rm`: the finished stages that builds keep."""

from __future__ import annotations

from pathlib import Path

import typer
from typing_extensions import Annotated

from optimize.cli.command import command
from optimize.cli.console import answer, line, say

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="What finished builds keep under .optimize/.",
)


@app.command("ls")
@command
def cache_ls(
    folder: Annotated[Path, typer.Argument(help="An output folder, or one that holds some.")] = Path("."),
) -> None:
    """Finished stages that a later build would use again."""
    from optimize.pipeline import cache

    found = cache.entries(folder)

    def show() -> None:
        for one in found:
            line(f"{one['bytes'] / 1e6:10.1f} MB  {one['created']}  {one['path']}")
        line(f"{sum(one['bytes'] for one in found) / 1e6:10.1f} MB in {len(found)} stages")

    answer(found, show, asked=True)


@app.command("rm")
@command
def cache_rm(
    folder: Annotated[Path, typer.Argument(help="An output folder, or one that holds some.")] = Path("."),
) -> None:
    """Remove them; bundles stay."""
    from optimize.pipeline import cache

    removed = cache.remove(folder)
    answer({"removed": [str(p) for p in removed]}, [f"removed {len(removed)} stages"])
    say("bundles were kept")
