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

_SCHEMA = "optimize.ranges/2"

EVERY_S = 5.0
"""Seconds between two states: what an interrupt may cost."""


class Checkpoint:
    """The state of a pass, in a file as well: as large for one image as for a million.

    Args:
        path: The .npz file; it need not exist. None keeps the state in memory alone.
        about: What decides the ranges (graph, tensors, images, preprocessing), as JSON values. A file about anything
            else is not used, nor is a damaged one.
        every_s: Seconds between two states; `EVERY_S` by default.

    Attributes:
        done: Images that the state holds; the pass goes on behind them.
        passed: Images at the last pause after which the pass went on; 0 before the first.
        scales: Of that pause, by method and tensor.
    """

    def __init__(self, path: Optional[Path], about: Mapping[str, Any], every_s: Optional[float] = None) -> None:
        self._path, self._every = path, EVERY_S if every_s is None else every_s
        self._key = hashlib.sha256(json.dumps([_SCHEMA, about], sort_keys=True).encode()).hexdigest()
        self._last = time.monotonic()
        self.done = 0
        self.passed = 0
        self.scales: Dict[str, Dict[str, float]] = {}
        self._found: Optional[Mapping[str, TensorRange]] = None
        if path:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with np.load(str(path), allow_pickle=False) as state:
                arrays = {name: state[name] for name in state.files}
            if str(arrays["key"]) == self._key:
                self._found, self.done = _unpack(arrays), int(arrays["done"])
                self.passed, self.scales = int(arrays["passed"]), json.loads(str(arrays["scales"]))
        except (OSError, EOFError, LookupError, ValueError, TypeError, zipfile.BadZipFile, NotImplementedError):
            return

    def ranges(self, fresh: Dict[str, TensorRange]) -> Dict[str, TensorRange]:
        """The ranges so far where they are of the same tensors, else `fresh` ones and `done` is 0."""
        if self._found is None or list(self._found) != list(fresh):
            self.done, self.passed, self.scales = 0, 0, {}
            return fresh
        return dict(self._found)

    def reached(self, found: Mapping[str, TensorRange], done: int) -> None:
        """Keep the state, and write it if the last one is old enough."""
        self._found, self.done = found, done
        if time.monotonic() - self._last >= self._every:
            self._write()

    def go_on(self, scales: Mapping[str, Mapping[str, float]]) -> None:
        """Keep and write that the pass goes on from a pause, and the scales by method and tensor there."""
        self.passed, self.scales = self.done, {method: dict(found) for method, found in scales.items()}
        self._write()

    def remove(self) -> None:
        """Forget the state: what it was for is done."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is None or self._found is None:
            return
        pause = {"passed": np.array(self.passed), "scales": np.array(json.dumps(self.scales))}
        with jsonfile.replacing_file(self._path) as part, open(part, "wb") as handle:
            np.savez(handle, key=np.array(self._key), done=np.array(self.done), **pause, **_pack(self._found))
        self._last = time.monotonic()


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
