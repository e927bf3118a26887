"""Suite files (`optimize.suite/1`): published values with their source and the conditions they were measured under.

`{"schema", "name", "title", "source", "conditions", "tolerance", "cells"}`. Null is what the source does not say:
nothing is filled in from elsewhere. A cell may have `conditions` of its own, which stand before those of the suite.
History: 1, the first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple, Union

from engines import fields, jsonfile
from engines.errors import DamagedError, UsageError
from engines.spec import FORMS

SCHEMA = "optimize.suite/1"

FOLDER = Path(__file__).parent

TIMED = {
    "query": "one query at a time, from host memory to host memory",
    "gpu": "the GPU's computation alone, without copies",
    "stream": "many queries in flight",
    "pass": "one call over a whole data set",
    "unstated": "how it was timed is not stated",
}
"""What a published time is the time of. `bench` measures the first, and on TensorRT the second beside it."""

QUANTITIES = {
    "images_per_s": "images/s",
    "mean_ms": "ms",
    "median_ms": "ms",
    "p90_ms": "ms (p90)",
    "p99_ms": "ms (p99)",
    "ms_per_image": "ms/image",
    "s_per_10000_images": "s/10,000",
    "top1_percent": "% top-1",
}
"""Quantities of a cell, and their units as they are shown. Larger is better for the first and the last."""

_PRECISIONS = ("fp32", "fp16", "int8", "mixed")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def names() -> List[str]:
    """The suites that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: Union[str, Path]) -> Dict[str, Any]:
    """Read and check a suite.

    Args:
        name: Of `names`, or a file.

    Returns:
        The suite; each cell's `conditions` are whole, and the path of its model file, if it names one, is absolute.

    Raises:
        UsageError: No suite of that name, and no such file.
        DamagedError: Not strict JSON, another schema, or a field that is missing or wrong.
    """
    path = FOLDER / f"{name}.json" if str(name) in names() else Path(name)
    if not path.is_file():
        raise UsageError(f"no suite is called {name}, and there is no such file", "optimize suite list")
    value = jsonfile.checked(path, SCHEMA, validate)
    return {**value, "cells": [_whole(cell, value["conditions"], path.parent) for cell in value["cells"]]}


def _whole(cell: Dict[str, Any], shared: Dict[str, Any], folder: Path) -> Dict[str, Any]:
    made = cell["made"]
    if made and "file" in made:
        made = {**made, "file": str((folder / made["file"]).resolve())}
    return {**cell, "made": made, "conditions": {**shared, **cell.get("conditions", {})}}


def validate(value: Any) -> None:
    """Check a suite; unknown extra fields are free.

    Raises:
        DamagedError: Names the field that is missing or wrong.
    """
    fields.of_schema(value, "a suite", SCHEMA)
    _SUITE("suite", value)
    seen = set()
    for index, cell in enumerate(value["cells"]):
        if cell["name"] in seen:
            raise DamagedError(f"cells[{index}].name: {cell['name']} is there twice")
        seen.add(cell["name"])
        _check_cell(f"cells[{index}]", cell, value["conditions"])


def _check_cell(name: str, cell: Dict[str, Any], shared: Dict[str, Any]) -> None:
    for field, check in _CELL_MORE.items():
        if field in cell:
            check(f"{name}.{field}", cell[field])
    _CONDITIONS(f"{name}.conditions", {**shared, **cell.get("conditions", {})})
    made = cell["made"]
    if made is None:
        _text(f"{name}.why", cell.get("why"))
    else:
        (_FILE if "file" in made else _ARCHITECTURE)(f"{name}.made", made)
        for field, check in _MADE_MORE.items():
            if field in made:
                check(f"{name}.made.{field}", made[field])


def sides(size: Union[int, Sequence[int]]) -> Tuple[int, int]:
    """Height and width of a model's images in pixels, from one number where they are the same."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _size(name: str, value: Any) -> None:
    """Pixels: one number, or height and width."""
    for one in value if isinstance(value, list) and len(value) == 2 else [value]:
        fields.whole(8, 4096)(name, one)


def _text(name: str, value: Any) -> None:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip():
        raise fields.wrong(name, value, "a text")


_Word = fields.null_or(_text)

_CONDITIONS = fields.an_object(
    board=_text,
    modules=fields.a_list(_text),
    gpu=_Word,
    cpu=_Word,
    processor=_Word,
    power_mode=_Word,
    jetpack=_Word,
    tensorrt=_Word,
    backend=_Word,
    timed=fields.one_of(*TIMED),
    measured_by=_text,
)
_SUITE = fields.an_object(
    name=fields.matching(_NAME, "a name in small letters, digits, dots and hyphens"),
    title=_text,
    source=fields.an_object(document=_text, url=_Word, date=_Word),
    conditions=_CONDITIONS,
    tolerance=fields.between(0, 1),
    cells=fields.a_list(
        fields.an_object(
            name=fields.matching(_NAME, "a name in small letters, digits, dots and hyphens"),
            model=_text,
            made=fields.null_or(fields.an_object()),
            precision=fields.null_or(fields.one_of(*_PRECISIONS)),
            batch=fields.null_or(fields.whole(1, 65536)),
            quantity=fields.one_of(*QUANTITIES),
            published=fields.between(1e-9, 1e12),
            source=_text,
            note=fields.word,
        ),
        1,
    ),
)
_CELL_MORE: Dict[str, fields.Check] = {
    "conditions": fields.an_object(),
    "why": _text,
    "form": fields.one_of(*sorted({form for forms in FORMS.values() for form in forms})),
    "threads": fields.whole(1, 4096),
}
"""Fields that a cell may do without. `form` makes it a cell of an original instead of an engine."""

_FILE = fields.an_object(file=_text)
_ARCHITECTURE = fields.an_object(architecture=_text, size=_size)
_MADE_MORE: Dict[str, fields.Check] = {"classes": fields.whole(1, 1 << 20), "assumed": _text}
"""Fields that a model may do without: networks of other tasks have no number of classes, and `assumed` says what the
source leaves open of the network."""
