"""`optimize calibrate`: ranges of an ONNX graph as the calibration cache that TensorRT and trtexec read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple, Union

from engines import child
from engines.device import backend_version
from engines.errors import DamagedError, UsageError
from engines.spec import Progress, RunnerSpec, quiet
from optimize.pipeline.options import check_layout

DEFAULT_VERSION = "8.5.2"
"""TensorRT of JetPack 5: what the header names where no TensorRT is installed and none is given."""


def calibrate(
    onnx: Union[str, Path],
    data: str,
    out: Union[str, Path, None] = None,
    method: str = "entropy",
    samples: int = 512,
    seed: int = 0,
    layout: str = "",
    tensorrt: str = "",
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Write a TensorRT calibration cache of an FP32 ONNX graph, and the sidecar that ties it to graph and images.

    Args:
        onnx: FP32 graph with one image input.
        data: cifar10, synthetic, a folder or an .npz file.
        out: The cache; by default `<name>.calibration.cache` beside the graph.
        method: entropy, minmax, percentile[:P], mse, or another of `calib.methods`.
        samples: Images that give the ranges.
        seed: Of the choice of images.
        layout: NHWC or NCHW of the input; empty where its shape tells.
        tensorrt: Version that the header names; by default the one that is installed, else `DEFAULT_VERSION`.
        progress: Told images done.
        source: Options of `optimize.sources.recognise`.

    Returns:
        What `calib.cache.write` does, with `preprocess`, which is marked where it was inferred, and whether that was
        `by_accuracy`.

    Raises:
        UsageError: No ONNX graph, bad options, or `out` is a file of another kind.
        DataError, ModelError: Bad images, or a graph that cannot be calibrated.
    """
    from engines.tensorrt import cachefile
    from optimize.sources import recognise

    check_layout(layout)
    version = tensorrt or backend_version("tensorrt") or DEFAULT_VERSION
    cachefile.tag(version)
    spec = recognise(str(onnx), **source)
    if spec.kind != "onnx":
        raise UsageError(f"{onnx} is no ONNX graph", f"optimize export {onnx}")
    path = Path(spec.path)
    target = Path(out).resolve() if out else path.with_name(path.name.rsplit(".", 1)[0] + ".calibration.cache")
    _refuse_to_replace(target)
    arguments = {
        "spec": spec.to_json(),
        "data": data,
        "out": str(target),
        "tensorrt": version,
        "layout": layout,
        "method": method,
        "samples": samples,
        "seed": seed,
    }
    done: Dict[str, Any] = child.call("optimize.calibration:measure", arguments, progress)
    return done


def _refuse_to_replace(target: Path) -> None:
    """A file in place must be a calibration cache: a model or a run file must not be lost by a slip of the keyboard."""
    from engines.tensorrt import cachefile

    if not target.exists():
        return
    try:
        cachefile.read(target)
    except (DamagedError, UsageError):
        raise UsageError(f"{target} is there and is no calibration cache", "name another file with -o CACHE") from None


def measure(
    spec: Dict[str, Any],
    data: str,
    out: str,
    tensorrt: str,
    layout: str,
    method: str,
    samples: int,
    seed: int,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """What `calibrate` does, in a child process; preprocessing that nobody told is told by accuracy."""
    from calib import cache
    from calib import graph as graphs
    from calib.calibrate import image_input
    from calib.methods import parse_method
    from calib.quantize import require_float

    parse_method(method)
    runner = RunnerSpec.from_json(spec)
    model = graphs.load(runner.path)
    require_float(model, runner.path)
    layout = image_input(model, runner.path, layout).layout
    del model
    preprocess, by_accuracy = runner.preprocess, False
    if not preprocess:
        preprocess, by_accuracy = _infer(runner.with_(layout=layout), data, seed, progress)
    known = {key: value for key, value in preprocess.items() if key != "inferred"}
    state = Path(out).with_name(f".{Path(out).name}.ranges.npz")
    done = cache.write(
        runner.path, data, known, out, tensorrt, layout, method, samples, seed, str(state), progress=progress
    )
    return {**done, "preprocess": preprocess, "by_accuracy": by_accuracy}


def _infer(runner: RunnerSpec, data: str, seed: int, progress: Progress) -> Tuple[Dict[str, Any], bool]:
    """Preprocessing that nobody told, and whether labels could tell it."""
    from bench.accuracy import CANDIDATES, choose_preprocess
    from calib.preprocess import parse

    text, accuracies = CANDIDATES[0], {}
    if runner.task == "classify":
        chosen = choose_preprocess(runner.with_(backend="onnxruntime").to_json(), data, seed=seed, progress=progress)
        text, accuracies = str(chosen["preprocess"]), chosen["accuracies"]
    return {**parse(text).to_json(), "inferred": True}, bool(accuracies)
