"""`optimize inspect` and `optimize predict`: look into a file, run an engine on images."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer
from typing_extensions import Annotated

from optimize.cli.console import answer, line, progress


def inspect(
    path: Annotated[Path, typer.Argument(help="An engine bundle, a model or a run file.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Also list every layer of a bundle with its precision.")
    ] = False,
) -> None:
    """What a file is and what it says of itself, without running it."""
    from optimize import inspection

    about = inspection.inspect(path)
    answer(about, inspection.lines(about, layers), asked=True)


def predict(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle, a folder that optimize build made.")],
    images: Annotated[List[Path], typer.Argument(metavar="IMAGE...", help="Files that Pillow reads.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to print for each image.")] = 5,
    labels: Annotated[
        Optional[Path],
        typer.Option("--labels", help="Text file, one class name a line [default: those of the bundle's data]."),
    ] = None,
) -> None:
    """Labels and scores of images."""
    from optimize import api

    with progress() as report:
        found = api.predict(bundle, images, top=top, labels=labels, progress=report)

    def show() -> None:
        for one in found:
            line(one["image"])
            for label in one["top"]:
                line(f"  {label['score']:8.4f}  {label['label']}")

    answer(found, show, asked=True)
