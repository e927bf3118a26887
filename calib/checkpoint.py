"""A streaming pass that was interrupted goes on where its last state was written, to the same bits."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
import numpy.typing as npt

from calib.histogram import BINS, Histogram, TensorRange
from engines import jsonfile

_SCHEMA = "optimize.ranges/1"

EVERY_S = 5.0
"""Seconds between two states: what an interrupt may cost."""


class Checkpoint:
    """The state of a pass in a file: as large for one image as for a million.

    Args:
        path: The .npz file; it need not exist.
        about: What decides the ranges (graph, tensors, images, preprocessing), as JSON values. A file about anything
            else is not used, nor is a damaged one.
        every_s: Seconds between two states; `EVERY_S` by default.

    Attributes:
        done: Images that the stored state holds; the pass goes on behind them.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], every_s: Optional[float] = None) -> None:
        self._path, self._every = path, EVERY_S if every_s is None else every_s
        self._key = hashlib.sha256(json.dumps([_SCHEMA, about], sort_keys=True).encode()).hexdigest()
        self._last = time.monotonic()
        self.done = 0
        self._found: Optional[Dict[str, TensorRange]] = None
        try:
            with np.load(str(path), allow_pickle=False) as state:
                arrays = {name: state[name] for name in state.files}
            if str(arrays["key"]) == self._key:
                self._found, self.done = _unpack(arrays), int(arrays["done"])
        except (OSError, EOFError, LookupError, ValueError, TypeError, zipfile.BadZipFile, NotImplementedError):
            self._found, self.done = None, 0

    def ranges(self, fresh: Dict[str, TensorRange]) -> Dict[str, TensorRange]:
        """The stored ranges where they are of the same tensors, else `fresh` ones and `done` is 0."""
        stored = self._found
        if stored is None or list(stored) != list(fresh):
            self.done = 0
            return fresh
        return stored

    def reached(self, found: Mapping[str, TensorRange], done: int) -> None:
        """Write the state if the last one is old enough."""
        if time.monotonic() - self._last < self._every:
            return
        with jsonfile.replacing_file(self._path) as part, open(part, "wb") as handle:
            np.savez(handle, key=np.array(self._key), done=np.array(done), **_pack(found))
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forget the state: what it was for is done."""
        self._path.unlink(missing_ok=True)


def _pack(found: Mapping[str, TensorRange]) -> Dict[str, npt.NDArray[Any]]:
    histograms = [hist for seen in found.values() for hist in (seen.values, seen.peaks)]
    extremes = [[hist.minimum, hist.maximum] for hist in histograms]
    return {
        "names": np.array(json.dumps(list(found))),
        "counts": np.stack([hist.counts for hist in histograms]),
        "exponents": np.array([np.nan if hist.exponent is None else hist.exponent for hist in histograms]),
        "extremes": np.array(extremes, np.float64),
        "totals": np.array([hist.total for hist in histograms], np.int64),
        "momenta": np.array(_momenta(found), np.float64),
        "averages": np.array([list(seen.averages.values()) for seen in found.values()], np.float64),
    }


def _momenta(found: Mapping[str, TensorRange]) -> Sequence[float]:
    return next((list(seen.averages) for seen in found.values()), [])


def _unpack(state: Mapping[str, npt.NDArray[Any]]) -> Dict[str, TensorRange]:
    """What `_pack` packed.

    Raises:
        LookupError, TypeError, ValueError: It did not.
    """
    names = json.loads(str(state["names"]))
    counts = state["counts"]
    if counts.shape != (2 * len(names), BINS) or counts.dtype != np.int64 or (counts < 0).any():
        raise ValueError("not the counts of these tensors")
    if (counts.sum(axis=1) != state["totals"]).any() or not np.isfinite(state["extremes"]).all():
        raise ValueError("counts and totals differ")
    histograms: List[Histogram] = []
    for row, exponent, (low, high), total in zip(counts, state["exponents"], state["extremes"], state["totals"]):
        known = None if np.isnan(exponent) else int(exponent)
        histograms.append(Histogram(row.copy(), known, float(low), float(high), int(total)))
    momenta = state["momenta"].tolist()
    found = {}
    for index, name in enumerate(names):
        pairs = state["averages"][index].tolist()
        averages = {momentum: (float(total), float(weight)) for momentum, (total, weight) in zip(momenta, pairs)}
        found[str(name)] = TensorRange(histograms[2 * index], histograms[2 * index + 1], averages)
    return found
