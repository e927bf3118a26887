"""`optimize wcet`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import GateError, UsageError
from engines.terminal import Column
from optimize.cli import options
from optimize.cli.console import answer, interruptible, line, progress, say, table


def wcet(
    what: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="Engine to measure; or a run file, CSV or trtexec's times.")
    ],
    batch: Annotated[
        Optional[int],
        typer.Option("--batch", min=1, help="Images in a query [default: 1]; of a run file which rows [default: all]."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Queries to measure.")] = 100_000,
    deadline: Annotated[
        Optional[str], typer.Option("--deadline", metavar="10ms", help="Count the queries that take longer.")
    ] = None,
    interference: Annotated[
        Optional[str],
        typer.Option("--interference", metavar="cpu:50,memory:2,io", help="Measure beside each of these loads too."),
    ] = None,
    probability: Annotated[
        Optional[List[str]],
        typer.Option("--probability", metavar="1e-6", help="Per inference; commas [default: 1e-3,1e-6,1e-9]."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Find the layers that slow queries are slow in, too.")
    ] = False,
    target: Annotated[str, typer.Option("--target", help="Of a run file: which target.")] = "",
    column: Annotated[str, typer.Option("--column", help="Of a CSV or trtexec's times: which column.")] = "",
    unit: Annotated[
        str, typer.Option("--unit", help="Of a CSV: ns, us, ms or s [default: by the column's name].")
    ] = "",
    warmup: Annotated[str, typer.Option("--warmup", help="Unmeasured time before the first sample.")] = "1s",
    data: Annotated[Optional[str], options.data("Test images to feed [default: random ones].")] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="What runs an ONNX file: auto, openvino or onnxruntime.")
    ] = "auto",
    threads: options.Threads = 0,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", metavar="wcet.json", help="Run file to keep what was measured in.")
    ] = None,
    *,
    source: Dict[str, Any],
) -> None:
    """Tell how slow a query gets: high-water mark, misses of a deadline, and the tail beyond where it can be told.

    Exit code 3 where the tail cannot be told.
    """
    from optimize import api

    with interruptible(), progress(still=True) as report:
        found = api.wcet(
            what,
            batch=batch,
            samples=samples,
            deadline_ms=None if deadline is None else 1e3 * api.seconds(deadline),
            interference=interference or "",
            probabilities=_probabilities(probability or []),
            layers=layers,
            target=target,
            column=column,
            unit=unit,
            warmup_s=api.seconds(warmup),
            data=data,
            backend=backend,
            threads=threads,
            out=out,
            command=" ".join(["optimize", *map(shlex.quote, sys.argv[1:])]),
            progress=report,
            **source,
        )
    answer(found, lambda: _show(found), asked=True)
    if out is not None:
        say(f"run file: {out}   next: optimize report {shlex.quote(str(out))} -f html")
    refused = [one for one in found["series"] if one["refused"]]
    if refused:
        first = refused[0]["refused"]
        those = f"{len(refused)} of {len(found['series'])}"
        others = "; why the others have none stands above" if len(refused) > 1 else ""
        raise GateError(f"no estimate for {those}: {refused[0]['name']}: {first['reason']}{others}", first["hint"])


def _probabilities(words: List[str]) -> List[float]:
    try:
        return [float(text) for word in words for text in word.split(",") if text]
    except ValueError as error:
        raise UsageError(f"--probability: {error}", "for example --probability 1e-3,1e-6") from None


def _show(found: Dict[str, Any]) -> None:
    from bench.tail import words

    for one in found["series"]:
        line(f"{one['name']} ({one['source']})")
        for text in words.seen(one) + words.tested(one):
            line(f"  {text}")
        if one["estimates"]:
            _estimates(one)
        if one["layers"]:
            _layers(one["layers"])
    for one in found["slowdowns"]:
        times = ", ".join(f"{name} {one[key]:.2f}x" for name, key in _SLOWER)
        line(f"beside {one['interference']}: {times}")


_MOST = 10
"""Layers that are shown."""

_SLOWER = (("median", "median"), ("99% percentile", "p99"), ("high-water mark", "hwm"))


def _estimates(one: Dict[str, Any]) -> None:
    from bench.tail import words

    numbers = ("one inference in", "ms", f"{100 * one['level']:g}% interval", "by block maxima")
    columns = [*(Column(name, right=True) for name in numbers), Column("", least=12)]
    rows = []
    for each in one["estimates"]:
        interval = f"[{each['low_ms']:.4g}, {each['high_ms']:.4g}]"
        rows.append(
            [
                f"{1 / each['p']:,.0f}",
                f"{each['ms']:.4g}",
                interval,
                words.by_blocks(one, each["p"]),
                words.beyond(each),
            ]
        )
    table(columns, rows, "estimates under the measured conditions", leave_out=("by block maxima",))


def _layers(found: Dict[str, Any]) -> None:
    from bench.tail import words

    numbers = ("median ms", "slowest ms", "share of what they take more")
    rows = []
    for layer in words.slow_layers(found)[:_MOST]:
        share = "" if layer["share"] is None else f"{100 * layer['share']:.1f}%"
        rows.append([layer["name"], f"{layer['median_ms']:.4f}", f"{layer['max_ms']:.4f}", share])
    title = f"the {found['slow']} slowest of {found['queries']} queries"
    table([Column("layer", least=12), *(Column(name, right=True) for name in numbers)], rows, title)
