"""TensorRT's calibration cache from ranges of ours, for trtexec, and Q/DQ graphs from a cache of anybody."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from calib import graph as graphs
from calib import placement as placements
from calib import ranges
from calib.budget import batch_size
from calib.calibrate import image_input, saturates
from calib.check import require_qdq
from calib.checkpoint import Checkpoint
from calib.memory import release
from calib.methods import momenta, parse_method, scale
from calib.quantize import quantize, require_float
from engines import jsonfile
from engines.errors import BuildError, DamagedError, IncompatibleError, UsageError
from engines.spec import Progress, quiet
from engines.tensorrt import cachefile

LEAST = 0.9
"""Share of the tensors to quantise that a cache must know: below it, it is another graph's."""

_SHOWN = 5

_POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp")
"""Operators that give no negative value."""

_KEEP_SIGN = ("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Transpose", "Slice", "Identity", "Dropout")
_KEEP_SIGN_OF_ALL = ("Add", "Mul", "Concat")
"""Operators that give none where their data, or all their inputs, have none."""

_CLAMPS = ("Relu", "Clip")
"""Activations that the operator before them gives its result through."""


def write(
    onnx: str,
    data: str,
    preprocess: Dict[str, Any],
    out: str,
    tensorrt: str,
    layout: str = "",
    method: str = "entropy",
    samples: int = 512,
    seed: int = 0,
    state: Optional[str] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Measure the range of every float tensor of a graph and write them as a calibration cache (a stage).

    Args:
        onnx: FP32 graph with one image input, as TensorRT will parse it.
        data: A data set, as `calib.datasets.open_dataset` reads it.
        preprocess: `calib.preprocess.Preprocess` as JSON.
        out: The cache; its sidecar is written beside it.
        tensorrt: Version for the header; TensorRT skips a cache of another one.
        layout: NHWC or NCHW of the input; empty where its shape tells.
        method: Such as `entropy` or `percentile:99.9`, see `calib.methods.parse_method`.
        samples: Images that give the ranges.
        seed: Of the choice of images.
        state: File that keeps the state of the pass every few seconds, so that an interrupted one goes on.
        progress: Told images done.

    Returns:
        `cache`, `sidecar`, `tensors` (how many), `header`, `of` (what the sidecar says), `dataset`.

    Raises:
        DataError, ModelError, UsageError: Bad images, graph or options.
    """
    from calib.datasets import open_dataset
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    if samples < 1:
        raise UsageError(f"--samples {samples}: at least one image is needed")
    chosen, digits = parse_method(method), cachefile.tag(tensorrt)
    model = graphs.load(onnx)
    require_float(model, onnx)
    image = image_input(model, onnx, layout)
    tensors = [image.spec.name, *float_tensors(onnx)]
    batch = batch_size(model, tensors, image)
    del model  # the pass needs room for its own
    pre = Preprocess.from_json(preprocess)
    dataset = open_dataset(data, "calibration", samples, seed)
    of = {
        "model": jsonfile.sha256(onnx),
        "data": dataset.sha256,
        "preprocess": pre.to_json(),
        "layout": image.layout,
        "method": str(chosen),
        "samples": len(dataset),
        "seed": seed,
    }
    checkpoint = Checkpoint(Path(state), {**of, "tensors": tensors, "batch": batch}) if state else None
    start = checkpoint.done if checkpoint else 0
    feeds = ({image.spec.name: x} for x, _ in batches(dataset, pre, image.layout, image.size, batch, start=start))
    with tempfile.TemporaryDirectory(prefix="optimize-") as folder:
        whole = _exposing(onnx, tensors, Path(folder, "graph.onnx"))
        release()
        seen = ranges.collect(whole, tensors, feeds, progress, len(dataset), momenta([chosen]), checkpoint)
    scales = {name: scale(found, chosen) for name, found in seen.items()}
    # trtexec looks for the entropy calibrator's header whatever made the numbers; the sidecar tells the method
    content = cachefile.render(cachefile.Cache(digits, "entropy", scales))
    cachefile.write(Path(out), content, {**of, "dataset": dataset.describe()}, "entropy", tensorrt)
    if checkpoint:
        checkpoint.remove()
    return {
        "cache": out,
        "sidecar": str(cachefile.sidecar(Path(out))),
        "tensors": len(scales),
        "header": content.split(b"\n", 1)[0].decode(),
        "of": of,
        "dataset": dataset.describe(),
    }


def float_tensors(onnx: str) -> List[str]:
    """Results of a graph's nodes that are float32, in the order of the nodes: what TensorRT wants a scale for."""
    import onnx as package

    model = package.load(onnx)
    names = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(package.ValueInfoProto(name=name) for name in names)
    runner = ranges.session(model.SerializeToString())
    return [item.name for item in runner.get_outputs() if item.type == "tensor(float)"]


def _exposing(onnx: str, tensors: Sequence[str], out: Path) -> Path:
    """The graph with all these tensors as outputs, so that nothing that makes one of them is merged away."""
    import onnx as package

    model = package.load(onnx)
    inputs = {item.name for item in model.graph.input}
    del model.graph.output[:]
    model.graph.output.extend(
        package.helper.make_tensor_value_info(name, package.TensorProto.FLOAT, None)
        for name in tensors
        if name not in inputs
    )
    out.write_bytes(model.SerializeToString())
    return out


class _Fit(NamedTuple):
    """How a cache fits a graph: scales of its tensors, those to quantise without one, the nodes that stay float."""

    scales: Dict[str, float]
    used: int
    missing: List[str]
    kept: List[str]


def fitted(
    onnx: str,
    cache: str,
    out: str,
    target: str = "tensorrt",
    keep_float: Sequence[str] = (),
    names: Optional[Dict[str, str]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Write a calibration cache with the names of the graph's own tensors (a stage).

    Args:
        onnx: FP32 graph.
        cache: TensorRT's text; a sidecar is read where there is one.
        out: The cache to write, without a sidecar.
        target: Placement: tensorrt, openvino or onnxruntime.
        keep_float: Names of nodes that stay float.
        names: What the tensors of the graph are called in the model that the cache was made for, where otherwise. The
            cache is read by these names or by the graph's own, whichever it knows more of.
        progress: Not told anything.

    Returns:
        For the manifest: `method` (`{"name": "imported"}`), `imported` ({`name`, `sha256`, `header`, `tensors`, `used`,
        `missing` names, `of`: what its sidecar says, or null}), `samples` and `dataset` (0 and unknown without
        sidecar), `target`, `keep_float` (layers without a scale are among them); and `cache` (`out`).

    Raises:
        IncompatibleError: It knows less than `LEAST` of the tensors to quantise.
        DamagedError, UsageError: No calibration cache.
        BuildError, ModelError: Nothing to quantise, or quantised already.
    """
    fit = _fit(onnx, cache, target, keep_float, names or {})
    found = cachefile.read(cache)
    with jsonfile.replacing_file(out) as part:
        part.write_bytes(cachefile.render(found._replace(scales=fit.scales)))
    return {**_described(cache, target, fit), "cache": out}


def quantised(
    onnx: str,
    cache: str,
    target: str,
    out: str,
    keep_float: Sequence[str] = (),
    names: Optional[Dict[str, str]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Write the Q/DQ graph that a calibration cache gives (a stage).

    A layer with an input that the cache does not know stays float.

    Args:
        onnx, cache, target, keep_float, names, progress: See `fitted`.
        out: The ONNX file to write.

    Returns:
        What `fitted` does but for the cache, with `onnx`, `activations`, `weights`, `biases` and `weight_bits`.

    Raises:
        See `fitted`.
    """
    fit = _fit(onnx, cache, target, keep_float, names or {})
    bits = 7 if target != "tensorrt" and saturates() else 8
    model = graphs.load(onnx)
    positive = nonnegative(model)
    done = quantize(
        model,
        out,
        fit.scales,
        target,
        nonnegative=positive,
        keep_float=tuple(fit.kept),
        weight_bits=bits,
        metadata={"optimize.calibration.method": "imported", "optimize.calibration.cache": jsonfile.sha256(cache)},
    )
    require_qdq(out, target)
    return {**_described(cache, target, fit), **done, "weight_bits": bits}


def _fit(onnx: str, cache: str, target: str, keep_float: Sequence[str], names: Mapping[str, str]) -> _Fit:
    found = cachefile.read(cache)
    model = graphs.load(onnx)
    require_float(model, onnx)
    graph = graphs.Graph(model)
    kept = list(keep_float)
    wanted = placements.points(graph, target, tuple(kept)).measured()
    if not wanted:
        raise BuildError(f"{onnx}: no Conv, Gemm or MatMul with a constant weight", "--precision fp16")
    known = _known(graph, found.scales, names, wanted)
    missing = [name for name in wanted if name not in known]
    used = len(wanted) - len(missing)
    if used < LEAST * len(wanted):
        shown = ", ".join(repr(name) for name in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise IncompatibleError(
            f"{cache}: of {len(wanted)} tensors to quantise it has no scale for {len(missing)} ({shown}{more}); "
            f"at least {LEAST:.0%} must be known, so it is another graph's",
            "optimize calibrate ONNX --data cifar10 -o CACHE",
        )
    while True:
        place = placements.points(graph, target, tuple(kept))
        lost = [name for name in place.measured() if name not in known]
        if not lost:
            return _Fit(known, used, missing, kept)
        fresh = _around(graph, place, lost) - set(kept)
        if not fresh:
            raise BuildError(f"{cache}: tensor {lost[0]!r} has no scale", "optimize calibrate ONNX --data cifar10")
        kept += sorted(fresh)


def _known(
    graph: graphs.Graph, scales: Mapping[str, float], names: Mapping[str, str], wanted: Sequence[str]
) -> Dict[str, float]:
    """Scales above 0 by the graph's tensors, read by their own names or by those of the source, never by a mixture."""
    tensors = [*graph.inputs, *graph.producer]
    readings = (
        {name: scales[name] for name in tensors if scales.get(name, 0.0) > 0},
        {name: scales[names.get(name, name)] for name in tensors if scales.get(names.get(name, name), 0.0) > 0},
    )
    return max(readings, key=lambda one: sum(name in one for name in wanted))


def _around(graph: graphs.Graph, place: placements.Placement, tensors: Sequence[str]) -> Set[str]:
    """Nodes that must stay float so that these tensors are not quantised."""
    found = {graph.nodes[edge.node].name for name in tensors for edge in place.activations[name]}
    if place.target == "onnxruntime":  # there the node that makes a tensor quantises it, through its activation
        for name in tensors:
            maker = graph.maker(name)
            while maker is not None:
                found.add(maker.name)
                maker = graph.maker(maker.input[0]) if maker.op_type in _CLAMPS else None
    return found


def _described(cache: str, target: str, fit: _Fit) -> Dict[str, Any]:
    found, about = cachefile.read(cache), cachefile.about(Path(cache))
    of: Mapping[str, Any] = about["of"] if about else {}
    dataset, samples = of.get("dataset"), of.get("samples")
    known = isinstance(dataset, dict) and {"name", "n", "sha256"} <= set(dataset)
    if about and not (samples is None or (isinstance(samples, int) and samples > 0)):
        raise DamagedError(f"{cachefile.sidecar(Path(cache))}: {samples!r} samples")
    return {
        "method": {"name": "imported"},
        "imported": {
            "name": Path(cache).name,
            "sha256": jsonfile.sha256(cache),
            "header": f"TRT-{found.version}-{cachefile.ALGORITHMS[found.algorithm]}",
            "tensors": len(found.scales),
            "used": fit.used,
            "missing": fit.missing,
            "of": dict(of) if about else None,
        },
        "samples": samples or 0,
        "dataset": dataset if known else {"name": "unknown", "n": 0, "sha256": None},
        "target": target,
        "keep_float": fit.kept,
    }


def nonnegative(model: Any) -> List[str]:
    """Tensors that are never negative by the operators that make them."""
    graph = graphs.Graph(model)
    found: Set[str] = set()
    for node in graph.nodes:
        low = graph.array(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
        data = node.input[:1] if node.op_type in _KEEP_SIGN else node.input
        keeps = node.op_type in (*_KEEP_SIGN, *_KEEP_SIGN_OF_ALL) and all(name in found for name in data)
        if node.op_type in _POSITIVE or keeps or (low is not None and float(low) >= 0):
            found.add(str(node.output[0]))
    return [str(node.output[0]) for node in graph.nodes if node.output[0] in found]
