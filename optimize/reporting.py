"""`optimize report`: run files for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from engines import jsonfile
from engines.errors import UsageError

PathLike = Union[str, Path]
Words = Union[str, Iterable[str]]


def report(runs: Sequence[PathLike], formats: Words = "md", out: Optional[PathLike] = None) -> List[Path]:
    """Write reports of run files.

    Args:
        runs: Files of `bench`.
        formats: Of md, html, csv, json, svg and png; several with commas or as a sequence.
        out: Folder, by default the current one.

    Returns:
        The files written, `report.<format>` each.

    Raises:
        UsageError: Another format, or a file that is not there.
        DamagedError: Not a run file.
        IncompatibleError: png without matplotlib.
    """
    from bench.report import FORMATS, IMAGES

    folder = Path(out) if out else Path()
    wanted, run = _read(runs, formats, [*FORMATS, *IMAGES])
    written = []
    for name in wanted:
        made = IMAGES[name](run) if name in IMAGES else FORMATS[name](run).encode("utf-8")
        target = folder / f"report.{name}"
        with jsonfile.replacing_file(target) as part:
            part.write_bytes(made)
        written.append(target)
    return written


def report_texts(runs: Sequence[PathLike], formats: Words = "md") -> Dict[str, str]:
    """What `report` writes, by format, without writing it; png is no text.

    Raises:
        UsageError: Another format, or a file that is not there.
        DamagedError: Not a run file.
    """
    from bench.report import FORMATS

    wanted, run = _read(runs, formats, list(FORMATS))
    return {name: FORMATS[name](run) for name in wanted}


def _read(runs: Sequence[PathLike], formats: Words, known: Sequence[str]) -> Tuple[List[str], Dict[str, Any]]:
    """The formats that are asked, each once, and the runs as one."""
    from bench import runs as run_files

    given = [formats] if isinstance(formats, str) else formats
    wanted = list(dict.fromkeys(name for word in given for name in word.split(",") if name))
    for name in wanted:
        if name == "png" and name not in known:
            raise UsageError("-f png is no text to print", "-o DIR")
        if name not in known:
            raise UsageError(f"-f {name}: {', '.join(known)} are known")
    for run in runs:
        if not Path(run).is_file():
            what = "a folder, not a run file" if Path(run).is_dir() else "no such run file"
            raise UsageError(f"{run}: {what}", "optimize bench TARGET... -o runs.json")
    return wanted, run_files.merge([run_files.read(Path(run)) for run in runs])
