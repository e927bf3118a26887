"""The command `optimize`: one file per group of commands, all thin wrappers over `optimize.api`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Entry point of the `optimize` command; ends the process with the exit code."""
    from optimize.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a long build
    code: Any
    try:
        code = app(prog_name="optimize", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        code = _usage(error)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Exception) -> int:
    """Tell an error of the command line itself in one line; everything else was told by the command."""
    if isinstance(error, OSError):  # stdout is a full disk or a closed pipe: nothing more can be said there
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    tell = getattr(error, "format_message", None)
    if tell is None:
        raise error
    message = " ".join(str(tell()).split())
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" or not message:
        sys.stdout.write(context.get_help() + "\n" if context else "")
        return 0
    hint = f"{context.command_path} --help" if context else "optimize --help"
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": {"message": message, "hint": hint, "exit_code": 2}}) + "\n")
    sys.stderr.write(f"error: {message}\n  try: {hint}\n")
    return 2
