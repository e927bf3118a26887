"""What every report for people shows: columns, cells in words, the lines below the table."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

from bench import stats
from bench.runs import fastest_original

UNMEASURED = "unmeasured"


def number(value: Optional[float], digits: int = 4) -> str:
    """A number with `digits` significant digits and no exponent; `-` where there is none."""
    if value is None:
        return "-"
    decimals = 0
    while decimals < digits - 1 and abs(value) * 10**decimals < 10 ** (digits - 1):
        decimals += 1
    return f"{value:.{decimals}f}"


def _target(row: Dict[str, Any]) -> str:
    return f"{row['target']} *" if row["role"] == "original" else str(row["target"])


def _where(row: Dict[str, Any]) -> str:
    """Where an original computed, as its framework told it."""
    return f"on {row['on']}" if row.get("on") else ""


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def _achieved(row: Dict[str, Any]) -> str:
    counts = sorted(row["achieved"].items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{name}:{count}" for name, count in counts) or "-"


def _speedup(row: Dict[str, Any]) -> str:
    if row["speedup"] is None:
        return "-"
    interval = row.get("interval")
    within = f" [{number(interval[0], 3)}, {number(interval[1], 3)}]" if interval else ""
    return f"{number(row['speedup'], 3)}x{within}"


def _percent(name: str) -> Callable[[Dict[str, Any]], str]:
    return lambda row: UNMEASURED if row[name] is None else f"{100 * row[name]:.2f}%"


def _drop(row: Dict[str, Any]) -> str:
    return UNMEASURED if row["top1_drop"] is None else f"{row['top1_drop']:+.2f}"


def _megabytes(row: Dict[str, Any]) -> str:
    return "-" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.1f}"


def _latency(name: str) -> Callable[[Dict[str, Any]], str]:
    return lambda row: number(row[name])


COLUMNS: Tuple[Tuple[str, bool, Callable[[Dict[str, Any]], str]], ...] = (
    ("target", False, _target),
    ("form", False, lambda row: _words(row["form"], _where(row)) or "-"),
    ("precision", False, lambda row: str(row["precision"]) or "-"),
    ("achieved", False, _achieved),
    ("batch", True, lambda row: str(row["batch"])),
    ("p50 ms", True, _latency("p50_ms")),
    ("p99 ms", True, _latency("p99_ms")),
    ("images/s", True, lambda row: number(row["images_per_s"])),
    ("speed-up", True, _speedup),
    ("top-1", True, _percent("top1")),
    ("drop", True, _drop),
    ("size MB", True, _megabytes),
    ("flags", False, lambda row: ", ".join(row["flags"])),
)
"""Heading, whether it is a number (right-aligned), and the cell of a row."""


def cells(row: Dict[str, Any]) -> List[str]:
    """One row in words, a cell for each of `COLUMNS`."""
    return [cell(row) for _, _, cell in COLUMNS]


def groups(run: Dict[str, Any]) -> List[Tuple[str, List[Dict[str, Any]]]]:
    """Rows by batch (by run where several were merged, by CPU threads where they were given), with a heading.

    Originals stand after engines, faster ones first.
    """
    several = len({row.get("run", 0) for row in run["rows"]}) > 1
    found: Dict[Tuple[int, int, int], List[Dict[str, Any]]] = {}
    for row in run["rows"]:
        found.setdefault((row.get("run", 0), row["batch"], row.get("threads") or 0), []).append(row)
    out = []
    for (number_, batch, threads), rows in sorted(found.items()):
        heading = f"run {number_ + 1}, batch {batch}" if several else f"batch {batch}"
        heading += f", {threads} CPU thread{'s' * (threads > 1)}" if threads else ""
        slowest = float("inf")
        rows.sort(key=lambda r: (r["role"] == "original", slowest if r["p50_ms"] is None else r["p50_ms"]))
        out.append((heading, rows))
    return out


def notes(rows: List[Dict[str, Any]]) -> List[str]:
    """Lines below the table of one batch: what the speed-ups are against and worth, and the times on the GPU."""
    return [*_compared(rows), *(line for row in rows for line in [*_on_gpu(row), *_energy(row)])]


_GPU_TIMES = (("H2D", "h2d_ms"), ("compute", "compute_ms"), ("D2H", "d2h_ms"), ("enqueue", "enqueue_ms"))


def _on_gpu(row: Dict[str, Any]) -> List[str]:
    """trtexec's quantities of a row that has them: the mode, medians by events, its warnings."""
    device = row.get("device")
    if not device:
        return []
    how, name = device["how"], f"{_target(row)} on the GPU"
    graph, transfers = ("with" if how.get(key) else "without" for key in ("graph", "transfers"))
    times = ", ".join(f"{label} {number(device[key]['median'])}" for label, key in _GPU_TIMES)
    waiting = "spinning" if how.get("spin") else "asleep"
    mode = f"mode {device['mode']}: {transfers} transfers, {graph} CUDA graph, waiting {waiting}"
    lines = [f"{name} ({mode}; medians by events, ms): {times}; {number(device['images_per_s'])} images/s"]
    return [*lines, *(f"{name}: {warning}" for warning in device["warnings"])]


def _energy(row: Dict[str, Any]) -> List[str]:
    """What a row's queries drew, by which sensor."""
    found = row.get("energy")
    if not found:
        return []
    name = f"{_words(_target(row), row['form'])}, energy by {found['rail']}"
    if found["watts"] is None:
        return [f"{name}: unknown, the sensor did not answer all the time"]
    watts = f"{number(found['watts'], 3)} W ({number(found['idle_watts'], 3)} W idle)"
    above = number(1e3 * found["joules_above_idle_per_image"], 3)
    per_image = f"{number(1e3 * found['joules_per_image'], 3)} mJ an image ({above} mJ above idle)"
    return [f"{name}: {watts}, {per_image}, {number(found['images_per_joule'], 3)} images/J"]


def _compared(rows: List[Dict[str, Any]]) -> List[str]:
    base = fastest_original(rows, rows[0]["batch"], rows[0].get("threads"))
    if base is None:
        return ["no original was measured: no speed-up (add --baseline MODEL)"]
    form = _words(base["form"], base["precision"], _where(base))
    lines = [
        f"* original; speed-ups are against its fastest form: {base['target']} {form}, {number(base['p50_ms'])} ms"
    ]
    if any("double" in row["flags"] for row in rows):
        lines.append("double: measured on a stand-in for the backend's library; no result of that backend")
    measured = [row for row in rows if row["speedup"] is not None and row is not base]
    if measured and all(row.get("interval") for row in measured):
        lines.append(f"[low, high]: {100 * stats.LEVEL:.0f}% interval of the speed-up, by bootstrap over rounds")
    elif measured:
        fewest = min(len(row["rounds"]) for row in measured)
        lines.append(f"no verdict: fewer than {stats.VERDICT_ROUNDS} rounds ({fewest})")
    return lines


def failed(run: Dict[str, Any]) -> List[str]:
    """A line for each target that could not be measured."""
    return [f"failed: {failure['target']}: {failure['message']}" for failure in run.get("failures", [])]
