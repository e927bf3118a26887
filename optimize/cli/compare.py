"""`optimize compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import GateError
from engines.terminal import Column
from optimize.cli.console import answer, line, table, warn


def compare(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="Run file that the others are compared with.")],
    runs: Annotated[List[Path], typer.Argument(metavar="NEW...", help="Run files of optimize bench.")],
    force: Annotated[
        bool, typer.Option("--force", help="Compare unlike machines, states, models and data all the same.")
    ] = False,
    fail_slower: Annotated[
        Optional[str], typer.Option("--fail-slower", metavar="5%", help="Exit 3 where a cell is slower by more.")
    ] = None,
    fail_drop: Annotated[
        Optional[float], typer.Option("--fail-drop", metavar="0.5", help="Exit 3 where top-1 lost more points.")
    ] = None,
) -> None:
    """Say which cells became faster or slower, with intervals; refuse unlike machines.

    Exit code 3 where a limit is broken, 4 where the machines, states, models or data are unlike.
    """
    from optimize import comparison

    found = comparison.compare(reference, runs, force)
    broken = comparison.broken(found, fail_slower, fail_drop)
    answer(found, lambda: _show(found), asked=True)
    for run in found["runs"]:
        for text in run["unlike"]:
            warn(f"warning: unlike the reference: {text}")
    if broken:
        for name, words in broken:
            warn(f"error: {name}: {words}")
        raise GateError(f"{len(broken)} limits are broken")


_LEAVE_OUT = ("precision", "reference ms", "ms", "top-1", "interval", "form")


def _show(found: Dict[str, Any]) -> None:
    for run in found["runs"]:
        _table(run, found["reference"])


def _table(run: Dict[str, Any], reference: str) -> None:
    more = [name for name in ("threads", "streams") if any(cell[name] for cell in run["cells"])]
    numbers = ("batch", *more, "reference ms", "ms", "change", "interval", "top-1")
    columns = [
        *(Column(name, least=least) for name, least in (("target", 16), ("form", 8), ("precision", 9))),
        *(Column(name, right=True) for name in numbers),
        Column("verdict", least=12),
    ]
    rows = []
    for cell in run["cells"]:
        top1 = "" if cell["top1_change"] is None else f"{cell['top1_change']:+.2f}"
        words = [cell[name] for name in ("target", "form", "precision")]
        times = [_number(cell[name]) for name in ("reference_ms", "ms")]
        flags = f" ({', '.join(cell['flags'])})" if cell["flags"] else ""
        spread = _interval(cell["interval"])
        counts = [str(cell[name] or "") for name in ("batch", *more)]
        rows.append([*words, *counts, *times, faster(cell["ratio"]), spread, top1, cell["verdict"] + flags])
    table(columns, rows, f"{run['name']} beside the reference {reference}", _LEAVE_OUT)
    mean = run["geomean"]
    if mean and mean["cells"] > 1:
        spread = f" {_interval(mean['interval'])}" if mean["interval"] else ""
        line(f"geometric mean of {mean['cells']} cells: {faster(mean['ratio'])}{spread}")
    for what, names in (("not in this run", run["lacking"]), ("not in the reference", run["added"])):
        if names:
            line(f"{what}: {', '.join(names)}")


def faster(ratio: Optional[float]) -> str:
    """`1.80x faster`, `1.25x slower`: the larger time over the smaller; `the same` where both are to two digits."""
    if ratio is None:
        return ""
    if 0.995 < ratio < 1.005:
        return "the same"
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def _interval(ends: Optional[List[float]]) -> str:
    return "" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.4g}"
