"""`optimize doctor` and `optimize demo`: what a newcomer types first."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from typing_extensions import Annotated

from engines.errors import IncompatibleError
from optimize.cli.console import answer, console, progress, say


def doctor() -> None:
    """What works on this machine, what does not, and the command that mends it.

    Exit code 4 where nothing can be built here yet.
    """
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
