"""Reports of run files: the same rows and the same numbers as a terminal table, Markdown, CSV, JSON and a picture."""

from __future__ import annotations

from typing import Any, Callable, Dict

from bench.report import csv, json, md, svg

FORMATS: Dict[str, Callable[[Dict[str, Any]], str]] = {
    "md": md.text,
    "csv": csv.text,
    "json": json.text,
    "svg": svg.text,
}
"""Each turns a run (`optimize.run/1`) into the text of `report.<format>`."""
