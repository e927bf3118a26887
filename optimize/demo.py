"""`optimize demo`: the whole path in minutes on this machine, on real images where there are some."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Dict, List, Optional

from engines.errors import DataError
from engines.spec import A_LINE, Progress, quiet

_IMAGES = 10_000
_EPOCHS = 3
"""A budget of about two minutes on two cores: enough to see accuracy that quantisation could ruin."""


def run(out: Path, data: Optional[str] = None, progress: Progress = quiet) -> Dict[str, Any]:
    """Train a small-budget ResNet-34, build fp32, fp16 and int8, verify, bench at 1 and 64 against TensorFlow.

    Args:
        out: Folder for the model, the engines, `runs.json` and the reports; a second run uses what is there.
        data: Data set reference; None takes CIFAR-10 if it is found or can be fetched, else the synthetic set.
        progress: Told what happens.

    Returns:
        `data`, `model`, `bundles`, `run` (optimize.run/1) and `report` (path of report.html).
    """
    from optimize import api, zoo

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    reference = data or _data(progress)
    lacking = "" if data or reference != "synthetic" else "; CIFAR-10 is not to be had here, --data DIR takes yours"
    progress(f"data set: {reference}{lacking}", 0, A_LINE)
    model = out / zoo.file_name("resnet34", reference, 64, _EPOCHS)
    if not model.is_file():
        model = Path(api.zoo_train("resnet34", reference, _EPOCHS, 64, "imagenet", _IMAGES, 0, out, progress)["path"])
    done = api.build(model, "fp32,fp16,int8", (1, 64), reference, preprocess="unit", progress=progress)
    if done.failures:
        raise done.failures[0][1]
    bench, _ = api.bench(
        [b.path for b in done.bundles],
        baseline=model,
        data=reference,
        rounds=2,
        duration=0.5,
        images=2000,
        preprocess="unit",
        out=out / "runs.json",
        command=_command([str(b.path) for b in done.bundles], str(model), reference),
        progress=progress,
    )
    _, written = api.report([out / "runs.json"], ["md", "html"], out)
    return {
        "data": reference,
        "model": str(model),
        "bundles": [str(b.path) for b in done.bundles],
        "run": bench,
        "report": str(written),
    }


def _command(bundles: List[str], model: str, data: str) -> str:
    """What a user would type to measure the demo's engines again."""
    words = ["optimize", "bench", *bundles, "--baseline", model, "--data", data, "--preprocess", "unit"]
    return " ".join(shlex.quote(word) for word in [*words, "--rounds", "2", "--duration", "500ms", "--images", "2000"])


def _data(progress: Progress) -> str:
    """CIFAR-10 if it is on this machine or can be fetched, else the labelled synthetic set."""
    from calib.datasets import open_dataset

    try:
        open_dataset("cifar10", "test", progress=progress)
    except DataError:
        return "synthetic"
    return "cifar10"
