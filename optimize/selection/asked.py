"""What is asked of a selection, read from the words that a user types: `10Mbps`, `2GiB`, `10%`."""

from __future__ import annotations

import re
from typing import Dict, NamedTuple, Optional, Tuple, Union

from engines.errors import UsageError

POLICIES = ("budget", "greedy", "pareto")

IMAGES = 10_000
"""Images of the total time unless told otherwise: the test set that the user's tables count."""

_BITS: Dict[str, float] = {"kbps": 1e3, "mbps": 1e6, "gbps": 1e9, "kb/s": 8e3, "mb/s": 8e6, "gb/s": 8e9}
"""Bits a second. Those of a link are decimal; `bps` are bits, `B/s` bytes."""

_BYTES: Dict[str, float] = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIMES: Dict[str, float] = {"ms": 1e-3, "s": 1.0}

_MEASURE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z/]+|%|)")


class Drop(NamedTuple):
    """How much accuracy may be lost against the baseline."""

    value: float
    """Points of 100, or a share of the baseline's accuracy."""
    relative: bool

    @property
    def words(self) -> str:
        """`10 points`, or `10% of the baseline's accuracy`."""
        return f"{100 * self.value:g}% of the baseline's accuracy" if self.relative else f"{self.value:g} points"

    def allows(self, best: float, top1: float) -> bool:
        """Whether an accuracy is within the limit of the best one; both are fractions of 1."""
        lost = best - top1
        return (lost if self.relative else 100 * lost) <= self.value * (best if self.relative else 1) + 1e-9


class Asked(NamedTuple):
    """What is asked of a selection.

    Attributes:
        policy: Of `POLICIES`.
        drop: Accuracy that may be lost.
        min_saving: Share of the baseline's time that must be saved.
        images: Images of the total time.
        batch: Images in a query; None takes the smallest that all candidates have.
        bandwidth: Bits a second between the control node and the device; None where it is unknown.
        rtt_s: Round trip before a transfer, seconds.
        cached: The models are on the device already: nothing is transferred.
        memory_bytes: That a candidate may take; None for no limit.
        max_load: Share of the device's processor that other programs may take; None for no limit.
    """

    policy: str = "budget"
    drop: Drop = Drop(10.0, False)
    min_saving: float = 0.2
    images: int = IMAGES
    batch: Optional[int] = None
    bandwidth: Optional[float] = None
    rtt_s: float = 0.0
    cached: bool = False
    memory_bytes: Optional[int] = None
    max_load: Optional[float] = None


def drop(option: str, text: Union[str, float]) -> Drop:
    """Read a limit of the drop: `10` and `10 points` are points of 100, `10%` is a share of the baseline's accuracy.

    Raises:
        UsageError: Neither.
    """
    value, unit = _split(str(text))
    if unit not in ("", "%", "point", "points") or not 0 <= value <= 100:
        expected = "points from 0 to 100, such as 10, or a share of the baseline's accuracy, such as 10%,"
        raise UsageError(f"{option} {text}: {expected} is expected")
    return Drop(value / 100, True) if unit == "%" else Drop(value, False)


def share(option: str, text: Union[str, float]) -> float:
    """Read a share such as `20%` or `0.2`.

    Raises:
        UsageError: Not a share from 0 to 1.
    """
    value, unit = _split(str(text))
    value = value / 100 if unit == "%" else value
    if unit not in ("", "%") or not 0 <= value <= 1:
        raise UsageError(f"{option} {text}: a share such as 20% or 0.2 is expected")
    return value


def bandwidth(option: str, text: str) -> float:
    """Read a bandwidth such as `10Mbps`, `1Gbps` or `5MB/s` as bits a second.

    Raises:
        UsageError: Not a bandwidth above 0.
    """
    return _measure(option, text, _BITS, "a bandwidth such as 10Mbps, 1Gbps or 5MB/s")


def size(option: str, text: str) -> int:
    """Read a size such as `512MiB` or `2GB` as bytes.

    Raises:
        UsageError: Not a size above 0.
    """
    return int(_measure(option, text, _BYTES, "a size such as 512MiB or 2GB"))


def delay(option: str, text: str) -> float:
    """Read a time such as `20ms` as seconds.

    Raises:
        UsageError: Not a time.
    """
    return 0.0 if text.strip() == "0" else _measure(option, text, _TIMES, "a time such as 20ms")


def _measure(option: str, text: str, units: Dict[str, float], expected: str) -> float:
    value, unit = _split(text)
    if not 0 < value * units.get(unit, 0.0) < 1e15:
        raise UsageError(f"{option} {text}: {expected} is expected")
    return value * units[unit]


def _split(text: str) -> Tuple[float, str]:
    match = _MEASURE.fullmatch(text.strip())
    return (float(match.group(1)), match.group(2).lower()) if match else (-1.0, "")
