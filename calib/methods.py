"""Methods that read the range of a tensor from what one streaming pass has gathered of it.

A percentile of all values ignores how values gather in images: where a few channels carry rare, very large values that
matter (deep residual stages do), 99.9% of all values clip them in every image. A percentile of the images' peaks clips
only the extreme images.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from calib import clipping
from calib.histogram import MOMENTA, TensorRange
from engines.errors import UsageError

_FLOOR = 2.0**-40
"""Smallest scale given out: positive, far from subnormal, where some devices flush to zero."""

_DEFAULTS = {"percentile": 99.9, "peaks": 90.0}


class Method(NamedTuple):
    """How a range is read.

    `minmax`; `percentile` of |x| over all values; `peaks`, a percentile of the images' largest |x|; `average`, their
    moving average; `entropy` and `mse`, which weigh clipping against rounding (`calib.clipping`).
    """

    name: str
    percentile: Optional[float] = None
    momentum: Optional[float] = None

    def __str__(self) -> str:
        value = self.momentum if self.percentile is None else self.percentile
        return self.name if value is None else f"{self.name}:{value:g}"


METHODS = (
    Method("minmax"),
    Method("percentile", 99.9),
    Method("percentile", 99.99),
    Method("percentile", 99.5),
    Method("peaks", 85.0),
    Method("peaks", 95.0),
    Method("peaks", 70.0),
    Method("peaks", 50.0),
    Method("average", momentum=MOMENTA[0]),
    Method("entropy"),
    Method("mse"),
)
"""The candidates of a calibration: none is safe on every model, so all are measured."""


def parse_method(text: str) -> Method:
    """Read `minmax`, `percentile[:P]`, `peaks[:P]`, `average[:M]`, `entropy` or `mse`.

    Without a number, percentile is 99.9, peaks 90 and the momentum 0.99.

    Raises:
        UsageError: Anything else.
    """
    name, _, value = text.partition(":")
    try:
        number = float(value) if value else math.nan
    except ValueError:
        number = -1.0
    if name in ("minmax", "entropy", "mse") and not value:
        return Method(name)
    if name in _DEFAULTS and ((math.isnan(number) and not value) or 0 < number <= 100):
        return Method(name, number if value else _DEFAULTS[name])
    if name == "average" and (not value or 0 <= number < 1):
        return Method(name, momentum=number if value else MOMENTA[0])
    raise UsageError(
        f"unknown calibration method {text!r}",
        "use minmax, percentile[:P], peaks[:P], average[:M], entropy or mse, with P in percent and M from 0 to 1",
    )


def momenta(methods: List[Method]) -> Tuple[float, ...]:
    """The moving averages that a pass must gather for these methods."""
    return tuple(sorted({method.momentum for method in methods if method.momentum is not None}))


def threshold(seen: TensorRange, method: Method, levels: int = 127) -> float:
    """The largest |x| that a method keeps; what lies beyond is clipped.

    Args:
        seen: Of the tensor.
        method: One of those that `parse_method` reads.
        levels: Steps from 0 to the threshold, for `mse`: 127 of int8, 255 of uint8.
    """
    found = _READ[method.name](seen, method, levels)
    # A tensor that is zero nearly everywhere has its percentile in the first bin, which would erase it.
    return found if found > seen.values.width else seen.values.amax


def _percentile(seen: TensorRange, method: Method, levels: int) -> float:
    hist = seen.peaks if method.name == "peaks" else seen.values
    assert method.percentile is not None
    found = hist.percentile(method.percentile)
    return found if found > hist.width else 0.0


def _average(seen: TensorRange, method: Method, levels: int) -> float:
    assert method.momentum is not None
    return seen.average(method.momentum)


_READ: Dict[str, Callable[[TensorRange, Method, int], float]] = {
    "minmax": lambda seen, method, levels: seen.values.amax,
    "percentile": _percentile,
    "peaks": _percentile,
    "average": _average,
    "entropy": lambda seen, method, levels: clipping.entropy(seen.values),
    "mse": lambda seen, method, levels: clipping.mse(seen.values, levels),
}


def scale(seen: TensorRange, method: Method, levels: int = 127) -> float:
    """Symmetric int8 scale of a tensor: threshold / 127, never zero."""
    return symmetric(threshold(seen, method, levels))


def symmetric(amax: float) -> float:
    """Scale of symmetric int8 for values up to `amax`: amax / 127, at least 2**-40."""
    return max(amax / 127.0, _FLOOR)
