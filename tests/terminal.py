"""What a person at a terminal does to a command that runs."""

from __future__ import annotations

import signal
import subprocess
from typing import Any, Tuple


def ctrl_c(process: subprocess.Popen[Any], patience: float = 10.0, times: int = 6) -> Tuple[Any, Any]:
    """Press Ctrl-C, again where nothing happens, and wait for the end.

    Python looks for signals between its instructions and in system calls that one interrupts: one that comes just
    before a read that waits is overlooked until something is read, and a loaded machine finds that moment.

    Args:
        process: Runs Python, with the signal's usual handler.
        patience: Seconds until the next press.
        times: How often it is pressed.

    Returns:
        What the process wrote to its two outputs.

    Raises:
        TimeoutExpired: It goes on all the same.
    """
    for _ in range(times - 1):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            pass
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=patience)
