"""`optimize select`: a model for a device, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import GateError
from optimize.cli.console import answer, console, line, say


def select(
    runs: Annotated[List[Path], typer.Argument(metavar="RUN...", help="Run files of one device, or a CSV table.")],
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="budget: the fastest within the drop limit; greedy: the most accurate; pareto: the balanced one.",
        ),
    ] = "budget",
    max_drop: Annotated[
        str,
        typer.Option("--max-drop", metavar="10|10%", help="Accuracy that may be lost: points, or % of the baseline's."),
    ] = "10",
    min_saving: Annotated[
        Optional[str],
        typer.Option("--min-saving", metavar="20%", help="Of the baseline's time [default: 20%; greedy: 0]."),
    ] = None,
    bandwidth: Annotated[
        Optional[str],
        typer.Option("--bandwidth", metavar="10Mbps|link", help="To the device; link: what the device's own link has."),
    ] = None,
    rtt: Annotated[str, typer.Option("--rtt", metavar="20ms", help="Round trip before a transfer.")] = "0",
    images: Annotated[int, typer.Option("--images", min=1, help="Images of the total time.")] = 10_000,
    batch: Annotated[
        Optional[int], typer.Option("--batch", min=1, help="Images in a query [default: the smallest all have].")
    ] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="The models are on the device already: no transfer counts.")
    ] = False,
    device: Annotated[
        Optional[Path],
        typer.Option("--device", metavar="DEVICE.json", help="What `optimize device show --json` printed there."),
    ] = None,
    limit_memory: Annotated[
        Optional[str], typer.Option("--limit-memory", metavar="2GiB", help="That a candidate may take.")
    ] = None,
    max_load: Annotated[
        Optional[str],
        typer.Option("--max-load", metavar="50%", help="Of the device's processor that other programs may take."),
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", metavar="choice.json", help="File to write the choice to.")
    ] = None,
) -> None:
    """Choose which model should run on a device, against the most accurate, with a verdict.

    Exit code 3 where the verdict is not PASS.
    """
    from optimize.selection import choose

    found = choose.select(
        runs,
        policy=policy,
        max_drop=max_drop,
        min_saving=min_saving,
        bandwidth=bandwidth,
        rtt=rtt,
        images=images,
        batch=batch,
        cached=cached,
        device=device,
        limit_memory=limit_memory,
        max_load=max_load,
        out=out,
    )
    answer(found, lambda: show(found), asked=True)
    if out is not None:
        say(f"choice: {out}")
    if found["verdict"] != "PASS":
        raise GateError(f"{found['verdict']}: {found['why']}")


def show(found: Dict[str, Any]) -> None:
    """A choice as a table with its verdict."""
    from rich.table import Table
    from rich.text import Text

    from optimize.selection.words import lines

    asked = found["asked"]
    table = Table(title=f"policy {asked['policy']}, {found['scope']}", title_justify="left")
    table.add_column("candidate", overflow="fold")
    for column in ("top-1 %", "drop", "ms/image", "transfer s", "load s", "first s", "images s", "cold s", "cached s"):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    for one in found["candidates"]:
        times = [one["times"][f"{name}_s"] for name in ("transfer", "load", "first", "inference", "cold", "cached")]
        top1 = None if one["top1"] is None else 100 * one["top1"]
        numbers = [_number(top1, ".2f"), _number(one["drop_points"], ".2f"), _number(one["ms_per_image"])]
        table.add_row(*map(Text, [one["target"], *numbers, *map(_number, times), _marks(one["target"], found)]))
    console().print(table)
    for one in found["rejected"]:
        line(f"not {one['target']}: {one['reason']}")
    for text in lines(found):
        line(text)


def _marks(name: str, found: Dict[str, Any]) -> str:
    return ", ".join(mark for mark in ("baseline", "chosen") if found[mark] == name)


def _number(value: Optional[float], form: str = ".4g") -> str:
    return "?" if value is None else f"{value:{form}}"
