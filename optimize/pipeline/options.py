"""What a user asks of a build, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Optional, Tuple

from engines.errors import UsageError
from engines.spec import PRECISIONS
from engines.tensorrt import cachefile
from optimize.pipeline.tensorrt import TensorRTOptions

CANDIDATES = ("fp32", "fp16", "int8")
"""What `best` chooses from."""

DEFAULT_MAX_DROP = 1.0
"""Points of top-1 that an engine may lose where accuracy is measured and nothing else is asked (DESIGN section 4)."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build.

    Attributes:
        precisions: Of `engines.spec.PRECISIONS`, in the order asked.
        batches: Batch sizes that the engine serves, ascending.
        data: Data set reference for calibration and accuracy, or None.
        backend: auto or a backend's name.
        max_drop: Largest top-1 drop in points; None is the default gate where labels are at hand.
        min_agreement: Smallest share of images (0 to 100) on which engine and source agree, or None.
        out: Output folder; None is `<model>.optimized` beside the model.
        opset: ONNX opset, 13 to 17.
        layout: NHWC or NCHW at the boundary; empty keeps the source's.
        samples: Images that calibrate.
        seed: Of sampling and of seeded inputs.
        threads: CPU threads of the engine; 0 is the runtime's default.
        force: Build again what is there already.
        strict: A missing fast 16-bit format is an error (exit 4).
        keep_fp32: Names of ONNX nodes that stay float: in INT8 on every backend, in FP16 with TensorRT.
        without: Refinements of INT8 that are not tried, of `calib.calibrate.REFINEMENTS`.
        calibration_cache: TensorRT's calibration cache whose scales INT8 takes instead of measuring its own, or None.
        expect_top1: Percent of top-1 that the source is known to reach on this data; far less is warned of.
        search_budget: Seconds for finding layers to take back to float where INT8 fails its gate; 0 for none.
        tensorrt: What only TensorRT is asked.
    """

    precisions: Tuple[str, ...] = ("fp16",)
    batches: Tuple[int, ...] = (1, 64)
    data: Optional[str] = None
    backend: str = "auto"
    max_drop: Optional[float] = None
    min_agreement: Optional[float] = None
    out: Optional[Path] = None
    opset: int = 17
    layout: str = ""
    samples: int = 512
    seed: int = 0
    threads: int = 0
    force: bool = False
    strict: bool = False
    keep_fp32: Tuple[str, ...] = ()
    without: Tuple[str, ...] = ()
    calibration_cache: Optional[Path] = None
    expect_top1: Optional[float] = None
    search_budget: float = 300.0
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)

    def __post_init__(self) -> None:
        check_gates(self.max_drop, self.min_agreement, self.data, self.expect_top1)
        if self.samples < 1:
            raise UsageError(f"--samples {self.samples}: at least one image is needed")
        if not 0 <= self.search_budget < float("inf"):
            raise UsageError(f"--search-budget {self.search_budget:g}: seconds are expected, 0 for no search")
        if self.without:
            from calib.calibrate import REFINEMENTS

            for word in set(self.without) - set(REFINEMENTS):
                raise UsageError(f"--without {word}: {', '.join(REFINEMENTS)} are known")
        check_opset(self.opset)
        check_layout(self.layout)
        if self.calibration_cache is not None:
            if not self.may_int8:
                raise UsageError("--calibration-cache is for INT8", "--precision int8")
            cachefile.read(self.calibration_cache)
        elif self.data is None and "int8" in self.precisions:
            raise UsageError(
                "INT8 needs images to calibrate with, and none were given",
                "add --data cifar10, a folder or an .npz file (--data synthetic only to try it out)",
            )

    @property
    def may_int8(self) -> bool:
        """Whether an INT8 engine may be built."""
        return bool({"int8", "best"} & set(self.precisions))

    @property
    def drop_gate(self) -> float:
        """The drop in points that this build accepts."""
        return DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop


def check_gates(
    max_drop: Optional[float],
    min_agreement: Optional[float],
    data: Optional[str],
    expect_top1: Optional[float] = None,
) -> None:
    """Refuse gates that mean nothing (NaN compares with nothing), or that cannot be checked.

    Raises:
        UsageError: Not a number from 0 to 100, or no data.
    """
    for option, value, what in (
        ("--max-drop", max_drop, "points of top-1"),
        ("--min-agreement", min_agreement, "a percentage"),
        ("--expect-top1", expect_top1, "a percentage"),
    ):
        if value is not None and not 0 <= value <= 100:
            raise UsageError(f"{option} {value:g}: {what} from 0 to 100 are expected")
        if option != "--max-drop" and value is not None and 0 < value <= 1:
            raise UsageError(f"{option} {value:g} is in percent", f"{option} {100 * value:g}")
        if value is not None and data is None:
            raise UsageError(f"{option} cannot be checked without data", "add --data cifar10|DIR|FILE.npz")


def check_opset(opset: int) -> None:
    """Refuse an ONNX opset that TensorRT 8.5 does not read or that cannot hold per-channel Q/DQ.

    Raises:
        UsageError: Outside 13 to 17.
    """
    if not 13 <= opset <= 17:
        raise UsageError(f"--opset {opset}: 13 to 17 are supported", "leave --opset out")


def check_layout(layout: str) -> None:
    """Refuse a layout that is neither NHWC nor NCHW.

    Raises:
        UsageError: Another word.
    """
    if layout not in ("", "NHWC", "NCHW"):
        raise UsageError(f"--layout {layout}: NHWC or NCHW is expected")


def parse_precisions(words: Iterable[str]) -> Tuple[str, ...]:
    """Read precisions, repeated or with commas, each once.

    Raises:
        UsageError: An unknown one, or none.
    """
    found = _words(words)
    for word in found:
        if word not in PRECISIONS:
            raise UsageError(f"--precision {word}: {', '.join(PRECISIONS)} are known")
    if not found:
        raise UsageError("--precision is empty", f"give one or more of {','.join(PRECISIONS)}")
    return found


def parse_batches(words: Iterable[str]) -> Tuple[int, ...]:
    """Read batch sizes, repeated or with commas, ascending and each once; `1..64` is 1, 2, 4 and so on up to 64.

    Raises:
        UsageError: Not a whole number of at least 1, or a range that ends before it starts.
    """
    found = set()
    for word in _words(words):
        first, *last = word.split("..") if word.count("..") == 1 else (word,)
        ends = [int(n) for n in (first, *last) if n.isascii() and n.isdigit() and 1 <= int(n) <= 65536]
        if len(ends) != 1 + len(last) or ends[0] > ends[-1]:
            raise UsageError(f"--batch {word}: whole numbers from 1 are expected", "for example --batch 1,64 or 1..64")
        size = ends[0]
        while size < ends[-1]:
            found.add(size)
            size *= 2
        found.add(ends[-1])
    if not found:
        raise UsageError("--batch is empty", "for example --batch 1,64")
    return tuple(sorted(found))


def parse_threads(words: Iterable[str]) -> Tuple[int, ...]:
    """Read numbers of CPU threads, repeated or with commas, ascending and each once; 0 is the runtime's default.

    Raises:
        UsageError: Not a whole number from 0 to 4096.
    """
    return _numbers(words, 0, 4096, "--threads", "1,3,6")


def parse_streams(words: Iterable[str]) -> Tuple[int, ...]:
    """Read numbers of queries that run side by side, repeated or with commas, ascending and each once.

    Raises:
        UsageError: Not a whole number from 1 to 256.
    """
    return _numbers(words, 1, 256, "--streams", "1,2,4")


def _numbers(words: Iterable[str], least: int, most: int, option: str, example: str) -> Tuple[int, ...]:
    found = _words(words) or (str(least),)
    for word in found:
        if not (word.isascii() and word.isdigit()) or not least <= int(word) <= most:
            raise UsageError(
                f"{option} {word}: whole numbers from {least} to {most} are expected", f"for example {option} {example}"
            )
    return tuple(sorted({int(word) for word in found}))


def _words(values: Iterable[str]) -> Tuple[str, ...]:
    return tuple(dict.fromkeys(w.strip() for value in values for w in str(value).split(",") if w.strip()))
