"""`optimize calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import UsageError
from optimize.cli.console import answer, progress, say, warn


def calibrate(
    onnx: Annotated[Path, typer.Argument(metavar="ONNX", help="FP32 graph, such as optimize export writes.")],
    data: Annotated[
        Optional[str], typer.Option("--data", metavar="cifar10|DIR|NPZ|synthetic", help="Images that give the ranges.")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", metavar="CACHE", help="Default: beside the graph.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="entropy, minmax, percentile[:P], mse, peaks[:P] or average[:M].")
    ] = "entropy",
    samples: Annotated[int, typer.Option("--samples", help="Images that give the ranges.")] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of images.")] = 0,
    layout: Annotated[str, typer.Option("--layout", help="NHWC or NCHW of the input; default as its shape.")] = "",
    tensorrt: Annotated[
        str, typer.Option("--tensorrt", metavar="VERSION", help="For which TensorRT; default the one here, else 8.5.2.")
    ] = "",
    *,
    source: Dict[str, Any],
) -> None:
    """Write TensorRT's calibration cache of a graph, for trtexec --calib and optimize build --calibration-cache."""
    from optimize.calibration import calibrate as run

    if data is None:
        raise UsageError(
            "calibration needs images, and none were given",
            "add --data cifar10, a folder or an .npz file (--data synthetic only to try it out)",
        )
    with progress() as report:
        done = run(
            onnx,
            data,
            out=out,
            method=method,
            samples=samples,
            seed=seed,
            layout=layout,
            tensorrt=tensorrt,
            progress=report,
            **source,
        )
    from calib.sampling import too_few

    answer(done, _lines(done))
    for text in too_few(done["of"]["samples"]):
        warn(f"warning: {text}")
    model, cache = shlex.quote(str(onnx)), shlex.quote(done["cache"])
    given = {"preprocess": source.get("preprocess"), "data": data}
    same = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items() if value)
    say(f"next: optimize build {model} --precision int8 --calibration-cache {cache}{same}")
    say(f"  or: trtexec --onnx={model} --int8 --fp16 --calib={cache}")


def _lines(done: Dict[str, Any]) -> List[str]:
    from optimize.inspection import preprocess_text

    of, data = done["of"], done["dataset"]
    images = f"{of['samples']} images of {data['name']}"
    return [
        f"{done['cache']}: {done['header']}, scales of {done['tensors']} tensors by {of['method']} on {images}",
        f"{done['sidecar']}: model, data, preprocessing and method that it belongs to",
        f"preprocess: {preprocess_text(done['preprocess'], done['by_accuracy'])}",
    ]
