"""The state of a Linux machine from /proc and /sys, taken before and after a measurement and never during it.

Everything is read under a root folder that tests replace by a made-up tree. What a machine does not tell is None.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

BUSY = 0.10
"""Share of the machine's CPU time taken by others (other processes, or a hypervisor) from which a cell is flagged."""

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

_CPUS = "sys/devices/system/cpu"

_OVERCURRENT = "sys/class/hwmon/hwmon*/oc[0-9]_event_cnt"
"""Counters of NVIDIA's boards (`soctherm_oc`): under-voltage, and average and instantaneous over-current."""

_SLOWING = r"cpufreq|processor|throttle-alert|hot-surface-alert"
"""Kinds of cooling devices that slow a processor; a fan is none. The alerts are those of NVIDIA's boards."""


def state(root: Path = Path("/"), sample_s: float = 0.0) -> Dict[str, Any]:
    """Read the state of the machine.

    Args:
        root: Folder that holds `proc` and `sys`.
        sample_s: Seconds over which `others_share` and `steal_share` are taken; 0 leaves them None.

    Returns:
        `governor`, `turbo`, `clocks` (`locked`: no CPU can change its frequency; `free`; `unknown`), `min_mhz`,
        `max_mhz`, `cur_mhz` (lowest and highest over CPUs), `limit_mhz` (what the highest is capped to now), `load`
        (1, 5, 15 minutes), `memory_available_bytes`, `temperatures_c` by zone, `throttle_count`, `cooling` (devices
        that slow a CPU now), `others_share`, `steal_share`, and `cpu_seconds` (`total`, `busy`, `steal`, `own`: all
        since the start; own counts this process and its finished children). Empty elsewhere than on Linux.
    """
    if not sys.platform.startswith("linux"):
        return {}
    root = Path(root)
    first = cpu_seconds(root)
    if sample_s > 0:
        time.sleep(sample_s)
    last = cpu_seconds(root)
    shares = usage(first, last) if sample_s > 0 else {"others_share": None, "steal_share": None}
    return {
        **_clocks(root),
        "load": _load(root),
        "memory_available_bytes": _memory(root),
        "temperatures_c": _temperatures(root),
        "throttle_count": _throttle_count(root),
        "cooling": _cooling(root),
        **shares,
        "cpu_seconds": last,
    }


def usage(before: Optional[Dict[str, float]], after: Optional[Dict[str, float]]) -> Dict[str, Optional[float]]:
    """Shares (0 to 1) of the machine's CPU time between two readings of `cpu_seconds`, other processes' and stolen."""
    if not before or not after or after["total"] <= before["total"]:
        return {"others_share": None, "steal_share": None}
    spent = {name: after[name] - before[name] for name in after}
    others = max(spent["busy"] - spent["own"], 0.0)
    return {"others_share": min(others / spent["total"], 1.0), "steal_share": spent["steal"] / spent["total"]}


def flags(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    """What disturbed a measurement between two states, in words: `clocks free`, `throttled`, `busy`."""
    found = []
    if "free" in (before.get("clocks"), after.get("clocks")):
        found.append("clocks free")
    counts = [s.get("throttle_count") for s in (before, after)]
    limits = [s.get("limit_mhz") for s in (before, after)]
    counted = counts[0] is not None and counts[1] is not None and counts[1] > counts[0]
    lowered = limits[0] is not None and limits[1] is not None and limits[1] < limits[0]
    if counted or lowered or after.get("cooling"):
        found.append("throttled")
    shares = [*usage(before.get("cpu_seconds"), after.get("cpu_seconds")).values(), before.get("others_share")]
    if any(share is not None and share > BUSY for share in shares):
        found.append("busy")
    return found


def cpu_seconds(root: Path = Path("/")) -> Optional[Dict[str, float]]:
    """CPU time since the start, in seconds over all CPUs: `total`, `busy`, `steal`, and `own`; None where not told.

    Source: proc(5), /proc/stat and /proc/self/stat. Guest time is part of user time there and is not counted twice.
    """
    found = re.search(r"^cpu +([\d ]+)$", _text(root / "proc/stat"), re.MULTILINE)
    fields = _text(root / "proc/self/stat").rpartition(")")[2].split()
    if found is None or len(fields) < 15:
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = [*map(int, found.group(1).split()), 0, 0, 0, 0][:8]
    busy = user + nice + system + irq + softirq
    own = sum(int(value) for value in fields[11:15])  # utime, stime, cutime, cstime
    ticks = {"total": busy + idle + iowait + steal, "busy": busy, "steal": steal, "own": own}
    return {name: value / _TICKS for name, value in ticks.items()}


def _clocks(root: Path) -> Dict[str, Any]:
    policies = sorted(root.glob(f"{_CPUS}/cpu[0-9]*/cpufreq"))
    governors = sorted({_text(p / "scaling_governor").strip() for p in policies} - {""})
    read = {name: [_mhz(p / f"scaling_{name}_freq") for p in policies] for name in ("min", "max", "cur")}
    known = {name: [v for v in values if v is not None] for name, values in read.items()}
    pinned = bool(policies) and all(lo is not None and lo == hi for lo, hi in zip(read["min"], read["max"]))
    turbo = _turbo(root)
    return {
        "governor": ", ".join(governors) or None,
        "turbo": turbo,
        "clocks": "unknown" if not policies else "locked" if pinned and not turbo else "free",
        "min_mhz": min(known["min"], default=None),
        "max_mhz": max((v for v in (_mhz(p / "cpuinfo_max_freq") for p in policies) if v is not None), default=None),
        "limit_mhz": max(known["max"], default=None),
        "cur_mhz": [min(known["cur"]), max(known["cur"])] if known["cur"] else None,
    }


def _turbo(root: Path) -> Optional[bool]:
    no_turbo = _text(root / _CPUS / "intel_pstate/no_turbo").strip()
    boost = _text(root / _CPUS / "cpufreq/boost").strip()
    if no_turbo in ("0", "1"):
        return no_turbo == "0"
    return boost == "1" if boost in ("0", "1") else None


def _mhz(path: Path) -> Optional[float]:
    value = _number(path)
    return None if value is None else value / 1000


def _load(root: Path) -> Optional[List[float]]:
    words = _text(root / "proc/loadavg").split()[:3]
    return [float(word) for word in words] if len(words) == 3 else None


def _memory(root: Path) -> Optional[int]:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _temperatures(root: Path) -> Dict[str, float]:
    """Highest temperature of each kind of zone; zones that are off read as errors or absurd values."""
    found: Dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = _number(zone / "temp")
        kind = _text(zone / "type").strip() or zone.name
        if value is not None and -50_000 < value < 150_000:
            found[kind] = max(found.get(kind, -273.0), value / 1000)
    return found


def _throttle_count(root: Path) -> Optional[int]:
    """Times that a processor was slowed for heat; on NVIDIA's boards for too high a current or too low a voltage."""
    paths = [*root.glob(f"{_CPUS}/cpu[0-9]*/thermal_throttle/*_throttle_count"), *root.glob(_OVERCURRENT)]
    found = [_number(p) for p in paths]
    known = [int(value) for value in found if value is not None]
    return sum(known) if known else None


def _cooling(root: Path) -> List[str]:
    """Kinds of cooling devices that slow a processor down at this moment."""
    found = set()
    for device in root.glob("sys/class/thermal/cooling_device*"):
        kind = _text(device / "type").strip()
        if re.search(_SLOWING, kind, re.IGNORECASE) and (_number(device / "cur_state") or 0) > 0:
            found.add(kind)
    return sorted(found)


def _number(path: Path) -> Optional[float]:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """Text of a system file; empty where there is none, or where the driver refuses to tell."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
