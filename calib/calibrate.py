"""The child stage `calibrate`: ranges in one pass, methods measured against FP32, the best Q/DQ graph kept."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy.typing as npt

from calib import bias, budget, choice, equalize, ranges, weightfile
from calib import graph as graphs
from calib import placement as placements
from calib.agreement import Agreement, PerImage, join
from calib.check import require_qdq
from calib.checkpoint import Checkpoint
from calib.choice import Scales
from calib.histogram import TensorRange
from calib.holdout import Holdout, ImageInput
from calib.memory import release
from calib.methods import METHODS, Method, momenta, parse_method, scale
from calib.placement import Placement
from calib.quantize import levels, quantize, require_float
from calib.simulation import Simulation
from engines import jsonfile
from engines.errors import BuildError, UsageError
from engines.spec import Progress, TensorSpec, quiet

_GAIN = 0.95
"""The pass goes on from a pause where the error is at most this part of what half the images gave."""

BIAS_IMAGES = 64
"""Calibration images that tell the mean errors of the layers; no more than choose between the methods."""

REFINEMENTS = ("equalization", "bias-correction")
"""What is done to weights and biases where it makes the answers better; each can be left out."""

_NOTHING = Agreement(0.0, 0.0, None)


def calibrate(
    onnx: str,
    data: str,
    preprocess: Dict[str, Any],
    layout: str,
    target: str,
    out: str,
    samples: int = 512,
    seed: int = 0,
    methods: Optional[List[str]] = None,
    keep_float: Sequence[str] = (),
    without: Sequence[str] = (),
    task: str = "classify",
    state: Optional[str] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Quantise an FP32 graph: measure the ranges, try the methods on hold-out images, write the best.

    All methods run on a few hold-out images, those far behind drop out, and the last ones run on all of them, in
    float32 arithmetic that rounds as Q and DQ say. Where images are costly, this is done with the ranges of the first
    ones, and again of twice as many, until that no longer helps. Then tensors with heavy tails may get another method,
    chosen on a few images of the hold-out's first half and confirmed on the second. Where channels of a tensor differ
    severely, all this is done with the equalised graph as well, and the better of the two is kept. Last, biases are
    corrected where that brings the outputs nearer.

    Args:
        onnx: FP32 graph with one image input.
        data: A data set, as `calib.datasets.open_dataset` reads it.
        preprocess: `calib.preprocess.Preprocess` as JSON.
        layout: NHWC or NCHW of the input; empty where its shape tells.
        target: Placement: tensorrt, openvino or onnxruntime.
        out: The ONNX file to write.
        samples: Images that give the ranges, at most.
        seed: Of the choice of images.
        methods: Such as `["minmax", "percentile:99.9", "entropy"]`; all of `calib.methods.METHODS` by default.
        keep_float: Names of nodes that stay float.
        without: Of `REFINEMENTS`, what is not tried.
        task: classify or tensors.
        state: File that keeps the state of the pass every few seconds, so that an interrupted one goes on; removed at
            the end.
        progress: Told images and candidates done.

    Returns:
        `{"onnx", "target", "method": {"name", "percentile"}, "candidates": [{"method", "agreement", "error", "top1",
        "images"}], "tensors": {name: method}, "bias_correction": {"tried", "kept", "layers", "images", "agreement",
        "error", "top1"}, "equalization": {"layers", "kept", "plain", "equalized"}, "float_onnx", "samples", "holdout",
        "seed", "dataset", "keep_float", "weight_bits", "activations", "weights", "biases"}`. `samples` counts the
        images that gave the ranges. Candidates with `images` below `holdout` dropped out in the race. `tensors` names
        those with a method of their own. `float_onnx` is the FP32 graph that was quantised: None for `onnx` itself,
        else its equalised form, a file beside `out`.

    Raises:
        BuildError: Nothing to quantise, or the written graph breaks a rule of the target.
        DataError, ModelError, UsageError: Bad images, graph or options.
    """
    from calib.datasets import open_dataset
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    if samples < 1:
        raise UsageError(f"--samples {samples}: at least one image is needed")
    tried = [parse_method(text) for text in methods] if methods else list(METHODS)
    model = graphs.load(onnx)
    require_float(model, onnx)
    image = image_input(model, onnx, layout)
    kept = tuple(keep_float)
    view = graphs.Graph(model)
    place = placements.points(view, target, kept)
    if not place.weights:
        raise BuildError(f"{onnx}: no Conv, Gemm or MatMul with a constant weight", "--precision fp16")
    choosing = max(budget.holdout_images(view, place), image.batch)
    batch = budget.batch_size(model, place.measured(), image)
    pre = Preprocess.from_json(preprocess)
    calibration = open_dataset(data, "calibration", samples, seed)

    def feeds(start: int = 0, stop: Optional[int] = None) -> Any:
        found = batches(calibration, pre, image.layout, image.size, batch, start=start, stop=stop)
        return ({image.spec.name: x} for x, _ in found)

    key = {"graph": jsonfile.sha256(onnx), "tensors": place.measured(), "data": calibration.sha256, "seed": seed}
    key = {**key, "preprocess": pre.to_json(), "batch": batch, "methods": [str(method) for method in tried]}
    key = {**key, "target": target, "keep_float": kept, "task": task}
    checkpoints: List[Checkpoint] = []
    stops = list(budget.pauses(len(calibration), choosing, batch))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".candidates-", dir=str(Path(out).parent)) as folder:

        def chosen(form: str) -> Tuple[_Job, _Chosen, Dict[str, Any]]:
            """The best scales for one form of the FP32 graph."""
            name = "" if form == fp32 else ".equalized"
            checkpoint = Checkpoint(Path(state + name) if state else None, {**key, "form": name})
            checkpoints.append(checkpoint)

            def at(stop: int) -> Optional[Tuple[_Job, _Chosen, Dict[str, Any]]]:
                """The best with the ranges of so many images; None where the pass goes on."""
                arguments = (feeds(checkpoint.done, stop), progress, len(calibration), momenta(tried), checkpoint)
                seen = ranges.collect(form, place.measured(), *arguments)
                job = _Job(form, target, place, seen, holdout, kept, progress, stop)
                scales, last = job.scales(tried), stop == stops[-1]
                found = job.choose(scales, {} if last else checkpoint.scales) if last or checkpoint.passed else None
                if found:
                    return (job, *found)
                checkpoint.go_on({str(method): values for method, values in scales.items()})
                return None

            return next(filter(None, (at(stop) for stop in stops if stop > checkpoint.passed)))

        fp32, equal = (str(Path(folder, name)) for name in ("fp32.onnx", "equalized.onnx"))
        weightfile.write(model, fp32)
        del model, view  # the pass needs room for its own
        release()
        few = feeds(0, min(equalize.IMAGES, choosing, len(calibration)))
        scaled = [] if "equalization" in without else equalize.equalize(fp32, few, equal)
        holdout = Holdout(open_dataset(data, "holdout", choosing, seed), pre, image, fp32, task)
        job, best, record = chosen(fp32)
        about: Dict[str, Any] = {"layers": scaled, "kept": False, "plain": None, "equalized": None}
        if scaled:
            other = chosen(equal)
            about.update(plain=best.found._asdict(), equalized=other[1].found._asdict())
            about["kept"] = choice.improves(other[1].found, best.found, holdout.counted)
            if about["kept"]:
                job, best, record = other
        # At least a whole batch, where it is fixed: padding would count.
        count = min(max(min(BIAS_IMAGES, choosing), image.batch), len(calibration))
        count = 0 if "bias-correction" in without else count
        best, record["bias_correction"] = job.corrected(best, feeds(0, count), count)
        notes = {"target": target, "samples": str(job.images), "seed": str(seed), "data_sha256": calibration.sha256}
        counts = job.write(best, out, notes)
        record.update(equalization=about, float_onnx=_keep(equal, out) if about["kept"] else None)
    require_qdq(out, target)
    for checkpoint in checkpoints:
        checkpoint.remove()
    return {
        "onnx": out,
        **counts,
        "target": target,
        **record,
        "samples": job.images,
        "holdout": len(holdout),
        "seed": seed,
        "dataset": calibration.describe(),
        "keep_float": list(keep_float),
        "weight_bits": job.bits,
    }


def _keep(equal: str, out: str) -> str:
    """The equalised graph as one file beside the quantised one."""
    model = graphs.load(equal)
    weightfile.fill(model)
    kept = Path(out).with_suffix(".float.onnx")
    with jsonfile.replacing_file(kept) as part:
        part.write_bytes(model.SerializeToString())
    return str(kept)


class _Chosen(NamedTuple):
    """Scales that were chosen, what the hold-out says of them, and the mean errors that biases are corrected by."""

    scales: Scales
    found: Agreement
    notes: Dict[str, str]
    errors: Mapping[str, npt.NDArray[Any]] = {}


@dataclass
class _Job:
    """What all candidates of one FP32 graph share; `images` gave the ranges."""

    onnx: str
    target: str
    place: Placement
    seen: Mapping[str, TensorRange]
    holdout: Holdout
    keep_float: Tuple[str, ...]
    progress: Progress
    images: int

    def __post_init__(self) -> None:
        self.bits = 7 if self.target != "tensorrt" and saturates() else 8
        self.nonnegative = [name for name, found in self.seen.items() if found.nonnegative]

    def scales(self, tried: List[Method]) -> Dict[Method, Scales]:
        """What each method reads from the ranges."""
        release()
        steps = {name: levels(found.nonnegative, self.target) for name, found in self.seen.items()}
        return {
            method: {name: scale(found, method, steps[name]) for name, found in self.seen.items()} for method in tried
        }

    def choose(
        self, scales: Mapping[Method, Scales], earlier: Mapping[str, Scales]
    ) -> Optional[Tuple[_Chosen, Dict[str, Any]]]:
        """The best method, single tensors with another where that is better, and what was measured on the way.

        None where the best method was clearly worse with its scales of half the images, `earlier`: then more may help.
        """
        release()
        simulation = self.simulation()
        order = choice.race(self.holdout, simulation, scales, self.progress)
        best, measured, found = choice.best(order, self.holdout)
        if earlier:
            half = self.holdout.measure(simulation.query(earlier[str(best)])).mean()
            if found.error <= _GAIN * half.error:
                return None
        chosen = _Chosen(scales[best], found, {"method": str(best)})
        others = [(entry.method, scales[entry.method]) for entry in order if entry.method != best]
        tails = choice.heavy_tails(self.seen, scales[best])
        switched = choice.per_tensor(self.holdout, simulation, scales[best], measured, others, tails, self.progress)
        if switched:
            mixed = {**scales[best], **{name: scales[method][name] for name, method in switched.items()}}
            confirmed = self._confirmed(simulation, mixed, measured)
            if confirmed is None:
                switched = {}
            else:
                chosen = _Chosen(mixed, confirmed, {"method": str(best), "tensors": str(len(switched))})
        figures = {entry.method: entry for entry in order}
        record = {
            "method": {k: v for k, v in best._asdict().items() if k != "momentum" or v is not None},
            "candidates": [
                {"method": str(method), **figures[method].found._asdict(), "images": len(figures[method].measured)}
                for method in scales
            ],
            "tensors": {name: str(method) for name, method in switched.items()},
        }
        return chosen, record

    def simulation(self, change: Callable[[Any], None] = lambda model: None) -> Simulation:
        """The quantised graph with its scales as inputs, after a change to the FP32 graph."""
        return Simulation(self.onnx, self.place, self.nonnegative, self.bits, change)

    def _confirmed(self, simulation: Simulation, scales: Scales, before: PerImage) -> Optional[Agreement]:
        """What scales give where the second half of the hold-out, which did not choose them, says they are better."""
        half, query = len(self.holdout) // 2, simulation.query(scales)
        second = self.holdout.measure(query, half)
        counted = len(second) if self.holdout.counted else 0
        if not choice.improves(second.mean(), before.part(half).mean(), counted):
            return None
        return join([self.holdout.measure(query, 0, half), second]).mean()

    def corrected(self, chosen: _Chosen, feeds: Any, images: int) -> Tuple[_Chosen, Dict[str, Any]]:
        """The choice with corrected biases where that is better, and what was measured."""
        release()
        means = {}
        if images:
            means = bias.mean_inputs(
                self.onnx, self.place, chosen.scales, self.nonnegative, feeds, self.progress, images
            )
        release()
        record: Dict[str, Any] = {"tried": bool(means), "kept": False, "layers": 0, "images": images}
        if not means:
            return chosen, record
        errors = bias.mean_errors(graphs.load(self.onnx), self.place, means, self.bits)
        release()
        simulation = self.simulation(lambda model: bias.correct(model, errors))
        found = self.holdout.measure(simulation.query(chosen.scales)).mean()
        kept = choice.improves(found, chosen.found, self.holdout.counted)
        record.update(layers=len(errors), **found._asdict(), kept=kept)
        if record["kept"]:
            notes = {**chosen.notes, "bias_correction": "mean"}
            chosen = chosen._replace(found=found, notes=notes, errors=errors)
        return chosen, record

    def write(self, chosen: _Chosen, out: str, notes: Mapping[str, str]) -> Dict[str, int]:
        """Write the quantised graph; how many activations, weights and biases are quantised in it."""
        release()
        model = graphs.load(self.onnx)
        bias.correct(model, chosen.errors)
        written = quantize(
            model,
            out,
            chosen.scales,
            self.target,
            nonnegative=self.nonnegative,
            keep_float=self.keep_float,
            weight_bits=self.bits,
            metadata={f"optimize.calibration.{key}": value for key, value in {**notes, **chosen.notes}.items()},
        )
        return {key: written[key] for key in ("activations", "weights", "biases")}


def saturates() -> bool:
    """Whether this CPU's 8-bit dot product may saturate: x86 without VNNI or AMX adds pairs of u8 x s8 in 16 bits.

    Source: ONNX Runtime's and oneDNN's notes on int8; 7-bit weights keep every pair within 16 bits.
    """
    from engines.device import cpu_features

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu_features())


def image_input(model: Any, name: str, layout: str = "") -> ImageInput:
    """The image input of a model.

    Raises:
        UsageError: Not exactly one input of four axes, or a layout that neither the caller nor the shape tells.
    """
    from onnx import TensorProto

    constants = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    if len(inputs) != 1:
        raise UsageError(f"{name}: {len(inputs)} inputs, calibration feeds one image input")
    kind = inputs[0].type.tensor_type
    shape = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in kind.shape.dim)
    if len(shape) != 4 or kind.elem_type != TensorProto.FLOAT:
        raise UsageError(f"{name}: input {inputs[0].name!r} of shape {list(shape)} is no float32 image batch")
    if not layout:
        layout = "NCHW" if shape[1] in (1, 3, 4) else "NHWC" if shape[3] in (1, 3, 4) else ""
    if layout not in ("NHWC", "NCHW"):
        raise UsageError(f"{name}: layout {layout!r} of input {inputs[0].name!r}", "--layout NHWC or --layout NCHW")
    height, width = (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])
    size = (height, width) if height and width else None
    return ImageInput(TensorSpec(inputs[0].name, shape), layout, size, shape[0] or 0)
