"""`optimize select`: a model for a device, with a verdict, and on its way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import GateError
from engines.terminal import Column
from optimize.cli.console import answer, line, progress, say, table
from optimize.cli.ship import Sign, show_shipped


def select(
    runs: Annotated[
        Optional[List[Path]],
        typer.Argument(metavar="[RUN...]", help="Run files of one device, or a CSV table; optional with --from."),
    ] = None,
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
        Optional[str],
        typer.Option(
            "--device",
            metavar="DEVICE.json|this-device",
            help="What `optimize device show --json` or `optimize node status --facts --json` printed there.",
        ),
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
    url: Annotated[
        Optional[str],
        typer.Option("--from", metavar="URL", help="Where optimize ship sent engines: only what is there is chosen."),
    ] = None,
    name: Annotated[
        Optional[List[str]],
        typer.Option("--name", metavar="NAME[:TAG]", help="Of --from; again for more [default: all that is there]."),
    ] = None,
    ship_to: Annotated[
        Optional[str],
        typer.Option("--ship-to", metavar="URL", help="Ship the chosen engine there if it passes; see optimize ship."),
    ] = None,
    ship_as: Annotated[
        Optional[str], typer.Option("--ship-as", metavar="NAME[:TAG]", help="What it is called there.")
    ] = None,
    sign: Sign = None,
    load: Annotated[
        Optional[str], typer.Option("--load", metavar="URL", help="With triton:...: tell this Triton to load it.")
    ] = None,
    ship_anyway: Annotated[
        bool,
        typer.Option(
            "--ship-anyway",
            help="Ship the chosen engine whatever the verdict is; the exit code stays that of the verdict.",
        ),
    ] = False,
) -> None:
    """Choose which model should run on a device, against the most accurate, with a verdict; ship it with --ship-to.

    Exit code 3 where the verdict is not PASS.
    """
    from optimize.selection import choose
    from optimize.selection.words import next_step

    with progress() as report:
        found = choose.select(
            runs or [],
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
            source=url,
            names=name or [],
            ship_to=ship_to,
            ship_as=ship_as,
            sign=sign,
            load=load,
            ship_anyway=ship_anyway,
            progress=report,
        )
    answer(found, lambda: show(found), asked=True)
    if out is not None:
        say(f"choice: {out}")
    if ship_to is not None and found["shipped"] is None:
        say("nothing was shipped" + (": --ship-anyway does all the same" if found["chosen"] else ""))
    if found["verdict"] != "PASS":
        raise GateError(f"the verdict is {found['verdict']}", next_step(found))  # the answer has said why


_NUMBERS = ("top-1 %", "drop", "ms/image", "transfer s", "load s", "first s", "images s", "cold s", "cached s")


def show(found: Dict[str, Any]) -> None:
    """A choice as a table with its verdict."""
    from optimize.selection.words import lines

    asked = found["asked"]
    columns = [Column("candidate", least=16), *(Column(name, right=True) for name in _NUMBERS), Column("", least=8)]
    rows = []
    for one in found["candidates"]:
        times = [one["times"][f"{name}_s"] for name in ("transfer", "load", "first", "inference", "cold", "cached")]
        top1 = None if one["top1"] is None else 100 * one["top1"]
        numbers = [_number(top1, ".2f"), _number(one["drop_points"], ".2f"), _number(one["ms_per_image"])]
        rows.append([one["target"], *numbers, *map(_number, times), _marks(one["target"], found)])
    table(
        columns,
        rows,
        f"policy {asked['policy']}, {found['scope']}",
        leave_out=("first s", "load s", "cached s", "images s", "transfer s"),
    )
    for one in found["rejected"]:
        line(f"not {one['target']}: {one['reason']}")
    for text in lines(found):
        line(text)
    if found.get("shipped"):
        line(f"shipped {found['chosen']} (build {found['shipped']['build_key'][:12]}):")
        show_shipped(found["shipped"])


def _marks(name: str, found: Dict[str, Any]) -> str:
    return ", ".join(mark for mark in ("baseline", "chosen") if found[mark] == name)


def _number(value: Optional[float], form: str = ".4g") -> str:
    return "?" if value is None else f"{value:{form}}"
