"""`optimize report`: run files for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Union

from engines import jsonfile
from engines.errors import UsageError

PathLike = Union[str, Path]
Words = Union[str, Iterable[str]]


def report(runs: Sequence[PathLike], formats: Words = "md", out: Optional[PathLike] = None) -> List[Path]:
    """Write reports of run files.

    Args:
        runs: Files of `bench`.
        formats: Of md, csv, json, svg; several with commas or as a sequence.
        out: Folder, by default the current one.

    Returns:
        The files written, `report.<format>` each.

    Raises:
        UsageError: Another format, or a file that is not there.
        DamagedError: Not a run file.
    """
    folder = Path(out) if out else Path()
    written = []
    for name, text in report_texts(runs, formats).items():
        target = folder / f"report.{name}"
        with jsonfile.replacing_file(target) as part:
            part.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def report_texts(runs: Sequence[PathLike], formats: Words = "md") -> Dict[str, str]:
    """What `report` writes, by format, without writing it.

    Raises:
        UsageError: Another format, or a file that is not there.
        DamagedError: Not a run file.
    """
    from bench import report as reports
    from bench import runs as run_files

    given = [formats] if isinstance(formats, str) else formats
    wanted = [name for word in given for name in word.split(",") if name]
    for name in wanted:
        if name not in reports.FORMATS:
            raise UsageError(f"-f {name}: {', '.join(reports.FORMATS)} are known")
    for run in runs:
        if not Path(run).is_file():
            what = "a folder, not a run file" if Path(run).is_dir() else "no such run file"
            raise UsageError(f"{run}: {what}", "optimize bench TARGET... -o runs.json")
    merged = run_files.merge([run_files.read(Path(run)) for run in runs])
    return {name: reports.FORMATS[name](merged) for name in wanted}
