"""Lines through the caller's logger, in the words of the originals where code looks for them."""

from __future__ import annotations

from typing import Any

from tensorrt._check import swallowed
from tensorrt._real import REAL


def say(logger: Any, severity: str, message: str) -> None:
    """Give the logger one line.

    Args:
        logger: An ILogger, or None: then nothing is said.
        severity: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE.
        message: The line.
    """
    if logger is not None:
        level = getattr(REAL["ILogger"].Severity, severity)
        swallowed("log", lambda: logger.log(level, message), None)


def error(logger: Any, message: str, code: int = 4, kind: str = "Internal Error") -> None:
    """One ERROR line with TensorRT's number and name of the error."""
    say(logger, "ERROR", f"Error Code {code}: {kind} ({message})")


def misused(logger: Any, where: str, message: str) -> None:
    """One ERROR line for a wrong call."""
    say(logger, "ERROR", f"{where}: Error Code 3: API Usage Error (Parameter check failed, condition: {message})")
