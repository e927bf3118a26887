"""Tables of others as runs: a CSV with a line for each model becomes a run of imported rows.

`model,top1_percent,seconds,images`, and what else is known. What a column does not tell stays unknown.
"""

from __future__ import annotations

import csv
import datetime
import math
from pathlib import Path
from typing import Any, Dict, List, Optional

from bench import runs
from engines.errors import DataError

NEEDED = ("model", "top1_percent", "seconds", "images")

OPTIONAL = (
    *("size_bytes", "batch", "precision", "backend", "load_s", "first_s", "joules_per_image", "dataset", "device"),
)

_LIMIT = 1 << 20
"""Bytes of a table that somebody typed."""


def read(path: Path) -> Dict[str, Any]:
    """Read a table as `optimize.run/1`.

    An empty field is unknown, and so is the accuracy or the time of a model that has none.

    Raises:
        DataError: Not such a table; names the line and the column.
    """
    if path.stat().st_size > _LIMIT:
        raise DataError(f"{path}: larger than {_LIMIT >> 20} MiB, not a table of models")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV table ({error})", _HINT) from None
    lacking = [name for name in NEEDED if name not in columns]
    strange = [name for name in columns if name not in (*NEEDED, *OPTIONAL)]
    if lacking or strange or len(set(columns)) < len(columns):
        words = f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(strange) or 'a column twice'}"
        raise DataError(f"{path}: the table {words}", _HINT)
    rows = [_row(line, f"{path}: line {number}") for number, line in enumerate(lines, 2)]
    boards = {(line.get("device") or "").strip() for line in lines} - {""}
    if len(boards) > 1:
        raise DataError(f"{path}: {' and '.join(sorted(boards))} stand in one table", "a file for each device")
    changed = datetime.datetime.fromtimestamp(int(path.stat().st_mtime), datetime.timezone.utc)
    run = {
        "schema": runs.SCHEMA,
        "created": changed.isoformat(),
        "environment": {"board": next(iter(boards), "")},
        "settings": {"source": path.name},
        "rows": rows,
        "failures": [],
    }
    runs.validate(run)
    return run


_HINT = f"columns: {','.join(NEEDED)}; known too: {','.join(OPTIONAL)}"


def _row(line: Dict[str, Any], where: str) -> Dict[str, Any]:
    if None in line or None in line.values():
        raise DataError(f"{where}: it has not as many fields as the first line", _HINT)
    word = {name: str(line.get(name, "")).strip() for name in (*NEEDED, *OPTIONAL)}
    if not word["model"]:
        raise DataError(f"{where}: model is empty")

    def number(name: str, most: float, whole: bool = False) -> Optional[Any]:
        text = word[name]
        if not text:
            return None
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = -1
        if not 0 <= value <= most or (whole and value == 0):
            raise DataError(f"{where}: {name} {text!r} is not a {'whole ' if whole else ''}number up to {most:g}")
        return value

    top1, seconds, images = number("top1_percent", 100), number("seconds", 1e9), number("images", 1e12, True)
    batch, joules = number("batch", 65536, True), number("joules_per_image", 1e9)
    cold = {"load_ms": number("load_s", 1e6), "first_ms": number("first_s", 1e6)}
    query_ms: Optional[float] = None
    if seconds is not None and images is not None:
        # The last query is rarely full; so counted, as many images take the seconds that the table tells.
        query_ms = 1e3 * seconds / math.ceil(images / (batch or 1))
    flags: List[str] = [f"{name} unknown" for name in ("batch", "precision", "backend") if not word[name]]
    return {
        **{"target": word["model"], "role": "engine", "form": "", "backend": word["backend"]},
        **{"precision": word["precision"], "achieved": {}, "batch": batch or 1, "images": images},
        "dataset": {"name": word["dataset"], "n": images, "sha256": None} if word["dataset"] and images else None,
        "origin": "imported",
        "size_bytes": number("size_bytes", 1e15, True),
        **dict.fromkeys(runs.LATENCIES),
        "mean_ms": query_ms,
        "images_per_s": images / seconds if images and seconds else None,
        **{name: None if value is None else 1e3 * value for name, value in cold.items()},
        "energy": None
        if joules is None
        else {"rail": "", "watts": None, "idle_watts": None, "joules_per_image": joules},
        **{"rounds": [], "samples_ms": [], "device": None},
        "top1": None if top1 is None else top1 / 100,
        **{"top1_drop": None, "agreement": None, "speedup": None, "flags": flags},
    }
