"""Take out of text what tells whose machine it is: names, paths, serial numbers, addresses.

Two ways at once: what this machine is known to be called (its host name, users, serial numbers, addresses) wherever it
stands, and what looks like a path, an address, an identifier or a long number, whoever it belongs to.
"""

from __future__ import annotations

import getpass
import math
import os
import platform
import re
import socket
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Tuple

from engines.text import plain

_PLACE = "<(?:user|host|serial|path|url|mail|id|address|hex|number)>"
"""What stands in the place of something; it is never looked into again."""

_REST = r"[^\s<>\"'|:;,()\[\]{}]*"
"""What still belongs to a path."""

_RULES: Tuple[Tuple[str, str], ...] = (
    (r"[A-Za-z][A-Za-z0-9+.-]*://[^\s<>\"']*", "url"),
    (r"[\w.+-]*@[\w.-]+", "mail"),
    (r"\\\\[^\s<>\"'|]+", "path"),
    (r"(?<![A-Za-z])[A-Za-z]:[\\/][^\s<>\"'|]*", "path"),
    (r"(?<![\w.])~[^\s<>\"'|;,()\[\]{}]*/[^\s<>\"'|;,()\[\]{}]*", "path"),
    (rf"(?<![\w.])\.{{0,2}}/+[^\s<>\"'|:;,()\[\]{{}}/]{_REST}", "path"),
    (r"(?:GPU-|MIG-)?[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", "id"),
    (r"(?<![0-9a-fA-F:])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![0-9a-fA-F:])", "address"),
    (r"(?<![0-9a-fA-F:])(?:fe80:|(?:[0-9a-fA-F]{1,4}:){4})[0-9a-fA-F:]*(?:%\w+)?", "address"),
    (r"(?<![\d.])(?:192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?![\d.])", "address"),
    (r"(?<![0-9A-Za-z])(?:0[xX])?[0-9a-fA-F]{16,}(?![0-9A-Za-z])", "hex"),
    (r"\d{10,}", "number"),
)
"""In this order. An IPv4 address of another network is no rule: `10.13.3.9` is a version of TensorRT."""

_GENERIC = frozenset(
    (
        *("root", "user", "admin", "nvidia", "jetson", "ubuntu", "localhost", "tegra", "none", "unknown", "default"),
        *("tegra-ubuntu", "jetson-desktop", "nvidia-desktop"),
        *("default string", "to be filled by o.e.m.", "not specified"),
    )
)
"""Names that half of all boards have: hiding them would hide `NVIDIA` everywhere, and nobody."""

_SHORT = 5
"""Letters from which a name is hidden inside of words too."""

_SERIALS = (
    "proc/device-tree/serial-number",
    "sys/devices/soc0/serial_number",
    "sys/class/dmi/id/product_serial",
    "sys/class/dmi/id/board_serial",
    "sys/class/dmi/id/chassis_serial",
    "sys/class/dmi/id/product_uuid",
    "etc/machine-id",
)

Secrets = Mapping[str, Iterable[str]]
"""By placeholder (`user`, `host`, `serial`, `path`, `address`): what is to be hidden."""


def secrets(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Dict[str, List[str]]:
    """What this machine and its user are called.

    Args:
        root: Stands for `/`, for serial numbers.
        environment: Variables that may tell names.
    """
    hosts = [platform.node(), socket.gethostname(), *_of(environment, "HOSTNAME", "HOST", "COMPUTERNAME")]
    hosts += [host.split(".")[0] for host in hosts]
    home = str(Path.home())
    users = [*_of(environment, "USER", "LOGNAME", "USERNAME", "SUDO_USER"), Path(home).name, *_account()]
    paths = [home, os.getcwd(), sys.prefix, sys.exec_prefix, str(Path(__file__).resolve().parents[2])]
    serials = [_text(root / name) for name in _SERIALS]
    return {
        "path": [path for path in paths if len(path) > 3],
        "host": [host for host in dict.fromkeys(hosts) if _telling(host)],
        "user": [user for user in dict.fromkeys(users) if _telling(user)],
        "serial": [serial for serial in dict.fromkeys(serials) if len(serial) > 3 and _telling(serial)],
        "address": _addresses(),
    }


def _of(environment: Mapping[str, str], *names: str) -> List[str]:
    return [environment[name] for name in names if environment.get(name)]


def _telling(name: str) -> bool:
    return len(name) > 1 and name.lower() not in _GENERIC


def _account() -> List[str]:
    """Login name and full name of whoever runs this."""
    try:
        names = [getpass.getuser()]
    except (KeyError, OSError, ImportError):  # a container may run under a number that has no name
        return []
    try:
        import pwd

        names.append(pwd.getpwuid(os.getuid()).pw_gecos.split(",")[0])
    except (ImportError, KeyError):
        pass
    return names


def _addresses() -> List[str]:
    """Network addresses of this machine but the loopback's."""
    import psutil

    found = [one.address.split("%")[0] for cards in psutil.net_if_addrs().values() for one in cards]
    return [one for one in dict.fromkeys(found) if len(one) > 6 and not one.startswith(("127.", "00:00:00:00:00"))]


def _text(path: Path) -> str:
    try:
        return plain(path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")).strip()
    except OSError:
        return ""


def text(value: str, hidden: Secrets) -> str:
    """One text without what is hidden and without what the rules match; again and again gives the same.

    Args:
        value: Any text.
        hidden: Of `secrets`.
    """
    value = plain(value)
    rules = [*_named(hidden), *_RULES]
    while True:
        before = value
        for pattern, place in rules:
            value = re.sub(f"({_PLACE})|{pattern}", lambda m, p=place: m.group(1) or f"<{p}>", value)  # type: ignore[misc]
        if value == before:
            return value


def _named(hidden: Secrets) -> List[Tuple[str, str]]:
    """Rules for names, the longest first, so that none hides a part of another."""
    names = [(plain(name).strip(), place) for place, some in hidden.items() for name in some]
    found = []
    for name, place in sorted(names, key=lambda one: -len(one[0])):
        if name:
            inside = re.escape(name) + (_REST if place == "path" else "")
            alone = f"(?<![0-9A-Za-z]){inside}(?![0-9A-Za-z])"
            found.append((f"(?i:{inside if len(name) >= _SHORT else alone})", place))
    return found


def tree(value: Any, hidden: Secrets) -> Any:
    """A JSON value with every text in it redacted; keys too, unless they are plain words. NaN and infinity are None."""
    if isinstance(value, str):
        return text(value, hidden)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(str(key), hidden): tree(one, hidden) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [tree(one, hidden) for one in value]
    return value


def _key(key: str, hidden: Secrets) -> str:
    """A key of ours is words, numbers, commas and colons; its words are ours even where a user is called so."""
    return key if re.fullmatch(r"[A-Za-z][\w .,:*-]{0,40}", key) and not re.search(r"\d{6}", key) else text(key, hidden)
