"""A run as `optimize.report/1`: its rows without the samples, for programs."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from bench.knee import knees
from bench.report.cells import groups, notes
from bench.runs import fastest_original
from engines import jsonfile

SCHEMA = "optimize.report/1"


def text(run: Dict[str, Any]) -> str:
    """The JSON file of a run."""
    return jsonfile.dumps(report(run))


def report(run: Dict[str, Any]) -> Dict[str, Any]:
    """A run without its samples.

    Returns:
        `schema`, `created`, `environment`, `settings`, `rows` (as in the run; `rounds` is their number, `samples` the
        number of samples), `batches` ([{heading, batch, fastest_original, notes}]), `knees` (`bench.knee.knees`) and
        `failures`.
    """
    return {
        "schema": SCHEMA,
        "created": run["created"],
        "environment": run["environment"],
        **({"environments": run["environments"]} if "environments" in run else {}),
        "settings": run.get("settings", {}),
        "rows": [_row(row) for row in run["rows"]],
        "batches": [
            {"heading": heading, "batch": rows[0]["batch"], "fastest_original": _base(rows), "notes": notes(rows)}
            for heading, rows in groups(run)
        ],
        "knees": knees(run),
        "failures": list(run.get("failures", [])),
    }


def _row(row: Dict[str, Any]) -> Dict[str, Any]:
    short = {key: value for key, value in row.items() if key != "samples_ms"}
    return {**short, "rounds": len(row["rounds"]), "samples": len(row["samples_ms"])}


def _base(rows: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    base = fastest_original(rows, rows[0]["batch"], rows[0].get("threads"), rows[0].get("streams"))
    return base and {name: base[name] for name in ("target", "form", "precision", "p50_ms")}
