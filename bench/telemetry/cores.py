"""What every core did between two moments, and its interrupts: mpstat's columns, from /proc."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""Of a `cpuN` line of /proc/stat, in order; `user` holds guest time too. Source: proc(5)."""

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Reading(NamedTuple):
    """Counters since the machine started.

    Attributes:
        at: `time.monotonic`, seconds.
        seconds: By core, of each of `COLUMNS`.
        interrupts: By core.
        switches: Context switches of the machine.
    """

    at: float
    seconds: Dict[int, Tuple[float, ...]]
    interrupts: Dict[int, int]
    switches: int


def read(root: Path = Path("/")) -> Optional[Reading]:
    """The counters now; None where the system has no /proc/stat."""
    try:
        stat = (root / "proc/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    seconds = {
        int(core): tuple(int(word) / _TICKS for word in (words.split() + ["0"] * len(COLUMNS))[: len(COLUMNS)])
        for core, words in re.findall(r"^cpu(\d+) +([\d ]+)$", stat, re.MULTILINE)
    }
    switches = re.search(r"^ctxt (\d+)$", stat, re.MULTILINE)
    return Reading(time.monotonic(), seconds, _interrupts(root), int(switches.group(1)) if switches else 0)


def _interrupts(root: Path) -> Dict[int, int]:
    """Sums over the lines of /proc/interrupts, whose heading names the cores that are online.

    Lines with fewer numbers than cores (ERR, MIS) belong to no core.
    """
    try:
        heading, *lines = (root / "proc/interrupts").read_text(encoding="ascii", errors="replace").splitlines()
    except (OSError, ValueError):
        return {}
    online = [int(number) for number in re.findall(r"CPU(\d+)", heading)]
    total = dict.fromkeys(online, 0)
    for line in lines:
        words = line.partition(":")[2].split()[: len(online)]
        if len(words) == len(online) and all(word.isdigit() for word in words):
            for core, word in zip(online, words):
                total[core] += int(word)
    return total


def between(first: Optional[Reading], last: Optional[Reading]) -> Optional[Dict[str, Any]]:
    """What happened from one reading to the other.

    Returns:
        `cores` [{`core`, `busy` and each of `COLUMNS` but idle (shares, 0 to 1), `interrupts_per_s`}] of those that
        were online at both moments, and `interrupts_per_s`, `switches_per_s` of the machine; None where nothing was
        read or no time has passed.
    """
    if first is None or last is None or last.at <= first.at:
        return None
    elapsed = last.at - first.at
    cores: List[Dict[str, Any]] = []
    for core in sorted(set(first.seconds) & set(last.seconds)):
        spent = [max(b - a, 0.0) for a, b in zip(first.seconds[core], last.seconds[core])]  # idle can step back
        total = sum(spent)
        share = {name: value / total if total else 0.0 for name, value in zip(COLUMNS, spent)}
        idle = share.pop("idle")
        count = last.interrupts.get(core, 0) - first.interrupts.get(core, 0)
        busy = 1.0 - idle - share["iowait"] if total else 0.0
        cores.append({"core": core, "busy": max(busy, 0.0), **share, "interrupts_per_s": max(count, 0) / elapsed})
    return {
        "cores": cores,
        "interrupts_per_s": sum(core["interrupts_per_s"] for core in cores),
        "switches_per_s": max(last.switches - first.switches, 0) / elapsed,
    }
