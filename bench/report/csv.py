"""A run as CSV: one line a row, always the same columns, numbers in full."""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, Iterable, List, Sequence

from bench.report.cells import UNMEASURED
from bench.runs import LATENCIES
from engines.text import plain

PASSES = ("mean_s", "max_s", "min_s")

ENERGY = ("rail", "watts", "idle_watts", "joules_per_image", "joules_above_idle_per_image")

USAGE = ("busy", "busy_by", "cpus", "memory_delta_bytes", "peak_rss_bytes", "gpu_measured_bytes", "gpu_utilisation")

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
    *(f"passes_{name}" for name in PASSES),
    "streams",
    *USAGE,
)
"""Never renamed or reordered: new ones go to the end."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that make a spreadsheet run a cell, full-width ones too (OWASP, CSV Injection)."""


def text(run: Dict[str, Any]) -> str:
    """The CSV file of a run (RFC 4180, with a header line)."""
    return table(COLUMNS, [_line(row) for row in run["rows"]])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Any table as CSV; no cell of it is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([_cell(value) for value in row] for row in [head, *rows])
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
        "streams": row.get("streams"),
        **{name: (row.get("energy") or {}).get(name) for name in ENERGY},
        **{f"passes_{name}": (row.get("passes") or {}).get(name) for name in PASSES},
        **{name: (row.get("usage") or {}).get(name) for name in USAGE},
    }
    return [value[name] for name in COLUMNS]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str):
        guarded = "'" + value if value.startswith(_FORMULA) else value
        return plain(guarded)
    return value
