"""One line of what `optimize doctor` says of an NVIDIA machine."""

from __future__ import annotations

from typing import NamedTuple

JETPACK = "sudo apt update && sudo apt install nvidia-jetpack"
"""What mends most of a Jetson whose libraries are missing."""


class Row(NamedTuple):
    """A thing and its state: ok, no, or ? where it cannot be told; `fix` is the command to type."""

    name: str
    state: str
    text: str
    fix: str = ""
