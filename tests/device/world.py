"""What a contract case is given, and what comes of it."""

from __future__ import annotations

import contextlib
import gc
import re
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from engines.cuda import Context

STATUSES = ("held", "broken", "absent", "raised", "crashed", "timeout")
"""Held: all checks did. Broken: one did not. Absent: this version or machine lacks what the case is about."""

_LINES, _LETTERS = 12, 300


class Absent(Exception):
    """This version or machine lacks what the case is about; says what."""


@dataclass
class World:
    """One case's surroundings.

    Attributes:
        trt: The module `tensorrt`, None where only CUDA is there.
        gpu: An open context, None for a case that opens its own.
        folder: Empty, removed after the case.
        log: What TensorRT says: of `engines.tensorrt.compat.logger`.
        checks: What our code relies on, by name.
        seen: What is worth knowing and differs from machine to machine: never compared.
    """

    trt: Any
    folder: Path
    gpu: Any = None
    log: Any = None
    checks: Dict[str, bool] = field(default_factory=dict)
    seen: Dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, holds: Any) -> None:
        """Note that something holds, or does not; once broken stays broken."""
        self.checks[name] = bool(holds) and self.checks.get(name, True)


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        name: `group.what`.
        run: Gives what is compared between machines, JSON values.
        needs: `cuda` or `tensorrt`.
        own: It opens its own contexts.
    """

    name: str
    run: Callable[[World], Dict[str, Any]]
    needs: str
    own: bool = False


def run(case: Case, trt: Any, folder: Path) -> Dict[str, Any]:
    """Run one case.

    Args:
        case: Of `tests.device.contract.CASES`.
        trt: The module, or None.
        folder: Empty.

    Returns:
        `name`, `status`, `why` (of what is not held), `told` (compared), `checks`, `seen`, `log` (severity and text of
        errors and warnings), `seconds`.
    """
    from engines.tensorrt import compat

    world = World(trt, folder, log=None if trt is None else compat.logger(trt))
    begun = time.perf_counter()
    told, status, why = _run(case, world)
    broken = [name for name, holds in world.checks.items() if not holds]
    if status == "held" and broken:
        status, why = "broken", ", ".join(broken)
    return {
        "name": case.name,
        "status": status,
        "why": why,
        "told": told,
        "checks": world.checks,
        "seen": world.seen,
        "log": [] if world.log is None else lines(world.log.lines),
        "seconds": round(time.perf_counter() - begun, 3),
    }


def _run(case: Case, world: World) -> Tuple[Dict[str, Any], str, str]:
    if case.own:
        return _guarded(case, world)
    try:
        with Context(0) as gpu:
            world.gpu = gpu
            return _guarded(case, world)
    except Exception as error:  # the context itself; whatever it is, it is this case's outcome
        return {}, "raised", f"{type(error).__name__}: {error}"
    finally:
        world.gpu = None


def _guarded(case: Case, world: World) -> Tuple[Dict[str, Any], str, str]:
    """Run it, and leave nothing of it behind: what a traceback holds would outlive the context."""
    try:
        return case.run(world), "held", ""
    except Absent as error:
        return {}, "absent", str(error)
    except Exception as error:  # whatever it is, it is this case's outcome
        traceback.clear_frames(error.__traceback__)
        return {}, "raised", f"{type(error).__name__}: {error}"
    finally:
        gc.collect()


def lines(said: List[Tuple[str, str]]) -> List[List[str]]:
    """Errors and warnings without what differs from run to run: addresses, repetitions, and no end of them."""
    found = [[severity, re.sub(r"0x[0-9a-fA-F]+", "0x…", text)[:_LETTERS]] for severity, text in said]
    return [one for place, one in enumerate(found) if one not in found[:place]][:_LINES]


@contextlib.contextmanager
def raised() -> Iterator[List[str]]:
    """Catch what is raised: the list ends with the name of its class afterwards. `Absent` passes through."""
    found: List[str] = []
    try:
        yield found
    except Absent:
        raise
    except Exception as error:  # the class is what is asked for
        found.append(type(error).__name__)
        traceback.clear_frames(error.__traceback__)


def attempt(call: Callable[[], Any]) -> Any:
    """What a call of TensorRT gives, in JSON: True, False, None, a number, `object`, or the class that it raises."""
    with raised() as found:
        value = call()
        return value if value is None or isinstance(value, (bool, int, str)) else "object"
    return found[0]


def word(value: Any) -> str:
    """The name of an enum's member."""
    return str(getattr(value, "name", value)).rsplit(".", 1)[-1]


def need(holds: Any, what: str) -> None:
    """Go on only where this version or machine has what a case is about.

    Raises:
        Absent: It has not.
    """
    if not holds:
        raise Absent(what)


def bytes_free(gpu: Any) -> Optional[int]:
    """Free memory of the device after what was dropped is gone."""
    gc.collect()
    gpu.synchronize()
    return int(gpu.memory()[0])
