"""Timings of any tool, in the order they were taken: CSV columns, `trtexec --exportTimes`, and our own run files.

What a file holds is told by its first character and not by its name. Times are kept as they are, a zero too: what they
are good for is for the statistics to say.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from array import array
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from bench import compare, runs
from engines import jsonfile
from engines.errors import DamagedError, UsageError

PER_MS = {"ns": 1e6, "us": 1e3, "ms": 1.0, "s": 1e-3}
"""Units of time by their name, and how many make a millisecond."""

_UNIT = re.compile(r"(?:(?:^|[\W_])((?i:ns|us|µs|μs|ms|s))|(?<=[a-z0-9])(Ns|Us|Ms))[\W_]*$")
"""End of a column's name that tells its unit: `latency_us`, `time (ms)`, `latencyMs`."""

_MARKS = ("\t", ";", ",", " ")
"""What may stand between cells, the surest first: a comma may be a decimal one."""

_LONGEST = 1 << 16
"""Characters of a line at most: what is longer is no table of timings, and would fill the memory with cells."""

_MOST_MS = 1e100
"""Beyond any time; sums of squares are still short of what a float64 cannot hold."""

_SHOWN = 6
"""Names listed at most where one must be chosen."""


UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""How text in UTF-16 begins: PowerShell's `>` writes it."""


class Timings(NamedTuple):
    """Times of one thing.

    Attributes:
        samples_ms: float64, shape (n,), in order; 1 or more, finite, none negative.
        starts_ms: float64, shape (n,), never falling: when each began, ms after some moment; None where not known.
        name: Of what was timed: a cell of a run in words, else the file's name.
        source: Where they are from, in words.
        rounds: How many of them each fresh process took, in order.
        first_ms: The very first query of the process, which is not among the samples; None where not known.
        interference: What ran beside it (a row's field); None where nothing did, or where it is not known.
    """

    samples_ms: npt.NDArray[Any]
    starts_ms: Optional[npt.NDArray[Any]]
    name: str
    source: str
    rounds: List[int]
    first_ms: Optional[float] = None
    interference: Optional[Dict[str, Any]] = None


def read(
    path: Union[str, Path],
    column: str = "",
    unit: str = "",
    target: str = "",
    batch: Optional[int] = None,
) -> List[Timings]:
    """Read a file of timings.

    Args:
        path: CSV (cells between commas, semicolons, tabs or spaces; lines that begin with # are left out), JSON of
            `trtexec --exportTimes`, or a run file.
        column: Of a CSV its name, or its number from 1 where there are no names; of trtexec's, such as `computeMs`.
            By default the only column of times, and `latencyMs`.
        unit: Of a CSV's column, one of `PER_MS`; by default the end of its name tells.
        target, batch: Which rows of a run file; by default all with samples of one query at a time.

    Returns:
        One, or of a run file one for each of its rows that was asked for, in their order.

    Raises:
        DamagedError: A file of none of these kinds, or one that holds something else than times; with the line.
        UsageError: No such column, unit or row; several columns, and none was chosen; or no unit.
        FileNotFoundError: No such file.
    """
    path = Path(path)
    if unit and unit not in PER_MS:
        raise UsageError(f"--unit {unit}: {', '.join(PER_MS)} are known", "for example --unit us")
    text = _text(path)
    kind = text.lstrip()[:1]
    if kind == "{":
        return _rows(path, target, batch)
    if target or batch is not None:
        raise UsageError(f"{path} is no run file: it has no target and no batch to choose", "leave them out")
    if kind == "[":
        return [_exported(path, text, column or "latencyMs")]
    return [_csv(path, text, column, unit)]


def of_row(row: Dict[str, Any]) -> Timings:
    """The times of a row of a run that has samples."""
    rounds = [entry for entry in row["rounds"] if entry["samples_ms"]]
    starts = [entry.get("starts_ms") for entry in rounds]
    return Timings(
        np.array(row["samples_ms"], np.float64),
        np.array(starts[0], np.float64) if len(starts) == 1 and starts[0] else None,
        compare.label(row),
        "measured by optimize",
        [len(entry["samples_ms"]) for entry in rounds],
        row.get("first_ms"),
        row.get("interference"),
    )


def _text(path: Path) -> str:
    if path.stat().st_size > jsonfile.LIMIT:
        raise DamagedError(f"{path}: larger than {jsonfile.LIMIT >> 20} MiB", "cut it into several files")
    data = path.read_bytes()
    encoding = "UTF-16" if data.startswith(UTF16) else "UTF-8"
    try:
        text = data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: not text in {encoding} ({error.reason} at byte {error.start})") from None
    if not text.strip():
        raise DamagedError(f"{path} is empty: no times in it")
    if "\0" in text:
        raise DamagedError(f"{path}: line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a zero byte")
    return text


def _rows(path: Path, target: str, batch: Optional[int]) -> List[Timings]:
    told = [row for row in runs.read(path)["rows"] if row["samples_ms"] and (row.get("streams") or 1) == 1]
    if not told:
        raise UsageError(f"{path} has no samples of one query at a time", "optimize bench TARGET... -o runs.json")
    found = [row for row in told if target in ("", row["target"]) and batch in (None, row["batch"])]
    if not found:
        asked = " at ".join([*([target] if target else []), *([f"batch {batch}"] if batch is not None else [])])
        raise UsageError(f"{path} has no {asked}; it has {_listed([compare.label(row) for row in told])}")
    for row in found:
        wrong = next((place for place, ms in enumerate(row["samples_ms"]) if not 0 <= ms < _MOST_MS), None)
        if wrong is not None:
            raise DamagedError(f"{path}: sample {wrong + 1} of {compare.label(row)} is no time")
    return [of_row(row) for row in found]


def _exported(path: Path, text: str, column: str) -> Timings:
    """trtexec's own figures and not the differences of its moments: it writes six digits of either.

    Source: TensorRT, samples/common/sampleReporting.cpp, exportJSONTrace. Up to 8.2 the file has `endToEndMs` too, and
    begins with the queries of the warm-up. Several streams are written one after the other.
    """
    try:
        entries = jsonfile.loads(text)
    except ValueError as error:
        raise DamagedError(f"{path}: not valid JSON ({error})") from None
    if not entries or not all(isinstance(one, dict) for one in entries):
        raise DamagedError(f"{path}: not the times of trtexec --exportTimes, which are a list of objects")
    moment = re.compile(r"(start|end)(?!ToEnd)[A-Z]\w*Ms")
    known = [key for key in entries[0] if key.endswith("Ms") and not moment.fullmatch(key)]
    if "startComputeMs" not in entries[0] or not known:
        raise DamagedError(f"{path}: not the times of trtexec --exportTimes: no startComputeMs in its first query")
    if column not in known:
        raise UsageError(f"{path} has no times {column!r}; it has {_listed(known)}", f"--column {known[-1]}")
    samples = np.array([_number(path, place, one, column) for place, one in enumerate(entries)])
    starts = np.array([_number(path, place, one, "startComputeMs") for place, one in enumerate(entries)])
    words = f"trtexec --exportTimes, {column}"
    if "endToEndMs" in known:
        words += ", with the queries of its warm-up"
    if (np.diff(starts) < 0).any():
        order = np.argsort(starts, kind="stable")
        samples, starts, words = samples[order], starts[order], f"{words}, of several streams"
    return Timings(samples, starts, path.name, words, [len(samples)])


def _number(path: Path, place: int, entry: Dict[str, Any], key: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _MOST_MS:
        raise DamagedError(f"{path}: {key} of query {place + 1} is {_short(value)}, a time in ms is expected")
    return float(value)


def _csv(path: Path, text: str, column: str, unit: str) -> Timings:
    names, table = _table(path, text)
    chosen = _named(path, names, table, column) if column else _only(path, table)
    if chosen.wrong:
        raise DamagedError(f"{path}: line {chosen.wrong[0]}, column {chosen.name}: {chosen.wrong[1]} is no time")
    told = _unit(chosen.name) if names else ""
    if unit and told and unit != told:
        raise UsageError(f"--unit {unit}: the column {chosen.name} of {path} is in {told} by its name")
    if not unit and not told:
        raise UsageError(f"{path}: the unit of column {chosen.name} is not told", "for example --unit us")
    samples = np.array(chosen.values, np.float64) / PER_MS[unit or told]
    if samples.max() >= _MOST_MS:
        raise DamagedError(f"{path}: column {chosen.name}: {samples.max():g} ms is no time")
    return Timings(samples, None, path.name, f"column {chosen.name}, in {unit or told}", [len(samples)])


def _unit(name: str) -> str:
    """The unit at the end of a column's name; empty where there is none."""
    found = _UNIT.search(name)
    told = (found.group(1) or found.group(2)).lower() if found else ""
    return "us" if told in ("µs", "μs") else told


class _Column:
    """Values of a column as long as they are times; `wrong` is the line and text of the first that is none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values = array("d")
        self.wrong: Optional[Tuple[int, str]] = None

    def add(self, line: int, cell: str) -> None:
        if self.wrong is None:
            value = _float(cell)
            if value is not None and value >= 0:
                self.values.append(value)
            else:
                self.wrong = line, _short(cell)

    def counts(self) -> bool:
        """Whether it only numbers the rows."""
        values = np.array(self.values)
        return len(values) > 2 and bool((np.diff(values) == 1).all()) and float(values[0]).is_integer()


def _table(path: Path, text: str) -> Tuple[List[str], List[_Column]]:
    """Names of the columns, none where the first row has numbers, and the columns."""
    names: List[str] = []
    table: List[_Column] = []
    for line, cells in _cells(path, text):
        if not table:
            if not any(_float(cell) is not None for cell in cells):
                names = cells
            table = [_Column(name) for name in names or map(str, range(1, len(cells) + 1))]
            if names:
                continue
        if len(cells) != len(table):
            raise DamagedError(f"{path}: line {line} has {len(cells)} cells, not {len(table)}")
        for one, cell in zip(table, cells):
            one.add(line, cell)
    if not any(one.values or one.wrong for one in table):
        raise DamagedError(f"{path}: no times in it")
    return names, table


def _cells(path: Path, text: str) -> Iterator[Tuple[int, List[str]]]:
    """The rows and their lines; no cell goes on in the next line."""
    rows = [
        (number, line.strip(" \r\n"))
        for number, line in enumerate(io.StringIO(text, newline=None), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    sample = rows[min(1, len(rows) - 1)][1] if rows else ""  # of the names a single one may have spaces or commas
    mark = next((mark for mark in _MARKS if mark in sample), "\t")
    for number, line in rows:
        if len(line) > _LONGEST:
            raise DamagedError(f"{path}: line {number} is longer than {_LONGEST} characters: no table of timings")
        try:
            cells = line.split() if mark == " " else next(csv.reader([line], delimiter=mark, strict=True))
        except csv.Error as error:
            raise DamagedError(f"{path}: line {number}: {error}") from None
        yield number, [cell.strip() for cell in cells]


def _named(path: Path, names: Sequence[str], table: Sequence[_Column], column: str) -> _Column:
    found = [one for one in table if one.name == column]
    if len(found) == 1:
        return found[0]
    listed = _listed([one.name for one in table])
    if found:
        raise UsageError(f"{path} has {len(found)} columns {column!r}: {listed}", "give one another name")
    by = "" if names else "its columns have no names, only numbers: "
    raise UsageError(f"{path} has no column {column!r}; {by}{listed}", f"for example --column {table[-1].name}")


def _only(path: Path, table: Sequence[_Column]) -> _Column:
    """The only column of times; one that numbers the rows is none.

    One that begins with times or is named so is of times too, and what is wrong in it is told: the column beside it,
    such as of moments, is not what was meant.
    """
    times = [one for one in table if one.values or _unit(one.name)]
    times = [one for one in times if not one.counts()] or times
    if not times:
        return max(table, key=lambda one: len(one.values))  # the caller says what is wrong with the likeliest
    if len(times) > 1:
        listed = _listed([one.name for one in times])
        raise UsageError(f"{path} has {len(times)} columns of times: {listed}", f"--column {times[-1].name}")
    return times[0]


def _float(text: str) -> Optional[float]:
    """A finite number as tools write it; Python's own `1_000` is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 40 else shown[:37] + "..."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) if not name or " " in name else name for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
