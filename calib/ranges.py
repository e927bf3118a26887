"""Ranges of activations: one streaming pass through the FP32 graph gathers what every method reads (`calib.methods`).

Two histograms per tensor: of |x| over all values, and of the largest |x| of each image, and the moving averages of the
latter. Their memory does not depend on the number of images.
"""

from __future__ import annotations

import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np
import numpy.typing as npt

from calib import weightfile
from calib.checkpoint import Checkpoint
from calib.histogram import MOMENTA, TensorRange
from calib.memory import release
from engines.errors import DataError, ModelError
from engines.spec import Progress, quiet

T = TypeVar("T")


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
    # Between runs its threads would spin and take the processor from what counts the results (two busy cores: half).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def session_from(make: Callable[[], Any], simulate: bool = False) -> Any:
    """A session of the graph that `make` gives; it is written and dropped first, so that it is in memory only once.

    From bytes, ONNX Runtime would hold its own copy beside the bytes and the graph they came from; weights in a file
    of their own are mapped (ResNet-34: 156 instead of 238 MB while it loads).
    """
    with tempfile.TemporaryDirectory(prefix="optimize-") as folder:
        path = Path(folder, "graph.onnx")
        weightfile.write(make(), path)
        release()
        made = session(path, simulate=simulate)
    release()  # the weights as they were before their layout changed (ResNet-34: 65 MB)
    return made


def exposing(onnx: Union[str, Path], tensors: Sequence[str]) -> Any:
    """The graph with float tensors as further outputs, those that it is fed left out."""
    from onnx import TensorProto, helper

    from calib import graph

    model = graph.load(onnx)
    present = {item.name for item in [*model.graph.output, *model.graph.input]}
    for name in tensors:
        if name not in present:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def collect(
    onnx: Union[str, Path],
    tensors: Sequence[str],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    progress: Progress = quiet,
    total: int = 0,
    momenta: Sequence[float] = MOMENTA,
    checkpoint: Optional[Checkpoint] = None,
) -> Dict[str, TensorRange]:
    """Ranges of tensors over batches of inputs: one pass, memory independent of the number of batches.

    Args:
        onnx: FP32 graph.
        tensors: Names of float tensors: inputs or results of nodes.
        batches: Feeds by input name, batch first. Where the graph has a fixed batch, a shorter one is padded with its
            last item for the run, and the padding is not counted.
        progress: Told the images done.
        total: Images to come, for `progress`; 0 where not known.
        momenta: Of the moving averages to gather.
        checkpoint: Where the state is kept, to go on from it. `batches` must start behind the images that it has
            `done`, and be divided as they were when it was written.

    Returns:
        One range per tensor.

    Raises:
        DataError: No batch came, or a tensor got NaN or an infinity (named).
        ModelError: ONNX Runtime cannot run the graph.
    """
    runner = session_from(lambda: exposing(onnx, tensors))
    inputs = {item.name for item in runner.get_inputs()}
    wanted = [name for name in tensors if name not in inputs]
    fixed = fixed_batch(runner)
    found = {name: TensorRange(averages=dict.fromkeys(momenta, (0.0, 0.0))) for name in tensors}
    if checkpoint:
        found = checkpoint.ranges(found)
    done = checkpoint.done if checkpoint else 0

    def runs() -> Iterator[Tuple[Mapping[str, npt.NDArray[Any]], List[npt.NDArray[Any]]]]:
        for feeds in batches:
            yield feeds, runner.run(wanted, pad(feeds, fixed)) if wanted else []

    for feeds, results in _ahead(runs()):
        count = len(next(iter(feeds.values())))
        for name in tensors:
            if name in inputs:
                _add(found[name], name, feeds[name], count, count)
        results.reverse()
        for name in wanted:  # in the graph's order, so that the first bad one is named; each is freed once counted
            _add(found[name], name, results.pop(), count, fixed or count)
        done += count
        if checkpoint:
            checkpoint.reached(found, done)
        progress("ranges", done, total)
    if done == 0:
        raise DataError("no calibration image: the ranges are unknown", "give images with --data")
    return found


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Items, each made while the one before is used: one processor runs the graph, another counts."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while True:
            item = coming.result()
            if item is None:
                return
            coming = pool.submit(next, items, None)
            yield item
            del item


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
