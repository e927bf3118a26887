"""A real terminal of so many columns, and what Python code writes to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


def shown_on_a_terminal(code: str, columns: int = 100, talk: bool = True) -> str:
    """What code writes to stderr (`talk`) or stdout where that is a terminal."""
    if sys.platform == "win32":
        pytest.skip("terminals of POSIX")
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    root = str(Path(__file__).resolve().parents[3])
    boot = f"import sys; sys.path[0] = sys.argv.pop(1)\n{code}"
    out, err = (None, theirs) if talk else (theirs, None)
    process = subprocess.Popen([sys.executable, "-c", boot, root], stdout=out, stderr=err, env=environment)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told on Linux
        while True:
            part = os.read(ours, 10_000)
            if not part:
                break
            said += part
    os.close(ours)
    assert process.wait() == 0
    return said.decode()
