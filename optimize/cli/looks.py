"""Commands that look: doctor, demo, inspect, predict, cache."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import IncompatibleError
from optimize.cli.command import command
from optimize.cli.console import answer, console, progress, say

cache_app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="What finished builds keep under .optimize/.",
)


def doctor() -> None:
    """What works on this machine, what does not, and the command that mends it."""
    from optimize import doctor as checks

    found = checks.examine()
    answer(found, checks.lines(found))
    if not found["ok"]:
        raise IncompatibleError("nothing can be built here yet", found["fix"])


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for everything it makes.")] = Path(
        "demo"
    ),
    data: Annotated[
        Optional[str],
        typer.Option("--data", help="Default: CIFAR-10 if it is found or can be fetched, else synthetic."),
    ] = None,
) -> None:
    """The whole path in minutes on this machine: train, build, verify, bench, report."""
    from bench.report.table import render
    from optimize import demo as demonstration

    with progress() as report:
        done = demonstration.run(out, data, report)
    answer(done, lambda: render(done["run"], console()))
    say(f"data: {done['data']}   report: {done['report']}")


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, a model or a run file.")],
    layers: Annotated[bool, typer.Option("--layers", help="Every layer with its precision.")] = False,
) -> None:
    """What a file is and what it says of itself, without running it."""
    from optimize import inspection

    about = inspection.inspect(path)
    answer(about, inspection.lines(about, layers))


def predict(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle.")],
    images: Annotated[List[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to print.")] = 5,
    labels: Annotated[Optional[Path], typer.Option("--labels", help="Text file, one class name a line.")] = None,
) -> None:
    """Labels and scores of images."""
    from optimize import api

    with progress() as report:
        found = api.predict(bundle, images, top=top, labels=labels, progress=report)

    def show() -> None:
        for one in found:
            typer.echo(one["image"])
            for label in one["top"]:
                typer.echo(f"  {label['score']:8.4f}  {label['label']}")

    answer(found, show)


@cache_app.command("ls")
@command
def cache_ls(
    folder: Annotated[Path, typer.Argument(help="An output folder, or one that holds some.")] = Path("."),
) -> None:
    """Finished stages that a later build would use again."""
    from optimize.pipeline import cache

    found = cache.entries(folder)

    def show() -> None:
        for one in found:
            typer.echo(f"{one['bytes'] / 1e6:10.1f} MB  {one['created']}  {one['path']}")
        typer.echo(f"{sum(one['bytes'] for one in found) / 1e6:10.1f} MB in {len(found)} stages")

    answer(found, show)


@cache_app.command("rm")
@command
def cache_rm(
    folder: Annotated[Path, typer.Argument(help="An output folder, or one that holds some.")] = Path("."),
) -> None:
    """Remove them; bundles stay."""
    from optimize.pipeline import cache

    removed = cache.remove(folder)
    answer({"removed": [str(p) for p in removed]}, [f"removed {len(removed)} stages"])
    say("bundles were kept")
