"""Run files of a fleet: whole, as one report, and what they say about which engine a class should serve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence

from bench import runs
from engines import jsonfile
from engines.errors import DamagedError, OptimizeError
from optimize.fleet import plan as plans

if TYPE_CHECKING:
    from optimize.fleet.campaign import Campaign

FORMATS = ("md", "html", "json")


def measured(file: Path) -> Dict[str, Any]:
    """What the journal keeps of a run file that came back.

    Raises:
        DamagedError: It is not one, or no report could be written of its text.
    """
    try:
        run = runs.read(file)
        jsonfile.dumps(run).encode()
    except FileNotFoundError:
        raise DamagedError(f"{file}: no run file came back") from None
    except (UnicodeEncodeError, RecursionError) as error:
        raise DamagedError(f"{file}: not Unicode, or nested too deeply ({type(error).__name__})") from None
    return {"sha256": jsonfile.sha256(file), "rows": len(run["rows"])}


def is_whole(file: Path, value: Any) -> bool:
    """Whether a run file is still the one that came back."""
    return isinstance(value, dict) and file.is_file() and jsonfile.sha256(file) == value.get("sha256")


def report(files: Mapping[str, Path], out: Path, command: Sequence[str]) -> List[Path]:
    """Write one report of the run files of several boards, each row under its board's name.

    Args:
        files: By board.
        out: Folder to write to.
        command: What measures the same once more.

    Returns:
        What was written; nothing without a run file.

    Raises:
        DamagedError: A run file is not whole.
    """
    from bench.report import FORMATS as texts

    if not files:
        return []
    named = [_named(runs.read(file), board) for board, file in files.items()]
    run = runs.merge(named)
    run = {**run, "settings": {**run.get("settings", {}), "command": list(command)}}
    runs.write(out / "runs.json", run)
    written = [out / "runs.json"]
    for name in FORMATS:
        target = out / f"report.{name}"
        with jsonfile.replacing_file(target) as part:
            part.write_text(texts[name](run), encoding="utf-8")
        written.append(target)
    return written


def _named(run: Dict[str, Any], board: str) -> Dict[str, Any]:
    rows = [{**row, "target": f"{board}: {row['target']}"} for row in run["rows"]]
    failures = [{**one, "target": f"{board}: {one['target']}"} for one in run.get("failures", [])]
    return {**run, "rows": rows, "failures": failures}


def choose(campaign: Campaign, name: str) -> str:
    """Name of the shipment that a class should serve by the plan; empty where there is none.

    The fastest has the lowest geometric mean of its medians over boards and batches; only engines whose gate was not
    failed were shipped at all.
    """
    there = {one["precision"]: ship for ship, one in campaign.published[name].items()}
    asked = campaign.plan.activate
    if asked != plans.FASTEST:
        return there.get(asked, "")
    rows: List[Dict[str, Any]] = []
    for board in campaign.alive(name):
        try:
            rows += runs.read(campaign.run_file(board.name))["rows"]
        except (OptimizeError, FileNotFoundError):
            continue
    times = {precision: _mean(rows, precision) for precision in there}
    known = {precision: ms for precision, ms in times.items() if ms is not None}
    return there[min(known, key=lambda one: known[one])] if known else ""


def _mean(rows: Sequence[Mapping[str, Any]], precision: str) -> Any:
    found = [float(r["p50_ms"]) for r in rows if r["role"] == "engine" and r["precision"] == precision and r["p50_ms"]]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else None
