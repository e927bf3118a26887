"""A run as a picture: the terminal's tables, drawn as SVG."""

from __future__ import annotations

import io
import re
from typing import Any, Dict

from bench.report.table import render

_WIDTH = 132
"""Columns of the drawn terminal."""


def text(run: Dict[str, Any]) -> str:
    """Draw a run.

    Args:
        run: `optimize.run/1`.

    Returns:
        An SVG document that refers to nothing outside itself.
    """
    from rich.console import Console

    console = Console(record=True, width=_WIDTH, file=io.StringIO(), highlight=False)
    render(run, console)
    drawn = console.export_svg(title="optimize bench")
    return re.sub(r"@font-face\s*{[^}]*}", "", drawn)  # rich names a font on the web; the system's monospace will do
