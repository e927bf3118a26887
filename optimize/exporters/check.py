"""Does a model compute what another one does? Differences by output, and agreement of a classifier's first choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

import engines
from engines.errors import DataError, UsageError
from engines.spec import Progress, Runner, RunnerSpec, TensorSpec, quiet
from optimize.exporters import SOURCE_PRECISION
from optimize.exporters.inputs import adapted, is_image, padded, real, seeded

_BATCH = 64

NOT_FINITE = "the original gives no finite number"
"""Begins the reason where the model itself, not its export, is at fault."""

_TENSORS = 4
"""Seeded inputs, and inputs at a time, of a model that is no classifier: its outputs are maps of thousands of numbers,
and what 64 of them need does not fit into memory."""


class Tolerance(NamedTuple):
    """What may differ before a comparison fails.

    Attributes:
        cosine: Least cosine of the angle between the two results, all samples of an output as one vector.
        relative: Greatest norm of the difference, relative to the norm of the reference.
        margin: A first choice may differ where the reference's two best scores are closer than this part of its
            greatest score; 1 does not judge it.
        reason: In words.
    """

    cosine: float
    relative: float
    margin: float
    reason: str


TOLERANCES: Dict[str, Tolerance] = {
    "fp32": Tolerance(
        0.9999,
        1e-3,
        1e-3,
        "float32 in another order of summation differs by 1e-7 to 1e-4 over a deep network; a wrong operator by more",
    ),
    "fp16": Tolerance(
        0.99,
        0.15,
        0.1,
        "16-bit floats round to 2^-9 (bfloat16) or 2^-11 in every layer, some percent over a deep network",
    ),
    "int8": Tolerance(
        0.9,
        0.5,
        1.0,
        "8-bit ranges are made for real images: this tells another model apart, accuracy tells the rest",
    ),
}


def against_source(
    spec: Mapping[str, Any],
    onnx: str,
    data: str = "",
    preprocess: Optional[Mapping[str, Any]] = None,
    n: int = 64,
    seed: int = 0,
    split: str = "test",
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Compare an exported graph on ONNX Runtime with its source in float32: a child-process stage.

    Args:
        spec: RunnerSpec of the source, as JSON.
        onnx: The exported file.
        data: Data set; empty for seeded inputs.
        preprocess: As JSON, in place of the spec's.
        n: Samples.
        seed: Of seeded inputs, and of the choice among images.
        split: Of the data set.
        progress: Told the samples done.

    Returns:
        See `compare`.
    """
    source = RunnerSpec.from_json(spec).with_(policy="float32")
    if preprocess is not None:
        source = source.with_(preprocess=dict(preprocess))
    if source.kind == "onnx" and not source.backend:
        source = source.with_(backend="onnxruntime")
    graph = RunnerSpec(onnx, "onnx", backend="onnxruntime", task=source.task, preprocess=source.preprocess)
    precision = "fp16" if _metadata(onnx).get(SOURCE_PRECISION) else "fp32"
    found = compare(source.to_json(), graph.to_json(), data, n, seed, split, precision, progress)
    if any(NOT_FINITE in reason for reason in found["reasons"]):
        found["reasons"] += _first_broken(graph, data, split, seed)
    return found


def _first_broken(graph: RunnerSpec, data: str, split: str, seed: int) -> List[str]:
    """Words on where a graph leaves the finite numbers; none where none of its float32 tensors does."""
    from calib.fp16 import ranges_for

    with engines.open(graph) as runner:
        spec = runner.spec.with_(preprocess=graph.preprocess, task=graph.task)
        if data and len(spec.inputs) == 1 and is_image(spec.inputs[0], spec.layout):
            feeds = real(spec, data, split, 1, seed, 1)[1]
        else:
            feeds = seeded(spec, 1, seed, 1)
        peaks = ranges_for(graph.path, feeds, broken=True)
    first = next((name for name, peak in peaks.items() if not np.isfinite(peak)), None)
    return [] if first is None else [f"the first tensor with NaN or an infinity is {first!r}"]


def compare(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    data: str = "",
    n: int = 64,
    seed: int = 0,
    split: str = "test",
    precision: str = "",
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Run two models on the same inputs and compare their results: a child-process stage.

    Args:
        reference, candidate: RunnerSpecs as JSON; the reference's preprocessing and task hold.
        data: Data set; empty, and for models without an image input, for seeded inputs.
        n: Samples; of seeded ones 4 are enough for a model that is no classifier.
        seed: Of seeded inputs, and of the choice among images.
        split: Of the data set.
        precision: A key of `TOLERANCES`; empty takes what the candidate computes in.
        progress: Told the samples done.

    Returns:
        `data` (the data set's name, or `seeded`), `n`, `precision`, `tolerance`; `max_abs`, `rel` and `cosine`, the
        worst of the outputs, where both are finite; `finite`, the share of numbers that are so; `per_output`, the same
        by name; `top1_agreement` (a fraction) and `flips_outside_margin`,
        None but for a classifier; `passed`, and `reasons` where it is False. Disagreement is no error.

    Raises:
        ModelError, DataError, IncompatibleError: A model or the data cannot be opened.
        UsageError: `n` is below 1.
    """
    if n < 1:
        raise UsageError(f"{n} samples: 1 or more are needed")
    first, second = RunnerSpec.from_json(reference), RunnerSpec.from_json(candidate)
    progress("loading", 0, 0)
    with engines.open(first) as one, engines.open(second) as two:
        spec = one.spec.with_(preprocess=first.preprocess, task=first.task)
        kind = precision or _precision(second, two)
        images = bool(data) and len(spec.inputs) == 1 and is_image(spec.inputs[0], spec.layout)
        few = spec.task != "classify"
        n = min(n, _TENSORS) if few and not images else n
        batch = _batch(second, one, two, min(n, _TENSORS if few else _BATCH))
        if images:
            name, feeds = real(spec, data, split, n, seed, batch, progress)
        else:
            name, feeds = "seeded", seeded(spec, n, seed, batch, progress)
        found, count = _run(one, two, feeds, batch, spec.task)
    if not count:
        raise DataError(f"{data}: no image in its {split} part")
    return _verdict(found, name, count, kind, spec.task)


class Totals:
    """Sums over the samples of one output, in float64."""

    def __init__(self) -> None:
        self.dot = self.a = self.b = self.difference = self.max_abs = self.largest = 0.0
        self.values = self.finite = 0
        self.trouble = ""

    def add(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> None:
        """Take in the reference's samples, and the other's."""
        if a.shape != b.shape:
            self.trouble = f"shapes differ: {a.shape} and {b.shape}"
            return
        x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
        here, there = np.isfinite(x), np.isfinite(y)
        same = here & there
        if (there & ~here).any():
            self.trouble = "the original is not finite (NaN or infinity) where the other is"
        elif (here & ~there).any():
            self.trouble = "not finite (NaN or infinity) where the original is"
        elif not (same | (x == y) | (np.isnan(x) & np.isnan(y))).all():
            self.trouble = "neither is finite, and they are not alike"
        self.values += x.size
        x, y = x[same], y[same]
        self.finite += x.size
        if not x.size:
            return
        self.dot += float(x @ y)
        self.a += float(x @ x)
        self.b += float(y @ y)
        self.difference += float((x - y) @ (x - y))
        self.max_abs = max(self.max_abs, float(np.abs(x - y).max()))
        self.largest = max(self.largest, float(np.abs(x).max()))

    def figures(self) -> Dict[str, float]:
        """max_abs, rel and cosine; two results of zeros are equal."""
        both = np.sqrt(self.a * self.b)
        return {
            "max_abs": self.max_abs,
            "rel": float(np.sqrt(self.difference / self.a)) if self.a else float(self.difference > 0),
            "cosine": min(1.0, float(self.dot / both)) if both else float(self.a == self.b),
        }


class _Found:
    """What a comparison has gathered: sums by output, and a classifier's first choices."""

    def __init__(self, outputs: Tuple[TensorSpec, ...]) -> None:
        self.totals = {tensor.name: Totals() for tensor in outputs}
        self.missing: List[str] = []
        self.agreed: List[npt.NDArray[Any]] = []
        self.margins: List[npt.NDArray[Any]] = []


def _run(
    one: Runner, two: Runner, feeds: Iterator[Dict[str, npt.NDArray[Any]]], batch: int, task: str
) -> Tuple[_Found, int]:
    found, count = _Found(one.outputs), 0
    names = _pairs(one.outputs, two.outputs)
    found.missing = [t.name for t in one.outputs if t.name not in names]
    if len(one.inputs) != len(two.inputs):
        found.missing.append(f"one has {len(one.inputs)} inputs, the other {len(two.inputs)}")
        return found, 1
    for feed in feeds:
        size = len(next(iter(feed.values())))
        full = padded(feed, batch)
        expected = one.infer(adapted(full, one.inputs, one.spec.layout, one.spec.layout))
        got = two.infer(adapted(full, two.inputs, two.spec.layout, one.spec.layout))
        for number, (name, other) in enumerate(names.items()):
            a, b = expected[name], got[other]
            a, b = (v[:size] if v.ndim and len(v) == batch else v for v in (a, b))
            found.totals[name].add(a, b)
            if task == "classify" and number == 0 and a.shape == b.shape and a.ndim == 2 and a.shape[1] > 1:
                top = np.sort(a.astype(np.float64), axis=1)
                found.agreed.append(a.argmax(1) == b.argmax(1))
                found.margins.append(top[:, -1] - top[:, -2])
        count += size
    return found, count


def _pairs(first: Tuple[TensorSpec, ...], second: Tuple[TensorSpec, ...]) -> Dict[str, str]:
    """Which output of the second is which of the first: by name, else by position where there are as many."""
    names = {tensor.name for tensor in second}
    if len(first) == len(second) and not names >= {tensor.name for tensor in first}:
        return {a.name: b.name for a, b in zip(first, second)}
    return {tensor.name: tensor.name for tensor in first if tensor.name in names}


def _verdict(found: _Found, data: str, n: int, precision: str, task: str) -> Dict[str, Any]:
    tolerance = TOLERANCES[precision]
    per_output = {name: totals.figures() for name, totals in found.totals.items() if name not in found.missing}
    reasons = [f"{what} is missing" if what in found.totals else what for what in found.missing]
    for name, figures in per_output.items():
        if found.totals[name].trouble:
            reasons.append(f"{name}: {found.totals[name].trouble}")
        elif found.totals[name].values and not found.totals[name].finite:
            reasons.append(f"{name}: {NOT_FINITE}, so nothing was compared")
        elif figures["cosine"] < tolerance.cosine:
            reasons.append(f"{name}: cosine {figures['cosine']:.6f}, {tolerance.cosine} is the least")
        elif figures["rel"] > tolerance.relative:
            reasons.append(f"{name}: relative error {figures['rel']:.2e}, {tolerance.relative} is the most")
    agreement: Optional[float] = None
    outside: Optional[int] = None
    if task == "classify" and found.agreed:
        agreed, margins = np.concatenate(found.agreed), np.concatenate(found.margins)
        largest = next(iter(found.totals.values())).largest
        agreement = float(agreed.mean())
        outside = int((~agreed & (margins > tolerance.margin * largest)).sum())
        if outside and tolerance.margin < 1:
            reasons.append(f"{outside} of {n} first choices differ by more than rounding")
    values = sum(totals.values for totals in found.totals.values())
    worst = {key: [figures[key] for figures in per_output.values()] for key in ("max_abs", "rel", "cosine")}
    return {
        "data": data,
        "n": n,
        "precision": precision,
        "max_abs": max(worst["max_abs"], default=0.0),
        "rel": max(worst["rel"], default=0.0),
        "cosine": min(worst["cosine"], default=0.0),
        "finite": sum(totals.finite for totals in found.totals.values()) / values if values else 0.0,
        "top1_agreement": agreement,
        "flips_outside_margin": outside,
        "per_output": per_output,
        "tolerance": dict(tolerance._asdict()),
        "passed": not reasons,
        "reasons": reasons,
    }


def _batch(candidate: RunnerSpec, one: Runner, two: Runner, most: int) -> int:
    """Samples at a time: what one of the two is fixed to, or the largest that an engine was built for; else `most`."""
    fixed = [t.shape[0] for runner in (one, two) for t in runner.inputs if t.shape and t.shape[0] is not None]
    if fixed:
        return int(fixed[0])
    if candidate.kind == "bundle":
        from engines import manifest

        return int(max(manifest.read(Path(candidate.path))["batches"]))
    return two.batch_for(most)


def _precision(candidate: RunnerSpec, runner: Runner) -> str:
    """What an engine computes in, as a key of `TOLERANCES`: from its manifest, its layers, or its file."""
    if candidate.kind == "bundle":
        from engines import manifest

        asked = str(manifest.read(Path(candidate.path))["precision"])
        if asked in ("fp16", "int8"):
            return asked
    achieved = set(runner.achieved())
    if achieved & {"int8", "i8", "u8"}:
        return "int8"
    if achieved & {"bf16", "f16"} or (candidate.path.endswith(".onnx") and _half_weights(candidate.path)):
        return "fp16"
    return "fp32"


def _half_weights(path: str) -> bool:
    import onnx

    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(item.data_type in half for item in onnx.load(path, load_external_data=False).graph.initializer)


def _metadata(path: str) -> Dict[str, str]:
    import onnx

    return {item.key: item.value for item in onnx.load(path, load_external_data=False).metadata_props}
