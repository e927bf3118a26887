"""The child stage `calibrate`: ranges in one pass, every method measured against FP32, the best Q/DQ graph kept."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import placement as placements
from calib import ranges
from calib.agreement import Agreement, Scores, choose, compare
from calib.check import require_qdq
from calib.methods import METHODS, Method, parse_method, scale
from calib.quantize import quantize, require_float
from engines.errors import BuildError, UsageError
from engines.spec import Progress, RunnerSpec, TensorSpec, quiet

HOLDOUT = 512
"""Images that choose between the methods; none of them is among those that gave the ranges."""

_BATCH_BYTES = 32 << 20
"""Activations of one batch kept at once, bytes."""

_KEEP_BYTES = 128 << 20
"""Preprocessed hold-out images are kept in memory up to this size, else read again for every method."""

_BATCH = 32

Batches = Callable[[], Iterator[Tuple[npt.NDArray[Any], Optional[npt.NDArray[Any]]]]]


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
    task: str = "classify",
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Quantise an FP32 graph: measure the ranges, try every method on hold-out images, write the best.

    Args:
        onnx: FP32 graph with one image input.
        data: A data set, as `calib.datasets.open_dataset` reads it.
        preprocess: `calib.preprocess.Preprocess` as JSON.
        layout: NHWC or NCHW of the input; empty where its shape tells.
        target: Placement: tensorrt, openvino or onnxruntime.
        out: The ONNX file to write.
        samples: Images that give the ranges.
        seed: Of the choice of images.
        methods: Such as `["minmax", "percentile:99.9", "peaks:90"]`; all of `ranges.METHODS` by default.
        backend: What runs the candidates: openvino or onnxruntime.
        keep_float: Names of nodes that stay float.
        task: classify or tensors.
        progress: Told images and candidates done.

    Returns:
        `{"onnx", "target", "method": {"name", "percentile"}, "candidates": [{"method", "agreement", "error", "top1"}],
        "samples", "holdout", "seed", "dataset", "weight_bits", "keep_float", "activations",
        "weights"}`.

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
    place = placements.points(model, target, tuple(keep_float))
    if not place.weights:
        raise BuildError(f"{onnx}: no Conv, Gemm or MatMul with a constant weight", "--precision fp16")
    pre = Preprocess.from_json(preprocess)
    calibration = open_dataset(data, "calibration", samples, seed)
    holdout = open_dataset(data, "holdout", HOLDOUT, seed)

    def of(images: Any, batch: int) -> Batches:
        return lambda: batches(images, pre, image.layout, image.size, batch, quiet)

    seen = ranges.collect(
        onnx,
        place.measured(),
        ({image.spec.name: x} for x, _ in of(calibration, batch_size(model, place.measured(), image))()),
        progress,
        len(calibration),
    )
    kept = _kept(of(holdout, image.batch or _BATCH), image, len(holdout))
    reference = _reference(onnx, image, kept)
    bits = 7 if target != "tensorrt" and saturates() else 8
    nonnegative = [name for name, found in seen.items() if found.nonnegative]
    about = {"target": target, "samples": str(len(calibration)), "seed": str(seed), "data_sha256": calibration.sha256}
    results: List[Tuple[Method, Agreement]] = []

    def write(method: Method, path: Path) -> Dict[str, Any]:
        notes = {f"optimize.calibration.{key}": value for key, value in {**about, "method": str(method)}.items()}
        return quantize(
            onnx,
            path,
            {name: scale(found, method) for name, found in seen.items()},
            target,
            nonnegative=nonnegative,
            keep_float=tuple(keep_float),
            weight_bits=bits,
            metadata=notes,
        )

    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".candidates-", dir=str(Path(out).parent)) as folder:
        for index, method in enumerate(tried):
            progress(f"method {method}", index, len(tried))
            path = Path(folder, f"{index}.onnx")
            write(method, path)
            results.append((method, _measure(path, backend, image, kept, reference, task)))
            path.unlink()
    progress("methods", len(tried), len(tried))
    best = choose(results)
    written = write(best, Path(out))
    require_qdq(out, target)
    return {
        **written,
        "target": target,
        "method": {"name": best.name, "percentile": best.percentile},
        "candidates": [{"method": str(method), **found._asdict()} for method, found in results],
        "samples": len(calibration),
        "holdout": len(holdout),
        "seed": seed,
        "dataset": calibration.describe(),
        "weight_bits": bits,
        "keep_float": list(keep_float),
    }


def saturates() -> bool:
    """Whether this CPU's 8-bit dot product may saturate: x86 without VNNI or AMX adds pairs of u8 x s8 in 16 bits.

    Source: ONNX Runtime's and oneDNN's notes on int8; 7-bit weights keep every pair within 16 bits.
    """
    from engines.device import cpu_features

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(cpu_features())


class ImageInput(NamedTuple):
    """The one input of a graph. `batch` is 0 where it is free, `size` None where height and width are."""

    spec: TensorSpec
    layout: str
    size: Optional[Tuple[int, int]]
    batch: int


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


def _kept(feed: Batches, image: ImageInput, count: int) -> Batches:
    """The same batches, held in memory where they are small."""
    if image.size is None or count * image.size[0] * image.size[1] * 3 * 4 > _KEEP_BYTES:
        return feed
    held = list(feed())
    return lambda: iter(held)


def _reference(onnx: str, image: ImageInput, feed: Batches) -> Scores:
    session = ranges.session(onnx)
    return _run(lambda x: session.run(None, x), image, feed)


def _measure(path: Path, backend: str, image: ImageInput, feed: Batches, reference: Scores, task: str) -> Agreement:
    import engines

    options = {"inference_precision": "f32"}  # what INT8 costs, not what a 16-bit float beside it costs
    spec = RunnerSpec(str(path.resolve()), "onnx", layout=image.layout, backend=backend, options=options, task=task)
    with engines.open(spec) as runner:
        names = [output.name for output in runner.outputs]

        def query(feeds: Dict[str, npt.NDArray[Any]]) -> Scores:
            result = runner.infer(feeds)
            return [result[name] for name in names]

        scores = _run(query, image, feed)
    labels = [y for _, y in feed()] if task == "classify" else []
    known = [y for y in labels if y is not None]
    truth = np.concatenate(known) if known and len(known) == len(labels) else None
    return compare(reference, scores, truth, task)


def _run(query: Callable[[Dict[str, npt.NDArray[Any]]], Scores], image: ImageInput, feed: Batches) -> Scores:
    """Outputs of every image, concatenated."""
    parts: List[Scores] = []
    for x, _ in feed():
        results = query(ranges.pad({image.spec.name: x}, image.batch))
        parts.append([np.array(value[: len(x)], np.float32) for value in results])
    return [np.concatenate(values) for values in zip(*parts)]
