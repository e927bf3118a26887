"""Reports of run files: the same rows and numbers on a terminal, as Markdown, HTML, CSV, JSON and in pictures."""

from __future__ import annotations

from typing import Any, Callable, Dict

from bench.report import csv, html, json, md, png, svg

FORMATS: Dict[str, Callable[[Dict[str, Any]], str]] = {
    "md": md.text,
    "html": html.text,
    "csv": csv.text,
    "json": json.text,
    "svg": svg.text,
}
"""Each turns a run (`optimize.run/1`) into the text of `report.<format>`."""

IMAGES: Dict[str, Callable[[Dict[str, Any]], bytes]] = {"png": png.image}
"""Formats that are no text."""
