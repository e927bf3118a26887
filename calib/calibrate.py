"""The child stage `calibrate`: ranges in one pass, methods measured against FP32, the best Q/DQ graph kept."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from calib import bias, choice, equalize, ranges, weightfile
from calib import graph as graphs
from calib import placement as placements
from calib.agreement import Agreement, Scores, choose
from calib.check import require_qdq
from calib.checkpoint import Checkpoint
from calib.choice import Entry, Scales
from calib.histogram import TensorRange
from calib.holdout import Holdout, ImageInput
from calib.memory import release
from calib.methods import METHODS, Method, momenta, parse_method, scale
from calib.placement import Placement
from calib.quantize import levels, quantize, require_float
from calib.simulation import Simulation
from engines import jsonfile
from engines.errors import BuildError, UsageError
from engines.spec import Progress, RunnerSpec, TensorSpec, quiet

HOLDOUT = 512
"""Images that choose between the methods; none of them is among those that gave the ranges."""

BIAS_IMAGES = 128
"""Calibration images that tell the mean errors of the layers."""

REFINEMENTS = ("equalization", "bias-correction")
"""What is done to weights and biases where it makes the answers better; each can be left out."""

_BATCH_BYTES = 32 << 20
"""Activations of one batch kept at once, bytes."""

_BATCH = 32

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
    backend: str = "onnxruntime",
    keep_float: Sequence[str] = (),
    without: Sequence[str] = (),
    task: str = "classify",
    state: Optional[str] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Quantise an FP32 graph: measure the ranges, try the methods on hold-out images, write the best.

    All methods run on a few hold-out images in simulated arithmetic, those far behind drop out, and the finalists are
    measured on all of them by the backend itself. Then tensors with heavy tails may get another method, chosen on one
    half of the hold-out and confirmed on the other. Where channels of a tensor differ severely, all this is done with
    the equalised graph as well, and the better of the two is kept. Last, biases are corrected where that brings the
    outputs nearer.

    Args:
        onnx: FP32 graph with one image input.
        data: A data set, as `calib.datasets.open_dataset` reads it.
        preprocess: `calib.preprocess.Preprocess` as JSON.
        layout: NHWC or NCHW of the input; empty where its shape tells.
        target: Placement: tensorrt, openvino or onnxruntime.
        out: The ONNX file to write.
        samples: Images that give the ranges.
        seed: Of the choice of images.
        methods: Such as `["minmax", "percentile:99.9", "entropy"]`; all of `calib.methods.METHODS` by default.
        backend: What runs the finalists: openvino or onnxruntime; for tensorrt, Q and DQ in float32 stand in.
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
        "seed", "dataset", "keep_float", "weight_bits", "activations", "weights", "biases"}`. Candidates with `images`
        below `holdout` dropped out in the race, in simulated arithmetic. `tensors` names those with a method of their
        own. `float_onnx` is the FP32 graph that was quantised: None for `onnx` itself, else its equalised form, a file
        beside `out`.

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
    place = placements.points(model, target, kept)
    if not place.weights:
        raise BuildError(f"{onnx}: no Conv, Gemm or MatMul with a constant weight", "--precision fp16")
    batch = batch_size(model, place.measured(), image)
    pre = Preprocess.from_json(preprocess)
    calibration = open_dataset(data, "calibration", samples, seed)

    def feeds(start: int = 0, stop: Optional[int] = None) -> Any:
        found = batches(calibration, pre, image.layout, image.size, batch, start=start, stop=stop)
        return ({image.spec.name: x} for x, _ in found)

    key = {"graph": jsonfile.sha256(onnx), "tensors": place.measured(), "data": calibration.sha256, "seed": seed}
    key = {**key, "preprocess": pre.to_json(), "batch": batch, "momenta": momenta(tried)}
    checkpoints: List[Checkpoint] = []
    notes = {"target": target, "samples": str(len(calibration)), "seed": str(seed), "data_sha256": calibration.sha256}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".candidates-", dir=str(Path(out).parent)) as folder:

        def quantised(form: str) -> Tuple[_Job, _Built, Dict[str, Any]]:
            """The best graph from one form of the FP32 graph."""
            name = "" if form == fp32 else ".equalized"
            found = [Checkpoint(Path(state + name), {**key, "form": name})] if state else []
            checkpoints.extend(found)
            start, checkpoint = (found[0].done, found[0]) if found else (0, None)
            arguments = (feeds(start), progress, len(calibration), momenta(tried), checkpoint)
            seen = ranges.collect(form, place.measured(), *arguments)
            release()
            job = _Job(form, target, image, place, seen, holdout, backend, task, Path(folder), notes, kept, progress)
            return (job, *job.choose(tried))

        fp32, equal = (str(Path(folder, name)) for name in ("fp32.onnx", "equalized.onnx"))
        weightfile.write(model, fp32)
        del model  # the pass needs room for its own
        release()
        few = feeds(0, min(equalize.IMAGES, len(calibration)))
        scaled = [] if "equalization" in without else equalize.equalize(fp32, few, equal)
        holdout = Holdout(open_dataset(data, "holdout", HOLDOUT, seed), pre, image, fp32, task)
        job, best, record = quantised(fp32)
        about: Dict[str, Any] = {"layers": scaled, "kept": False, "plain": None, "equalized": None}
        if scaled:
            other = quantised(equal)
            about.update(plain=best.found._asdict(), equalized=other[1].found._asdict())
            about["kept"] = choose([(False, best.found), (True, other[1].found)])
            if about["kept"]:
                job, best, record = other
        count = 0 if "bias-correction" in without else min(BIAS_IMAGES, len(calibration))
        best, record["bias_correction"] = job.corrected(best, feeds(0, count), count)
        with jsonfile.replacing_file(out) as part:
            os.replace(best.path, part)
        record.update(equalization=about, float_onnx=_keep(equal, out) if about["kept"] else None)
    require_qdq(out, target)
    for checkpoint in checkpoints:
        checkpoint.remove()
    return {
        "onnx": out,
        **best.counts,
        "target": target,
        **record,
        "samples": len(calibration),
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


Change = Callable[[Any], None]
"""What is done to an FP32 graph, in place."""


class _Built(NamedTuple):
    """A quantised graph on disk, with its outputs for the hold-out by the backend."""

    path: Path
    counts: Dict[str, int]
    scales: Scales
    scores: Scores
    found: Agreement
    notes: Dict[str, str]


@dataclass
class _Job:
    """What all candidates share."""

    onnx: str
    target: str
    image: ImageInput
    place: Placement
    seen: Mapping[str, TensorRange]
    holdout: Holdout
    backend: str
    task: str
    folder: Path
    notes: Dict[str, str]
    keep_float: Sequence[str]
    progress: Progress
    _count: int = field(default=0)

    def __post_init__(self) -> None:
        self.bits = 7 if self.target != "tensorrt" and saturates() else 8
        self.nonnegative = [name for name, found in self.seen.items() if found.nonnegative]

    def choose(self, tried: List[Method]) -> Tuple[_Built, Dict[str, Any]]:
        """The graph of the best method, and what was measured on the way."""
        steps = {name: levels(found.nonnegative, self.target) for name, found in self.seen.items()}
        scales = {
            method: {name: scale(found, method, steps[name]) for name, found in self.seen.items()} for method in tried
        }
        release()
        order, switched = self._race(scales) if len(scales) > 1 else ([Entry(tried[0], _NOTHING, 0)], {})
        figures = {entry.method: (entry.found, entry.images) for entry in order}
        finalists = [entry.method for entry in order if entry.alive][: choice.FINALISTS]
        built = {}
        for index, method in enumerate(finalists):
            self.progress(f"method {method}", index, len(finalists))
            built[method] = one = self.build(scales[method], {"method": str(method)})
            figures[method] = one.found, len(self.holdout)
        best = choose([(method, one.found) for method, one in built.items()])
        result, tensors = built[best], {}
        if switched and best == finalists[0]:
            mixed = {**scales[best], **{name: scales[method][name] for name, method in switched.items()}}
            one = self.build(mixed, {"method": str(best), "tensors": str(len(switched))})
            if self._confirmed(one, result):
                result, tensors = one, {name: str(method) for name, method in switched.items()}
        record = {
            "method": {k: v for k, v in best._asdict().items() if k != "momentum" or v is not None},
            "candidates": [{"method": str(m), **figures[m][0]._asdict(), "images": figures[m][1]} for m in scales],
            "tensors": tensors,
        }
        return result, record

    def _race(self, scales: Mapping[Method, Scales]) -> Tuple[List[Entry], Dict[str, Method]]:
        """Methods by what simulation tells of them, and the tensors where the first of them is not the best."""
        simulation = Simulation(self.onnx, self.place, self.nonnegative, self.bits)
        order = choice.race(self.holdout, simulation, scales, self.progress)
        first = order[0].method
        others = [(entry.method, scales[entry.method]) for entry in order[1:]]
        tails = choice.heavy_tails(self.seen, scales[first])
        return order, choice.per_tensor(self.holdout, simulation, scales[first], others, tails, self.progress)

    def _confirmed(self, one: _Built, base: _Built) -> bool:
        """Whether a graph is better on the second half of the hold-out, which had no part in making it."""
        half = len(self.holdout) // 2
        found, before = (self.holdout.compare([v[half:] for v in x.scores], half) for x in (one, base))
        return choice.improves(found, before)

    def corrected(self, best: _Built, feeds: Any, images: int) -> Tuple[_Built, Dict[str, Any]]:
        """The graph with its biases corrected where that is better, and what was measured."""
        release()
        means = {}
        if images:
            means = bias.mean_inputs(self.onnx, self.place, best.scales, self.nonnegative, feeds, self.progress, images)
        release()
        record: Dict[str, Any] = {"tried": bool(means), "kept": False, "layers": 0, "images": images}
        if not means:
            return best, record

        def correct(model: Any) -> None:
            errors = bias.mean_errors(model, self.place, means, self.bits)
            bias.correct(model, errors)
            record["layers"] = len(errors)

        one = self.build(best.scales, {**best.notes, "bias_correction": "mean"}, correct)
        record.update(one.found._asdict())
        record["kept"] = choice.improves(one.found, best.found)
        return (one if record["kept"] else best), record

    def build(
        self, scales: Scales, notes: Dict[str, str], change: Callable[[Any], None] = lambda model: None
    ) -> _Built:
        """Write the graph with these scales, after a change to the FP32 graph, and measure it."""
        self._count += 1
        path = self.folder / f"{self._count}.onnx"
        model = graphs.load(self.onnx)
        change(model)
        release()
        written = quantize(
            model,
            path,
            scales,
            self.target,
            nonnegative=self.nonnegative,
            keep_float=tuple(self.keep_float),
            weight_bits=self.bits,
            metadata={f"optimize.calibration.{key}": value for key, value in {**self.notes, **notes}.items()},
        )
        del model  # the backend needs the room
        release()
        counts = {key: written[key] for key in ("activations", "weights", "biases")}
        scores = self._scores(path)
        return _Built(path, counts, scales, scores, self.holdout.compare(scores), notes)

    def _scores(self, path: Path) -> Scores:
        import engines

        if self.target == "tensorrt":
            # ONNX Runtime stands in for TensorRT, and its kernels for this form are slow (ResNet-34, 512 images: 12 s
            # of processor time); what Q and DQ say in float32 is as near to TensorRT's.
            session = ranges.session(path, simulate=True)
            return self.holdout.run(lambda feeds: list(session.run(None, feeds)))
        options = {"inference_precision": "f32"}  # what INT8 costs, not what a 16-bit float beside it costs
        spec = RunnerSpec(str(path.resolve()), "onnx", layout=self.image.layout, backend=self.backend, task=self.task)
        with engines.open(spec.with_(options=options)) as runner:
            names = [output.name for output in runner.outputs]

            def query(feeds: Dict[str, npt.NDArray[Any]]) -> Scores:
                result = runner.infer(feeds)
                return [result[name] for name in names]

            return self.holdout.run(query)


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


def batch_size(model: Any, tensors: Sequence[str], image: ImageInput) -> int:
    """Images per run such that the measured tensors of one run stay near `_BATCH_BYTES`; a fixed batch as it is."""
    if image.batch:
        return image.batch
    one = type(model)()
    one.CopyFrom(model)
    entry = next(item for item in one.graph.input if item.name == image.spec.name)
    entry.type.tensor_type.shape.dim[0].dim_value = 1
    del one.graph.value_info[:]
    for item in one.graph.output:
        item.type.tensor_type.ClearField("shape")
    shapes = graphs.Graph(one).shapes
    largest = max((int(np.prod([d or 1 for d in shape])) for shape in shapes.values()), default=1)
    total = sum(int(np.prod([d or 1 for d in shapes[name]])) if name in shapes else largest for name in tensors)
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, 4 * total)))
