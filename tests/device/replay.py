"""Hold what a board told against what the stand-in tells, case by case: where they differ, the stand-in is wrong."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from engines import jsonfile
from engines.errors import DamagedError
from tests.device.report import SCHEMA

_FIELDS = {"name": str, "status": str, "told": dict, "checks": dict, "log": list}


class Known(NamedTuple):
    """A difference that is not the stand-in's fault, or not worth mending."""

    case: str
    where: str
    reason: str


KNOWN: Tuple[Known, ...] = (
    Known("cuda.kernel*", "status", "the driver for tests loads no kernels"),
    Known("cuda.loop_overhead", "status", "a compiler may be missing on either side"),
    Known("run.flipped_byte", "*", "TensorRT keeps no sum over a plan; our manifest's hash refuses it before"),
    Known("api.names", "told.members.IHostMemory*", "the stand-in's host memory is made of Python's bytes"),
)
"""By case and place, both patterns. Whoever adds one says why."""


def read(path: Path) -> Dict[str, Any]:
    """A report from its file.

    Raises:
        DamagedError: It is no report, or of another schema.
        FileNotFoundError: No such file.
    """
    made = jsonfile.read(path, SCHEMA)
    cases = made.get("cases")
    if not isinstance(cases, list) or not isinstance(made.get("tensorrt"), str):
        raise DamagedError(f"{path}: a report has cases and a version of TensorRT")
    for one in cases:
        if not isinstance(one, dict) or any(not isinstance(one.get(key), kind) for key, kind in _FIELDS.items()):
            raise DamagedError(f"{path}: a case lacks one of {', '.join(_FIELDS)}")
    return made


def surface_of(version: str, surfaces: Sequence[str]) -> str:
    """The stand-in's surface for a version of TensorRT (`10.13.3.9` -> `10.13`); empty where there is none."""
    numbers = version.split("+")[0].split(".")
    fitting = [one for one in surfaces if numbers[: len(one.split("."))] == one.split(".")]
    return max(fitting, key=len, default="")


def differences(recorded: Sequence[Dict[str, Any]], replayed: Sequence[Dict[str, Any]]) -> List[str]:
    """What the stand-in tells otherwise, a line for each place, without what is known.

    Args:
        recorded: Cases of a report; those that the table no longer has are left out.
        replayed: The same cases under the stand-in.
    """
    mine = {one["name"]: one for one in replayed}
    return [
        f"{one['name']}: {where}: the report has {there!r}, the stand-in {here!r}"
        for one in recorded
        if one["name"] in mine
        for where, there, here in _compare(one, mine[one["name"]])
        if not _known(one["name"], where)
    ]


def _known(case: str, where: str) -> bool:
    return any(fnmatch.fnmatchcase(case, k.case) and fnmatch.fnmatchcase(where, k.where) for k in KNOWN)


def _compare(there: Dict[str, Any], here: Dict[str, Any]) -> Iterator[Tuple[str, Any, Any]]:
    if there["status"] != here["status"]:
        yield "status", there["status"], here["status"]
        return
    yield from _values("told", there["told"], here["told"])
    yield from _values("checks", there["checks"], here["checks"])
    errors = [any(line and line[0] == "ERROR" for line in one["log"]) for one in (there, here)]
    if errors[0] != errors[1]:
        yield "an ERROR in the log", *errors


def _values(where: str, there: Any, here: Any) -> Iterator[Tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from _values(f"{where}.{key}", there.get(key, "nothing"), here.get(key, "nothing"))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for place, (one, other) in enumerate(zip(there, here)):
            yield from _values(f"{where}.{place}", one, other)
    elif there != here:
        yield where, there, here
