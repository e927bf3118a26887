"""What every report for people says beside the numbers: the machine, its state, how it was measured, how to again.

All in plain text; each format escapes it in its own way.
"""

from __future__ import annotations

import shlex
from typing import Any, Dict, List, Tuple

from bench import stats
from bench.report.cells import number
from bench.report.flags import DISTURBED

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
    ("gpu_limits", "GPU clocks held down by"),
)


def machine(environment: Dict[str, Any]) -> List[Tuple[str, str]]:
    """Facts of the machine, name and value, those that are known; the packages last."""
    known = {k: v for k, v in environment.items() if k not in ("before", "after", "packages") and v not in (None, "")}
    if "memory_bytes" in known:
        known["memory"] = _value("memory_bytes", known.pop("memory_bytes"))
    found = [(name.replace("_", " "), _value(name, value)) for name, value in known.items()]
    packages = environment.get("packages") or {}
    if packages:
        found.append(("packages", ", ".join(f"{name} {version}" for name, version in packages.items())))
    return found


def state(environment: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """The machine's state: what, before and after; nothing where the system does not tell it."""
    before, after = environment.get("before") or {}, environment.get("after") or {}
    if not before and not after:
        return []
    board = [("power_mode", "power mode")] if before.get("power_mode") or after.get("power_mode") else []
    return [(label, _value(key, before.get(key)), _value(key, after.get(key))) for key, label in (*board, *_STATE)]


def _value(key: str, value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none" if key in ("cooling", "gpu_limits") and value == [] else "unknown"
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


def how(run: Dict[str, Any]) -> List[str]:
    """How the numbers were taken and what they mean, a sentence each."""
    s = run.get("settings", {})
    lines = [
        "Wall time of one query at a time, host array in and host array out, copies included; the same loop for all.",
        "Each round runs every target in a fresh process of its own, in turn forwards and backwards (A B C, C B A).",
    ]
    if s and "samples" in s:
        lines = [
            lines[0],
            f"Each row is of one fresh process: {s['samples']} queries one after the other, kept in order.",
        ]
    elif s:
        data = s.get("data")
        lines.append(
            f"Rounds: {s.get('rounds', '?')}, of {s.get('duration_s', '?')} s for each batch after "
            f"{s.get('warmup_s', '?')} s of warm-up, {s.get('iterations', '?')} queries at least; inputs: "
            + (f"test images of {data}." if data else f"random images, seed {s.get('seed', 0)}.")
        )
    lines += [
        "p50 is the median; p99 is trtexec's: a measured sample, not interpolated.",
        f"Intervals: {100 * stats.LEVEL:.0f}%, bootstrap over rounds first, then samples; with fewer than "
        f"{stats.VERDICT_ROUNDS} rounds there is a ratio and no verdict.",
        *(f"Flag {flag}: {meaning}." for flag, meaning in DISTURBED.items()),
    ]
    return lines + [f"Accuracy: {line}" for line in _accuracy(run)]


def _accuracy(run: Dict[str, Any]) -> List[str]:
    found = [row["dataset"] for row in run["rows"] if row["dataset"]]
    lines = dict.fromkeys(f"{one['n']} images of {one['name']}, SHA-256 {one['sha256']}" for one in found)
    return list(lines) or ["unmeasured (add --data cifar10, a folder or an .npz file)"]


def again(run: Dict[str, Any]) -> str:
    """The command that measures the same once more: the one that was given, else one made of what the run holds."""
    s = run.get("settings", {})
    command = s.get("command")
    if command:
        return " ".join(shlex.quote(str(word)) for word in command) if isinstance(command, list) else str(command)
    names = dict.fromkeys(str(row["target"]) for row in run["rows"] if row["role"] == "engine")
    base = dict.fromkeys(str(row["target"]) for row in run["rows"] if row["role"] == "original")
    batches = ",".join(str(b) for b in sorted({row["batch"] for row in run["rows"]}))
    words = ["optimize", "bench", *(names or base), "--batch", batches or "1,64"]
    if names and base:
        words += ["--baseline", next(iter(base))]
    for option, key, unit in (("--rounds", "rounds", ""), ("--duration", "duration_s", "s")):
        words += [option, f"{s[key]}{unit}"] if key in s else []
    words += ["--data", str(s["data"])] if s.get("data") else []
    return " ".join(shlex.quote(word) for word in words)
