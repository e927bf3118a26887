"""`optimize suite run` of a plan: the document's table, its steps and its verdict."""

from __future__ import annotations

from typing import Any, Dict, Optional

from engines.errors import GateError, PartialError
from engines.terminal import Column
from optimize.cli.console import answer, line, table, warn


def tell(done: Dict[str, Any]) -> None:
    """Print a validation, and end with exit 5 where something could not be measured, with 3 where it is no PASS.

    Raises:
        PartialError, GateError: As said.
    """
    answer(done, lambda: _show(done), asked=True)
    for one in done["failures"]:
        warn(f"error: {one['target']}: {one['message']}")
    if done["failures"]:
        raise PartialError(f"{len(done['failures'])} of the models could not be measured; the others are in the table")
    if done["verdict"] != "PASS":
        raise GateError(f"{done['verdict']}: {done['why']}")


def _show(done: Dict[str, Any]) -> None:
    columns = [
        *(Column(name, least=10) for name in ("device", "baseline")),
        *(Column(name, right=True) for name in ("top-1 %", "s")),
        Column("advanced", least=10),
        *(Column(name, right=True) for name in ("top-1 %", "s", "saving", "drop")),
        Column("verdict"),
    ]
    rows = []
    for device in done["devices"]:
        choice = device["choice"]
        top1 = {one["target"]: one["top1"] for one in choice["candidates"]}
        words = [device["name"]]
        for side in ("baseline", "advanced"):
            name = choice["baseline" if side == "baseline" else "chosen"]
            accuracy = None if name is None else 100 * top1[name]
            words += [name or "none", _number(accuracy, ".2f"), _number(device[f"{side}_s"])]
        saving = None if choice["saving"] is None else 100 * choice["saving"]
        words += [_number(saving, ".1f") + "%", _number(choice["drop_points"], ".2f"), choice["verdict"]]
        rows.append(words)
    table(columns, rows, done["title"], leave_out=("top-1 %", "s"))
    for device in done["devices"]:
        line(f"{device['name']}:")
        for number, text in enumerate(device["steps"], 1):
            line(f"  {number}. {text}")
    if done["saving"] is not None:
        saved, of_sums = (100 * done[name] for name in ("saving", "saving_of_means"))
        line(
            f"{done['verdict']}: over {_devices(done)} {saved:.1f}% is saved as mean of ratios, "
            f"{of_sums:.1f}% as ratio of sums; at most {done['drop_points']:.2f} points are lost; {done['why']}"
        )
    for text in done["remarks"]:
        line(f"remark: {text}")


def _devices(done: Dict[str, Any]) -> str:
    count = len(done["devices"])
    return f"{count} devices" if count > 1 else "one device"


def _number(value: Optional[float], form: str = ".4g") -> str:
    return "?" if value is None else f"{value:{form}}"
