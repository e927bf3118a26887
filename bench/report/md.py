"""A run as report.md: the tables, the machine and its state, how it was measured, and how to measure it again."""

from __future__ import annotations

import html
import re
from typing import Any, Dict, Iterable, List

from bench import knee
from bench.report import about
from bench.report.cells import COLUMNS, PASSES, Columns, cells, failed, groups, name, notes, passes
from bench.report.flags import told
from bench.tail import words
from engines.text import plain


def text(run: Dict[str, Any]) -> str:
    """The Markdown file of a run."""
    parts = ["# Measurements", f"Made {run['created']}."]
    for heading, rows in groups(run):
        parts += [f"## {heading[0].upper()}{heading[1:]}", _table(COLUMNS, rows), _list(notes(rows))]
    wary = told(run["rows"])
    if wary:
        parts += ["## To be wary of", _list(wary)]
    heading, rows = passes(run)
    if rows:
        parts += [f"## {heading[0].upper()}{heading[1:]}", _table(PASSES, rows)]
    for heading, rows in groups(run):
        for row in (row for row in rows if row.get("tail")):
            tail = [*words.seen(row["tail"]), *words.tested(row["tail"]), *words.estimates(row["tail"])]
            parts += [f"## Tail of {escape(name(row))}, {heading}", _list(tail)]
            parts += [f"{words.NOT_SURE.capitalize()}."] if row["tail"]["estimates"] else []
    levelled = knee.notes(run)
    if levelled:
        parts += ["## Knee batch", _list(levelled)]
    if not run["rows"]:
        parts.append("Nothing was measured.")
    if run.get("failures"):
        parts += ["## Failed", _list(failed(run))]
    several = run.get("environments", [])
    for place, environment in enumerate(several or [run["environment"]]):
        whose = f" of run {place + 1}" if several else ""
        parts += [f"## Machine{whose}", _machine(environment), f"## State{whose}", _state(environment)]
    again = f"```\n{plain(about.again(run))}\n```"
    parts += ["## How it was measured", _list(about.how(run)), "## Again", again]
    return "\n\n".join(parts) + "\n"


def escape(value: str) -> str:
    """Text as Markdown shows it literally: no table breaks, links, emphasis or HTML."""
    return html.escape(re.sub(r"([\\`*_\[\]|#])", r"\\\1", plain(value)), quote=False)


def _table(columns: Columns, rows: List[Dict[str, Any]]) -> str:
    head = [name for name, _, _ in columns]
    rule = ["---:" if right else "---" for _, right, _ in columns]
    body = [[escape(cell) for cell in cells(row, columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def _machine(environment: Dict[str, Any]) -> str:
    facts = about.machine(environment)
    return _list(f"{name}: {value}" for name, value in facts) or "Unknown."


def _state(environment: Dict[str, Any]) -> str:
    found = about.state(environment)
    if not found:
        return "Not recorded on this system."
    lines = [f"| {label} | {escape(before)} | {escape(after)} |" for label, before, after in found]
    return "\n".join(["| | before | after |", "|---|---|---|", *lines])


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
