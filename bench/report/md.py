"""A run as report.md: the tables, the machine and its state, how it was measured, and how to measure it again."""

from __future__ import annotations

import html
import re
import shlex
from typing import Any, Dict, List, Optional

from bench import stats
from bench.report.cells import COLUMNS, cells, failed, groups, notes, number
from bench.telemetry import proc
from engines.text import plain

_STATE = (
    ("clocks", "clocks"),
    ("governor", "governor"),
    ("turbo", "turbo"),
    ("cur_mhz", "MHz now (lowest, highest CPU)"),
    ("limit_mhz", "MHz allowed"),
    ("max_mhz", "MHz possible"),
    ("load", "load (1, 5, 15 min)"),
    ("others_share", "CPU share of other processes"),
    ("steal_share", "CPU share stolen by the host"),
    ("memory_available_bytes", "memory available"),
    ("temperatures_c", "temperatures °C"),
    ("throttle_count", "throttle events since start"),
    ("cooling", "cooling active"),
)


def text(run: Dict[str, Any]) -> str:
    """The Markdown file of a run."""
    parts = ["# Measurements", f"Made {run['created']}."]
    for heading, rows in groups(run):
        parts += [
            f"## {heading[0].upper()}{heading[1:]}",
            _table(rows),
            "\n".join(f"- {escape(n)}" for n in notes(rows)),
        ]
    if not run["rows"]:
        parts.append("Nothing was measured.")
    if run.get("failures"):
        parts += ["## Failed", "\n".join(f"- {escape(line)}" for line in failed(run))]
    several = run.get("environments", [])
    for place, environment in enumerate(several or [run["environment"]]):
        name = f" of run {place + 1}" if several else ""
        parts += [f"## Machine{name}", _machine(environment), f"## State{name}", _state(environment)]
    parts += ["## How it was measured", _how(run), "## Again", _again(run)]
    return "\n\n".join(parts) + "\n"


def escape(value: str) -> str:
    """Text as Markdown shows it literally: no table breaks, links, emphasis or HTML."""
    return html.escape(re.sub(r"([\\`*_\[\]|#])", r"\\\1", plain(value)), quote=False)


def _table(rows: List[Dict[str, Any]]) -> str:
    head = [name for name, _, _ in COLUMNS]
    rule = ["---:" if right else "---" for _, right, _ in COLUMNS]
    body = [[escape(cell) for cell in cells(row)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def _machine(environment: Dict[str, Any]) -> str:
    known = {k: v for k, v in environment.items() if k not in ("before", "after", "packages") and v not in (None, "")}
    if "memory_bytes" in known:
        known["memory"] = _value("memory_bytes", known.pop("memory_bytes"))
    lines = [f"- {escape(name.replace('_', ' '))}: {escape(_value(name, value))}" for name, value in known.items()]
    packages = environment.get("packages") or {}
    if packages:
        lines.append("- packages: " + ", ".join(f"{escape(name)} {escape(str(v))}" for name, v in packages.items()))
    return "\n".join(lines) or "Unknown."


def _state(environment: Dict[str, Any]) -> str:
    before, after = environment.get("before") or {}, environment.get("after") or {}
    if not before and not after:
        return "Not recorded on this system."
    lines = ["| | before | after |", "|---|---|---|"]
    for key, label in _STATE:
        pair = [escape(_value(key, state.get(key))) for state in (before, after)]
        lines.append(f"| {label} | {pair[0]} | {pair[1]} |")
    return "\n".join(lines)


def _value(key: str, value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none" if key == "cooling" and value == [] else "unknown"
    if key.endswith("_bytes") and isinstance(value, (int, float)):
        return f"{value / 2**30:.1f} GiB"
    if key.endswith("_share") and isinstance(value, (int, float)):
        return f"{100 * value:.0f}%"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return ", ".join(_value("", item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value('', item)}" for name, item in value.items())
    return str(value)


def _how(run: Dict[str, Any]) -> str:
    s = run.get("settings", {})
    lines = [
        "- Wall time of one query at a time, host array in and host array out, copies included; the same loop for all.",
        "- Each round runs every target in a fresh process of its own, in turn forwards and backwards (A B C, C B A).",
    ]
    if s:
        data = s.get("data")
        lines.append(
            f"- Rounds: {s.get('rounds', '?')}, of {s.get('duration_s', '?')} s for each batch after "
            f"{s.get('warmup_s', '?')} s of warm-up, {s.get('iterations', '?')} queries at least; inputs: "
            + (f"test images of {escape(str(data))}." if data else f"random images, seed {s.get('seed', 0)}.")
        )
    lines += [
        "- p50 is the median; p99 is trtexec's: a measured sample, not interpolated.",
        f"- Intervals: {100 * stats.LEVEL:.0f}%, bootstrap over rounds first, then samples; with fewer than "
        f"{stats.VERDICT_ROUNDS} rounds there is a ratio and no verdict.",
        f"- `unstable`: medians of rounds (of tenths of a single round) vary by {100 * stats.UNSTABLE:.0f}% or more; "
        f"`busy`: other processes took more than {100 * proc.BUSY:.0f}% of the CPU time; `clocks free`: frequencies "
        "could change; `throttled`: the machine slowed down.",
    ]
    lines += [f"- Accuracy: {line}" for line in _accuracy(run)]
    return "\n".join(lines)


def _accuracy(run: Dict[str, Any]) -> List[str]:
    seen = []
    for row in run["rows"]:
        about: Optional[Dict[str, Any]] = row["dataset"]
        line = f"{about['n']} images of {escape(about['name'])}, SHA-256 {about['sha256']}" if about else ""
        if line and line not in seen:
            seen.append(line)
    return seen or ["unmeasured (add --data cifar10, a folder or an .npz file)"]


def _again(run: Dict[str, Any]) -> str:
    s = run.get("settings", {})
    command = s.get("command")
    if isinstance(command, list):
        line = " ".join(shlex.quote(str(word)) for word in command)
    elif command:
        line = str(command)
    else:
        names = dict.fromkeys(str(row["target"]) for row in run["rows"] if row["role"] == "engine")
        base = dict.fromkeys(str(row["target"]) for row in run["rows"] if row["role"] == "original")
        batches = ",".join(str(b) for b in sorted({row["batch"] for row in run["rows"]}))
        words = ["optimize", "bench", *(names or base), "--batch", batches or "1,64"]
        if names and base:
            words += ["--baseline", next(iter(base))]
        for option, key, unit in (("--rounds", "rounds", ""), ("--duration", "duration_s", "s")):
            words += [option, f"{s[key]}{unit}"] if key in s else []
        words += ["--data", str(s["data"])] if s.get("data") else []
        line = " ".join(shlex.quote(word) for word in words)
    return f"```\n{plain(line)}\n```"
