"""A run as CSV: one line a row, always the same columns, numbers in full."""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, List

from bench.report.cells import UNMEASURED
from bench.runs import LATENCIES
from engines.text import plain

ENERGY = ("rail", "watts", "idle_watts", "joules_per_image", "joules_above_idle_per_image")

COLUMNS = (
    "run",
    "target",
    "role",
    "form",
    "backend",
    "precision",
    "achieved",
    "batch",
    "images",
    "dataset",
    "origin",
    "size_bytes",
    *LATENCIES,
    "images_per_s",
    "rounds",
    "top1",
    "top1_drop",
    "agreement",
    "speedup",
    "speedup_low",
    "speedup_high",
    "flags",
    "on",
    *ENERGY,
    "threads",
)
"""Never renamed or reordered: new ones go to the end."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters that make a spreadsheet run a cell (OWASP, CSV Injection)."""


def text(run: Dict[str, Any]) -> str:
    """The CSV file of a run (RFC 4180, with a header line)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in run["rows"]:
        writer.writerow(_line(row))
    return out.getvalue()


def _line(row: Dict[str, Any]) -> List[Any]:
    low, high = row.get("interval") or (None, None)
    dataset = row["dataset"]
    value = {
        **row,
        "run": row.get("run", 0),
        "achieved": " ".join(f"{name}:{count}" for name, count in row["achieved"].items()),
        "dataset": f"{dataset['name']} n={dataset['n']} sha256={dataset['sha256']}" if dataset else "",
        "rounds": len(row["rounds"]),
        **{name: UNMEASURED if row[name] is None else row[name] for name in ("top1", "top1_drop", "agreement")},
        "speedup_low": low,
        "speedup_high": high,
        "flags": "; ".join(row["flags"]),
        "on": row.get("on"),
        "threads": row.get("threads"),
        **{name: (row.get("energy") or {}).get(name) for name in ENERGY},
    }
    return [_cell(value[name]) for name in COLUMNS]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str):
        guarded = "'" + value if value.startswith(_FORMULA) else value
        return plain(guarded)
    return value
