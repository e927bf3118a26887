"""What a person at a terminal sees of a command before pressing a key."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

_LOOKS = 5


def await_reading(process: subprocess.Popen[Any]) -> None:
    """Wait until a process sleeps in the read that it has come to, as it does when somebody presses Ctrl-C.

    Python looks for signals between its instructions and in system calls that one interrupts: one that comes in between
    is overlooked until something is read, and a loaded machine finds that moment. Asleep is a process whose main thread
    sleeps, and has used no processor time, at several looks; where /proc does not tell, half a second must do.
    """
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        time.sleep(0.5)
        return
    looks, before = 0, ""
    while looks < _LOOKS and process.poll() is None:
        state, *rest = stat.read_text().rsplit(")", 1)[1].split()
        used = f"{state} {rest[10:12]}"  # user and system time, fields 14 and 15 of proc(5)
        looks = looks + 1 if state == "S" and used == before else 0
        before = used
        time.sleep(0.02)
