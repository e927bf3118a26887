"""The machine of an NVIDIA board or desktop: what it is, its driver, memory, power mode and clocks."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional

from engines.driver import Gpu
from optimize.doctor.row import JETPACK, Row

_GB = 1e9
_MHZ = 1e6

_SWAP = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
    " (8 GB of the disk)"
)

_SMALL = 17 * _GB
"""A board with less memory than this wants swap on the disk: a build takes gigabytes for a moment."""

_LITTLE = 2 * _GB
"""With less than this free, a build may be killed."""

_OFF = 0.1
"""Relative difference between a mode's cap and the clock's own limit beyond rounding to a step of the clock."""


def board(found: Mapping[str, Any], container: bool) -> List[Row]:
    """Model, chip and accelerators, L4T and JetPack of a Jetson; nothing of a desktop."""
    if not found["jetson"]:
        return []
    dla = found["dla_cores"]
    cores = "DLA cores unknown" if dla is None else f"{dla} DLA cores" if dla else "no DLA"
    known = [found["soc"], f"compute capability {found['compute_capability'] or 'unknown'}", cores]
    out = [Row("board", "ok", f"{found['model'] or 'NVIDIA Jetson'} ({', '.join(word for word in known if word)})")]
    mount = "start the container by docker run --runtime nvidia -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
    out.append(
        Row("l4t", "ok", found["l4t"])
        if found["l4t"]
        else Row("l4t", "no", "not told by /etc/nv_tegra_release or dpkg", mount if container else JETPACK)
    )
    if found["jetpack_by"] == "dpkg":
        out.append(Row("jetpack", "ok", found["jetpack"]))
    elif found["jetpack"]:
        out.append(Row("jetpack", "?", f"{found['jetpack']} by its L4T; nvidia-jetpack is not installed", JETPACK))
    else:
        out.append(Row("jetpack", "?", f"none known for L4T {found['l4t'] or '?'}", JETPACK))
    return out


def driver(gpu: Optional[Gpu], why: str, jetson: bool, container: bool) -> Row:
    """Whether the driver finds its GPU."""
    if gpu:
        return Row("driver", "ok", f"{gpu.name}, compute capability {gpu.compute_capability}, CUDA {gpu.driver}")
    if container:
        option = "--runtime nvidia" if jetson else "--gpus all"
        return Row("driver", "no", why, f"start the container by docker run {option}")
    if not jetson:
        return Row("driver", "no", why, "nvidia-smi says more; sudo ubuntu-drivers install, then restart")
    if "cuInit" in why:
        return Row("driver", "no", why, "sudo usermod -aG video,render $USER, then log in again")
    return Row("driver", "no", why, "sudo apt install --reinstall nvidia-l4t-cuda && sudo ldconfig")


def memory(found: Mapping[str, Any], integrated: bool = False) -> Row:
    """Memory, which a Jetson shares with its GPU, and swap, which serves the rest when a build needs much."""
    memory: Dict[str, Any] = found["memory"]
    total, free, swap = memory["total_bytes"], memory["available_bytes"], memory["swap_bytes"]
    if total is None:
        return Row("memory", "?", "/proc/meminfo does not tell it")
    shared = memory["shared"] or integrated
    text = f"{total / _GB:.1f} GB{', shared by CPU and GPU' if shared else ''}"
    text += "" if free is None else f"; {free / _GB:.1f} GB free"
    zram = min(memory["zram_bytes"], swap or 0)
    text += "" if swap is None else f"; swap {swap / _GB:.1f} GB" + (f", {zram / _GB:.1f} of it zram" if zram else "")
    if shared and free is not None and free < _LITTLE:
        return Row("memory", "no", f"{text}: a build may be killed", "close programs; sudo init 3 ends the desktop")
    if shared and swap is not None and total < _SMALL and swap - zram < _GB:
        return Row("memory", "no", f"{text}: a build may be killed without swap on the disk", _SWAP)
    return Row("memory", "ok", text)


def power(found: Mapping[str, Any]) -> Row:
    """The power mode by its label, checked against what the GPU may really run at: the two can disagree."""
    power, limit = found["power"], found["clocks"]["gpu"]["max_hz"]
    if power["id"] is None:
        return Row("power", "?", "the power mode is not told", "sudo nvpmodel -q, outside a container")
    name = power["name"] or "mode"
    cap = next((m["gpu_max_hz"] for m in power["modes"] if m["id"] == power["id"]), None)
    if cap and limit and abs(limit / cap - 1) > _OFF:
        text = f"{name} ({power['id']}), but the GPU may run to {_mhz(limit)} MHz, not to the mode's {_mhz(cap)}"
        return Row("power", "no", text, f"sudo nvpmodel -m {power['id']} (it may ask to restart)")
    best = max(power["modes"], key=lambda mode: _watts(mode["name"]), default=None)
    if best and _watts(best["name"]) > _watts(name):
        fastest = f"faster: sudo nvpmodel -m {best['id']} ({best['name']})"
        return Row("power", "ok", f"{name} ({power['id']})", fastest)
    return Row("power", "ok", f"{name} ({power['id']})")


def clocks(found: Mapping[str, Any]) -> Row:
    """Whether the clocks are locked: else a build picks its kernels, and a run is timed, at clocks that vary."""
    clocks, parts = found["clocks"], []
    for title, name in (("CPU", "cpu"), ("GPU", "gpu"), ("memory", "emc")):
        clock = clocks[name]
        low, high, now = clock["min_hz"], clock["max_hz"], clock["now_hz"]
        if clock["locked"] and (now or high):
            parts.append(f"{title} {_mhz(now or high)}")
        elif low and high and not clock["locked"]:
            parts.append(f"{title} {_mhz(low)} to {_mhz(high)}")
        elif high:
            parts.append(f"{title} up to {_mhz(high)}")
    if not parts:
        return Row("clocks", "?", "this machine does not tell them")
    text = f"{', '.join(parts)} MHz"
    if clocks["state"] == "locked":
        return Row("clocks", "ok", f"locked: {text}")
    if found["jetson"]:
        lock = "sudo jetson_clocks (until the next restart; it takes the power mode's highest)"
    else:
        most = clocks["gpu"]["max_hz"]
        lock = f"sudo nvidia-smi --lock-gpu-clocks={_mhz(most)}" if most else ""
    if clocks["state"] == "free" and (found["jetson"] or clocks["gpu"]["locked"] is False):
        return Row("clocks", "no", f"float, and engines and times with them: {text}", lock)
    return Row("clocks", "?", f"not known to be locked: {text}", lock)


def _watts(mode: str) -> float:
    """Rank of a mode by its name: MAXN_SUPER, MAXN, then the watts."""
    found = re.search(r"(\d{1,4})W", mode)
    return 1e6 if "SUPER" in mode else 1e5 if "MAXN" in mode else float(found.group(1)) if found else 0.0


def _mhz(hertz: float) -> str:
    return f"{hertz / _MHZ:.0f}"
