"""Texts of an NVIDIA board, read into values: no file is opened here, and damaged text gives nothing, not an error."""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from engines import jsonfile

SOC = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
"""Compute capability of the GPU inside each system on a chip."""

_DLA = {"p3767-0000": 2, "p3767-0001": 1, "p3767-0003": 0, "p3767-0004": 0, "p3767-0005": 0}
_DLA_OF_MODULE = {"p3701": 2, "p3668": 2, "p2888": 2, "p3448": 0, "p3310": 0}
"""Deep-learning accelerators: of an exact part number, else of a module's first four digits."""

_JETPACK: Tuple[Tuple[str, str], ...] = (
    ("39.2.1", "7.2.1"),
    ("39.2", "7.2"),
    ("38.4", "7.1"),
    ("38.2", "7.0"),
    ("36.5", "6.2.2"),
    ("36.4.7", "6.2.1"),
    ("36.4.4", "6.2.1"),
    ("36.4.3", "6.2"),
    ("36.4", "6.1"),
    ("36.3", "6.0"),
    ("35.6", "5.1.4"),
    ("35.5", "5.1.3"),
    ("35.4", "5.1.2"),
    ("35.3", "5.1.1"),
    ("35.2", "5.1"),
    ("32.7", "4.6.1"),
    ("32.6", "4.6"),
)
"""First match; only where dpkg says nothing, since boards are upgraded in parts."""


class Mode(NamedTuple):
    """One power mode of nvpmodel's configuration."""

    id: int
    name: str
    gpu_max_hz: Optional[int]
    """The cap that it asks for the GPU; None where it sets none."""


class Clock(NamedTuple):
    """One clock domain; None is what cannot be read."""

    now_hz: Optional[int]
    min_hz: Optional[int]
    max_hz: Optional[int]
    locked: Optional[bool]


def number(text: str) -> Optional[int]:
    """The whole number that a one-line file holds; None where it holds anything else."""
    word = text.strip()
    return int(word) if re.fullmatch(r"-?[0-9]{1,18}", word) else None


def strings_of(text: str) -> Tuple[str, ...]:
    """The NUL-separated strings of a device-tree property."""
    return tuple(word for word in (part.strip() for part in text.split("\0")) if word)


def soc_of(compatible: Sequence[str]) -> str:
    """The system on a chip, such as `tegra234`, in the strings of /proc/device-tree/compatible."""
    found = (re.fullmatch(r"nvidia,(tegra\d+)", word) for word in compatible)
    return next((one.group(1) for one in found if one), "")


def module_of(compatible: Sequence[str]) -> str:
    """The module's part number, such as `p3767-0005`: the last one of a word such as `p3768-0000+p3767-0005`."""
    for word in compatible:
        parts = re.findall(r"p\d{4}-\d{4}", word)
        if parts:
            return str(parts[-1])
    return ""


def dla_cores_of(module: str) -> Optional[int]:
    """Deep-learning accelerators of a module; None for one that is not known."""
    return _DLA.get(module, _DLA_OF_MODULE.get(module[:5]))


def packages_of(text: str) -> Dict[str, str]:
    """Installed packages and their versions.

    Args:
        text: Of `dpkg-query -W -f='${Package}\\t${Version}\\t${db:Status-Status}\\n'`; packages that are only known
            to apt, or removed but for their configuration, are in it too.
    """
    rows = (line.split("\t") for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[0] and row[1] and row[2].strip() == "installed"}


def upstream(version: str) -> str:
    """A Debian version without epoch and revision: `8.5.2-1+cuda11.4` -> `8.5.2`, `6.2.2+b24` -> `6.2.2`."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return found.group(1) if found else ""


def jetpack_of(l4t: str) -> str:
    """The JetPack that an L4T release came with; empty for one that is not known."""
    return next((jetpack for start, jetpack in _JETPACK if f"{l4t}.".startswith(f"{start}.")), "")


def cuda_of(text: str) -> str:
    """Version in CUDA's version.json (from 11.1) or version.txt; empty in other texts."""
    found = re.search(r"CUDA Version ([\d.]+)", text)
    if found:
        return found.group(1)
    try:
        value: Any = jsonfile.loads(text)
    except ValueError:
        return ""
    version = value.get("cuda", {}) if isinstance(value, dict) else {}
    word = version.get("version") if isinstance(version, dict) else ""
    return word if isinstance(word, str) and re.fullmatch(r"[\d.]+", word) else ""


def meminfo_of(text: str) -> Dict[str, int]:
    """Bytes by name in the text of /proc/meminfo."""
    found = re.findall(r"^(\w+):[ \t]+([0-9]{1,15}) kB", text, re.MULTILINE)
    return {name: int(size) * 1024 for name, size in found}


def swaps_of(text: str) -> Dict[str, int]:
    """Bytes by device in the text of /proc/swaps."""
    found = re.findall(r"^(/\S+)\s+\w+\s+([0-9]{1,15})\s", text, re.MULTILINE)
    return {name: int(size) * 1024 for name, size in found}


def modes_of(conf: str) -> Tuple[List[Mode], Optional[int]]:
    """Power modes of /etc/nvpmodel.conf in its order, and the number of the default one.

    A block starts at `< POWER_MODEL ID=0 NAME=15W >` (attributes in any order) and ends at the next `<`.
    """
    modes, default = [], None
    for head, body in re.findall(r"^<([^<>\n]*)>([^<]*)", conf, re.MULTILINE):
        words = head.split()
        known = dict(word.split("=", 1) for word in words if "=" in word)
        if words[:1] == ["PM_CONFIG"]:
            default = number(known.get("DEFAULT", ""))
        mode = number(known.get("ID", ""))
        if words[:1] == ["POWER_MODEL"] and mode is not None and known.get("NAME"):
            cap = re.search(r"^GPU\w* MAX_FREQ\s+([0-9]{1,18})\s*$", body, re.MULTILINE)
            hertz = int(cap.group(1)) if cap else 0
            modes.append(Mode(mode, known["NAME"], hertz or None))
    return modes, default


def status_of(text: str) -> Optional[int]:
    """Number of the power mode in /var/lib/nvpmodel/status, such as `pmode:0002 fmode:quiet`."""
    found = re.search(r"pmode:\s*([0-9]{1,9})", text)
    return int(found.group(1)) if found else None


def mode_of(text: str) -> Tuple[Optional[int], str]:
    """Number and name in what `nvpmodel -q` prints: `NV Power Mode: 15W`, the number on the line below."""
    name = re.search(r"^NV Power Mode:[ \t]*(\S+)", text, re.MULTILINE)
    mode = re.search(r"^[ \t]*([0-9]{1,9})[ \t]*$", text, re.MULTILINE)
    return (int(mode.group(1)) if mode else None), (name.group(1) if name else "")


def driver_of(text: str) -> str:
    """Version of the driver in /proc/driver/nvidia/version."""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found.group(1) if found else ""


def smi_clocks_of(text: str) -> Tuple[Optional[int], Optional[int], Optional[int], Optional[int]]:
    """Hertz of the first GPU in what nvidia-smi prints for clocks.sm, .max.sm, .mem, .max.mem without units."""
    first = (text.splitlines() or [""])[0].split(",")
    if len(first) != 4:
        return None, None, None, None
    sm, sm_max, mem, mem_max = (None if n is None else n * 1_000_000 for n in map(number, first))
    return sm, sm_max, mem, mem_max


def clock_of(now: str, low: str, high: str, unit: int = 1, lock: str = "") -> Clock:
    """One clock from its files.

    Args:
        now, low, high: Texts of the files; empty where there is none.
        unit: Hertz of one step of theirs.
        lock: Text of a file that holds 1 while the rate is locked and 0 while not.
    """
    values = [None if n is None or n <= 0 else n * unit for n in map(number, (now, low, high))]
    locked = None if values[1] is None or values[2] is None else values[1] == values[2]
    if lock.strip() in ("0", "1"):
        locked = lock.strip() == "1"
    return Clock(values[0], values[1], values[2], locked)


def together(clocks: Sequence[Clock]) -> Clock:
    """One clock for the cores of a CPU: the fastest now, the lowest and highest limit, locked if all are."""
    nows, lows, highs = ([n for n in column if n is not None] for column in list(zip(*clocks))[:3] or ((), (), ()))
    known = [clock.locked for clock in clocks]
    locked = False if False in known else True if known and None not in known else None
    return Clock(max(nows, default=None), min(lows, default=None), max(highs, default=None), locked)


def state_of(cpu: Clock, gpu: Clock, emc: Clock) -> str:
    """`free` where any known clock floats, `locked` where CPU and GPU are, else `unknown`.

    The memory clock counts only where it can be read: mostly root alone can.
    """
    if False in (cpu.locked, gpu.locked, emc.locked):
        return "free"
    return "locked" if cpu.locked and gpu.locked else "unknown"
