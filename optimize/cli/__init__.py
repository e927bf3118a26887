"""The command `optimize`: one file per group of commands, all thin wrappers over `optimize.api`."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `optimize` command."""
    from optimize.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a long build
    app(prog_name="optimize")
