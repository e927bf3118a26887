"""`optimize suite list|run`: published tables and validation plans, and what this machine makes of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import IncompatibleError, OptimizeError, PartialError
from engines.terminal import Column
from optimize.cli import options
from optimize.cli.command import command
from optimize.cli.console import answer, interruptible, line, progress, say, table, warn
from optimize.cli.validation import tell

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Published tables with their sources, measured here as far as they can be, with a verdict for each cell; and "
    "plans that validate a selection of models.",
)


@app.command("list")
@command
def list_suites() -> None:
    """The suites: their cells, how many of them have a model, and their source."""
    from optimize import suite, validation

    found = [*suite.catalogue(), *validation.catalogue()]
    answer(found, lambda: _show_suites(found), asked=True)


@app.command("run")
@command
def run_suite(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Of `suite list`, or a file of your own.")],
    cells: Annotated[
        str, typer.Option("--cells", metavar="PATTERN", help="Only cells of these names, such as 'resnet50*'.")
    ] = "*",
    model: Annotated[
        Optional[List[str]],
        typer.Option(
            "--model", metavar="ARCHITECTURE=FILE", help="A model of yours instead of random weights; repeat."
        ),
    ] = None,
    data: Annotated[Optional[str], options.data("Images that calibrate INT8 of model files a suite names.")] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="What builds engines: auto, tensorrt, openvino or onnxruntime.")
    ] = "auto",
    rounds: Annotated[
        Optional[int],
        typer.Option("--rounds", min=1, help="Fresh processes per engine [default: 5, which give a verdict; vnv: 10]."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One round: a ratio, no verdict.")] = False,
    warmup: Annotated[str, typer.Option("--warmup", help="Unmeasured time before each batch size.")] = "200ms",
    duration: Annotated[str, typer.Option("--duration", help="Measured time of each batch size in each round.")] = "1s",
    iterations: Annotated[
        int, typer.Option("--iterations", min=1, help="Runs of each batch size in each round, at least.")
    ] = 10,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything, also what an interrupted run has kept.")
    ] = False,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="runs.json", help="Run file; models and bundles are kept beside it.")
    ] = Path("runs.json"),
    *,
    source: Dict[str, Any],
) -> None:
    """Build and measure what can be made here, and hold each cell against its published value.

    Exit code 5 where some cells failed, 4 where none can be made here; of vnv 3 where the verdict is not PASS.
    """
    from bench.suites.verdict import FAILED
    from optimize import suite, validation
    from optimize.selection import plans

    plan = plans.is_plan(name)
    follow: Callable[..., Dict[str, Any]] = validation.run if plan else suite.run
    count = 1 if quick else rounds
    asked = {} if count is None else {"rounds": count}
    kept = Path(f"{out}.partial" if plan else f"{out}.cells")
    with interruptible("what was measured is kept", kept), progress() as report:
        done = follow(
            name,
            cells=cells,
            out=out,
            models=model or [],
            data=data,
            backend=backend,
            **asked,
            warmup=warmup,
            duration=duration,
            iterations=iterations,
            fresh=fresh,
            command=" ".join(["optimize", *map(shlex.quote, sys.argv[1:])]),
            progress=report,
            **source,
        )
    if plan:
        tell(done)
        return
    answer(done, lambda: _show(done), asked=True)
    failed = [cell for cell in done["cells"] if cell["verdict"] == FAILED]
    for cell in failed:
        warn(f"error: {cell['name']}: {'; '.join(cell['why'])}")
    if done["run"]:
        say(f"run file: {out}   next: optimize report {shlex.quote(str(out))} -f md")
        if failed:
            raise PartialError(f"{len(failed)} of the cells could not be measured; the others are kept in {out}")
    elif failed:
        raise OptimizeError(f"none of the {len(failed)} cells that can be made here could be measured")
    else:
        raise IncompatibleError(f"no cell of {done['suite']} can be made here", "optimize suite list")


def _show_suites(found: List[Dict[str, Any]]) -> None:
    rows = []
    for one in found:
        source = one["source"]
        words = ", ".join(word for word in (source["document"], source["date"], source["url"]) if word)
        rows.append([one["name"], one["title"], words, str(one["cells"]), str(one["made"])])
    columns = [Column(name, least=12) for name in ("suite", "what", "source")]
    table([*columns, *(Column(name, right=True) for name in ("cells", "with a model"))], rows, leave_out=("source",))


def _show(done: Dict[str, Any]) -> None:
    columns = [
        *(Column(name, least=9) for name in ("cell", "precision")),
        *(Column(name, right=True) for name in ("batch", "published", "here", "unit", "here / published speed")),
        *(Column(name, least=12) for name in ("verdict", "why")),
    ]
    rows = []
    for cell in done["cells"]:
        numbers = [_number(cell[key]) for key in ("batch", "published", "value")]
        speed = "" if cell["ratio"] is None else f"{cell['ratio']:.3g}x"
        why = "; ".join([*cell["why"], *(f"[{text}]" for text in cell["remarks"])])
        rows.append([cell["name"], cell["precision"] or "", *numbers, cell["unit"], speed, cell["verdict"], why])
    table(columns, rows, done["title"], leave_out=("batch", "precision", "here / published speed", "unit", "why"))
    source = done["source"]
    line(f"published: {', '.join(word for word in (source['document'], source['date'], source['url']) if word)}")
    line(f"here: {done['machine']['name']}; reproduced is within the interval or {100 * done['tolerance']:g}%")


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.6g}"
