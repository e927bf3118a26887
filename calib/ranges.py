"""Ranges of activations: exact histograms in one streaming pass, and the range that a method reads from them.

Two histograms per tensor: of |x| over all values, and of the largest |x| of each image. A percentile of the first
ignores how values gather in images: where a few channels carry rare, very large values that matter (deep residual
stages do), 99.9% of all values clip them in every image. A percentile of the second clips only the extreme images.

Every tensor has a fixed number of bins whose width is a power of two. When a value does not fit, the width doubles and
neighbouring bins are added up, which is exact: floor(|x| / 2w) = floor(floor(|x| / w) / 2). So the histogram depends on
the values alone, not on their order or on how they came in batches, and its memory not on how many there were.
"""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from engines.errors import DataError, ModelError, UsageError
from engines.spec import Progress, quiet

BINS = 8192
"""Bins per tensor; the largest value lies in the upper half, so a bin is at most 1/4096 of it."""

_CHUNK = 1 << 17
"""Values binned at once: 512 KiB of float32, which stays in the cache."""

_LOWEST = -100
"""Smallest exponent of the bin width: below it 2**-exponent would leave float32; such values are zero to int8."""

_FLOOR = 2.0**-40
"""Smallest scale given out: positive, far from subnormal, where some devices flush to zero."""


class Method(NamedTuple):
    """How a range is read: `minmax`, `percentile` of |x| over all values, or `peaks`, of the images' largest |x|."""

    name: str
    percentile: Optional[float] = None

    def __str__(self) -> str:
        return self.name if self.percentile is None else f"{self.name}:{self.percentile:g}"


METHODS = (
    Method("minmax"),
    Method("percentile", 99.99),
    Method("percentile", 99.9),
    Method("percentile", 99.5),
    Method("peaks", 95.0),
    Method("peaks", 85.0),
    Method("peaks", 70.0),
    Method("peaks", 50.0),
)
"""The candidates of a calibration: none is safe on every model, so all are measured."""


_DEFAULT_PERCENTILE = {"percentile": 99.9, "peaks": 90.0}


def parse_method(text: str) -> Method:
    """Read `minmax`, `percentile:99.99` or `peaks:90`; without a number, percentile is 99.9 and peaks 90.

    Raises:
        UsageError: Anything else.
    """
    name, _, value = text.partition(":")
    if name == "minmax" and not value:
        return Method("minmax")
    try:
        percentile = float(value) if value else _DEFAULT_PERCENTILE.get(name, math.nan)
    except ValueError:
        percentile = math.nan
    if name not in _DEFAULT_PERCENTILE or not 0 < percentile <= 100:
        raise UsageError(
            f"unknown calibration method {text!r}", "use minmax, percentile[:P] or peaks[:P] with P in percent"
        )
    return Method(name, percentile)


@dataclass
class Histogram:
    """Counts of |x| in `BINS` bins of width 2**exponent, with the exact signed extremes.

    Attributes:
        counts: int64, shape (BINS,); values of exactly the upper edge belong to the next bin.
        exponent: Of the bin width; None until a value other than zero was seen.
        minimum, maximum: Signed extremes; both 0 where nothing was added.
        total: Values added.
    """

    counts: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: Optional[int] = None
    minimum: float = 0.0
    maximum: float = 0.0
    total: int = 0

    @property
    def width(self) -> float:
        """Width of a bin; 0 where only zeros were seen."""
        return 0.0 if self.exponent is None else 2.0**self.exponent

    @property
    def amax(self) -> float:
        """Largest |x| seen, exact."""
        return max(-self.minimum, self.maximum)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count every value of an array of any shape, as float32.

        Raises:
            DataError: The array holds NaN or an infinity.
        """
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK])

    def _add_chunk(self, chunk: npt.NDArray[Any]) -> None:
        low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError("a tensor holds NaN or an infinity")
        self.minimum = low if self.total == 0 else min(self.minimum, low)
        self.maximum = high if self.total == 0 else max(self.maximum, high)
        self.total += chunk.size
        if self.amax == 0:
            self.counts[0] += chunk.size
            return
        self.grow(_exponent(self.amax))
        assert self.exponent is not None
        scaled = np.abs(chunk)
        scaled *= np.float32(2.0**-self.exponent)
        self.counts += np.bincount(scaled.astype(np.int64), minlength=BINS)

    def grow(self, exponent: int) -> None:
        """Widen the bins to 2**exponent by adding up neighbours; narrower ones are left as they are."""
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = self.counts[0::2] + self.counts[1::2]
            self.counts[: BINS // 2] = merged
            self.counts[BINS // 2 :] = 0
            self.exponent += 1

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts; the result is as if its values had been added here."""
        if other.total == 0:
            return
        self.minimum = other.minimum if self.total == 0 else min(self.minimum, other.minimum)
        self.maximum = other.maximum if self.total == 0 else max(self.maximum, other.maximum)
        self.total += other.total
        copy = Histogram(other.counts.copy(), other.exponent)
        if other.exponent is not None:
            self.grow(other.exponent)
        if self.exponent is not None:
            copy.grow(self.exponent)
        self.counts += copy.counts

    def percentile(self, percentile: float) -> float:
        """Percentile of |x| by linear interpolation between order statistics, as `numpy.percentile` defines it.

        Each order statistic is known to its bin, taken at the bin's middle: within half a bin of the exact value.
        """
        if self.total == 0:
            return 0.0
        rank = percentile / 100.0 * (self.total - 1)
        below = math.floor(rank)
        cumulative = np.cumsum(self.counts)
        first, second = (self._order(cumulative, min(k, self.total - 1)) for k in (below, below + 1))
        return first + (second - first) * (rank - below)

    def _order(self, cumulative: npt.NDArray[Any], k: int) -> float:
        """The k-th smallest |x|, k from 0."""
        if k == self.total - 1:
            return self.amax
        index = int(np.searchsorted(cumulative, k, side="right"))
        return min((index + 0.5) * self.width, self.amax)


def _exponent(amax: float) -> int:
    """Smallest exponent e >= _LOWEST with amax < BINS * 2**e."""
    return max(math.frexp(amax)[1] - int(math.log2(BINS)), _LOWEST)


@dataclass
class TensorRange:
    """What is known of a tensor: a histogram of |x| over all values, and one of each image's largest |x|."""

    values: Histogram = field(default_factory=Histogram)
    peaks: Histogram = field(default_factory=Histogram)

    def add(self, batch: npt.NDArray[Any], images: int) -> None:
        """Count a batch: its values, and one peak per image where the first axis can be split into `images`."""
        if not batch.size:
            return
        rows = batch.reshape(images if batch.ndim and batch.shape[0] % images == 0 else 1, -1)
        self.values.add(rows)
        self.peaks.add(np.maximum(rows.max(axis=1), -rows.min(axis=1)))

    @property
    def nonnegative(self) -> bool:
        """Whether no negative value was seen."""
        return self.values.minimum >= 0


def threshold(seen: TensorRange, method: Method) -> float:
    """The largest |x| that a method keeps; what lies beyond is clipped."""
    if method.name == "minmax" or method.percentile is None:
        return seen.values.amax
    hist = seen.peaks if method.name == "peaks" else seen.values
    found = hist.percentile(method.percentile)
    # A tensor that is zero nearly everywhere has its percentile in the first bin, which would erase it.
    return found if found > hist.width else seen.values.amax


def scale(seen: TensorRange, method: Method) -> float:
    """Symmetric int8 scale of a tensor: threshold / 127, never zero."""
    return symmetric(threshold(seen, method))


def symmetric(amax: float) -> float:
    """Scale of symmetric int8 for values up to `amax`: amax / 127, at least 2**-40."""
    return max(amax / 127.0, _FLOOR)


def session(onnx: Union[str, Path, bytes], threads: int = 0, simulate: bool = False) -> Any:
    """An ONNX Runtime session in FP32 on the CPU that gives memory back after every run.

    The arena keeps the largest run it ever saw; without it, memory is what one batch needs.

    Args:
        onnx: File or its bytes.
        threads: 0 leaves the choice to ONNX Runtime.
        simulate: Compute Q/DQ pairs as they stand, in float32, instead of running int8 kernels in their place.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if simulate:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if platform.machine() == "aarch64":
        # There 1.31 changes layouts so that a convolution is fused with the Add behind it although its own result is
        # asked for as well, and then misses that result.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    source = onnx if isinstance(onnx, bytes) else str(onnx)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes share no public base below Exception
        name = "the graph" if isinstance(onnx, bytes) else str(onnx)
        raise ModelError(f"{name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error


def collect(
    onnx: Union[str, Path],
    tensors: Sequence[str],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    progress: Progress = quiet,
    total: int = 0,
) -> Dict[str, TensorRange]:
    """Ranges of tensors over batches of inputs: one pass, memory independent of the number of batches.

    Args:
        onnx: FP32 graph.
        tensors: Names of float tensors: inputs or results of nodes.
        batches: Feeds by input name, batch first. Where the graph has a fixed batch, a shorter one is padded with its
            last item for the run, and the padding is not counted.
        progress: Told the images done.
        total: Images to come, for `progress`; 0 where not known.

    Returns:
        One range per tensor.

    Raises:
        DataError: No batch came, or a tensor got NaN or an infinity (named).
        ModelError: ONNX Runtime cannot run the graph.
    """
    from onnx import TensorProto, helper

    from calib import graph

    model = graph.load(onnx)
    inputs = {item.name for item in model.graph.input}
    present = {item.name for item in model.graph.output}
    for name in tensors:
        if name not in present and name not in inputs:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    runner = session(model.SerializeToString())
    del model
    wanted = [name for name in tensors if name not in inputs]
    fixed = fixed_batch(runner)
    found = {name: TensorRange() for name in tensors}
    done = 0
    for feeds in batches:
        count = len(next(iter(feeds.values())))
        results = runner.run(wanted, pad(feeds, fixed)) if wanted else []
        for name in inputs.intersection(found):
            _add(found[name], name, feeds[name], count, count)
        while results:  # each array is freed once counted
            name = wanted[len(results) - 1]
            _add(found[name], name, results.pop(), count, fixed or count)
        done += count
        progress("ranges", done, total)
    if done == 0:
        raise DataError("no calibration image: the ranges are unknown", "give images with --data")
    return found


def _add(seen: TensorRange, name: str, value: npt.NDArray[Any], count: int, batch: int) -> None:
    """Count a tensor's values for `count` images of a run of `batch`; what padding made is left out."""
    real = value[:count] if count < batch and value.ndim and len(value) == batch else value
    try:
        seen.add(real, count)
    except DataError:
        raise DataError(
            f"tensor {name!r} holds NaN or an infinity on the calibration images",
            "check --preprocess, and the model in FP32 first",
        ) from None


def fixed_batch(runner: Any) -> int:
    """The batch that the graph's first input is fixed to; 0 where it is free."""
    shape: List[Any] = list(runner.get_inputs()[0].shape)
    return int(shape[0]) if shape and isinstance(shape[0], int) else 0


def pad(feeds: Mapping[str, npt.NDArray[Any]], batch: int) -> Dict[str, npt.NDArray[Any]]:
    """Feeds of exactly `batch` items, the last one repeated; as they are where `batch` is 0."""
    if not batch:
        return dict(feeds)
    return {
        name: value if len(value) >= batch else np.concatenate([value, np.repeat(value[-1:], batch - len(value), 0)])
        for name, value in feeds.items()
    }
