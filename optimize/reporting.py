"""`optimize report`: run files for people and programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from engines import jsonfile
from engines.errors import UsageError

PathLike = Union[str, Path]
Words = Union[str, Iterable[str]]

_CHOICE = re.compile(rb'"schema"\s*:\s*"optimize\.choice/')
_HEAD = 1 << 16
"""Bytes of a file in which its schema stands."""

_CHOICE_FORMAT = "html"


def report(runs: Sequence[PathLike], formats: Words = "md", out: Optional[PathLike] = None) -> List[Path]:
    """Write reports of run files.

    Args:
        runs: Files of `bench` and `wcet`, or one choice of `select`.
        formats: Of md, html, csv, json, svg and png; several with commas or as a sequence. A choice's is html.
        out: Folder, by default the current one.

    Returns:
        The files written, `report.<format>` each; `choice.html` of a choice.

    Raises:
        UsageError: Another format, or a file that is not there.
        DamagedError: Not a run file.
        IncompatibleError: png without matplotlib.
    """
    from bench.report import FORMATS, IMAGES

    folder = Path(out) if out else Path()
    if is_choice(runs):
        target = folder / f"choice.{_CHOICE_FORMAT}"
        with jsonfile.replacing_file(target) as part:
            part.write_text(_choice(runs, formats), encoding="utf-8")
        return [target]
    wanted, run = _read(runs, formats, [*FORMATS, *IMAGES])
    written = []
    for name in wanted:
        made = IMAGES[name](run) if name in IMAGES else _encoded(FORMATS[name](run))
        target = folder / f"report.{name}"
        with jsonfile.replacing_file(target) as part:
            part.write_bytes(made)
        written.append(target)
    return written


def _encoded(text: str) -> bytes:
    """UTF-8; what a file name in no encoding left in a run (`\\udcc3`) is written as JSON spells it."""
    return text.encode("utf-8", "backslashreplace")


def report_texts(runs: Sequence[PathLike], formats: Words = "md") -> Dict[str, str]:
    """What `report` writes, by format, without writing it; png is no text.

    Raises:
        UsageError: Another format, or a file that is not there.
        DamagedError: Not a run file.
    """
    from bench.report import FORMATS

    if is_choice(runs):
        return {_CHOICE_FORMAT: _choice(runs, formats)}
    wanted, run = _read(runs, formats, list(FORMATS))
    return {name: FORMATS[name](run) for name in wanted}


def is_choice(runs: Sequence[PathLike]) -> bool:
    """Whether a file is a choice of `optimize select`, by its schema."""
    return any(_CHOICE.search(_head(path)) for path in map(Path, runs) if path.is_file())


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _choice(runs: Sequence[PathLike], formats: Words) -> str:
    """The page of a choice.

    Raises:
        UsageError: Several files, or another format.
        DamagedError: Not a choice.
    """
    from bench.report.html import choices
    from optimize.selection import choice

    if len(runs) != 1:
        raise UsageError("a choice has a page of its own", "optimize report choice.json -f html")
    if set(_names(formats)) != {_CHOICE_FORMAT}:
        raise UsageError("the report of a choice is html", f"optimize report {runs[0]} -f html")
    return choices.text(choice.read(Path(runs[0])))


def _names(formats: Words) -> List[str]:
    given = [formats] if isinstance(formats, str) else formats
    return list(dict.fromkeys(name for word in given for name in word.split(",") if name))


def _read(runs: Sequence[PathLike], formats: Words, known: Sequence[str]) -> Tuple[List[str], Dict[str, Any]]:
    """The formats that are asked, each once, and the runs as one."""
    from bench import runs as run_files

    wanted = _names(formats)
    if not wanted:
        raise UsageError(f"-f names no format: {', '.join(known)} are known", f"-f {known[0]}")
    for name in wanted:
        if name == "png" and name not in known:
            raise UsageError("-f png is no text to print", "-o DIR")
        if name not in known:
            raise UsageError(f"-f {name}: {', '.join(known)} are known", f"-f {known[0]}")
    for run in runs:
        if not Path(run).is_file():
            what = "a folder, not a run file" if Path(run).is_dir() else "no such run file"
            raise UsageError(f"{run}: {what}", "optimize bench TARGET... -o runs.json")
    return wanted, run_files.merge([run_files.read(Path(run)) for run in runs])
