"""Labels and scores of image files, from an engine bundle or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

from engines import child
from engines.errors import DataError, UsageError
from engines.spec import Progress, RunnerSpec, quiet


def predict(
    bundle: Union[str, Path],
    images: Sequence[Union[str, Path]],
    top: int = 5,
    labels: Optional[Union[str, Path]] = None,
    progress: Progress = quiet,
) -> List[Dict[str, Any]]:
    """Classify image files.

    Args:
        bundle: Engine bundle; its manifest knows the preprocessing.
        images: Files that Pillow reads.
        top: Classes to return for each image.
        labels: Text file with one class name a line; by default the names of the calibration data, else numbers.
        progress: Told what happens.

    Returns:
        For each image its path and the `top` classes with `index`, `label` and `score` (probabilities where the model
        ends in a softmax; else a softmax of its output).

    Raises:
        UsageError: A file is missing, the labels do not fit, or the model is no classifier.
        DataError: A file is not an image.
    """
    from engines import manifest
    from optimize.sources import recognise

    spec = recognise(str(bundle))
    if spec.kind != "bundle":
        raise UsageError(f"{bundle} is not an engine bundle", f"optimize build {bundle} --precision fp16")
    why = manifest.runner_spec(Path(spec.path), spec)  # says why it will not run before anything is loaded
    if why.task != "classify":
        raise UsageError(f"{bundle} is no classifier: its task is {why.task}")
    for image in images:
        if not Path(image).is_file():
            raise UsageError(f"no such image: {image}")
    names = _labels(Path(labels)) if labels else list(manifest.read(Path(spec.path))["classes"])
    arguments = {"spec": spec.to_json(), "images": [str(Path(i).resolve()) for i in images], "top": top, "names": names}
    found: List[Dict[str, Any]] = child.call("optimize.prediction:classify", arguments, progress)
    return [{**one, "image": str(image)} for one, image in zip(found, images)]


def _labels(file: Path) -> List[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UsageError(f"--labels {file}: a text file with one class name a line is expected") from None


def classify(
    spec: Dict[str, Any], images: List[str], top: int, names: List[str], progress: Progress
) -> List[Dict[str, Any]]:
    """The child's part of `predict`: one image at a time at the smallest batch; memory does not grow with them."""
    import numpy as np

    import engines
    from calib.datasets import read_image
    from calib.preprocess import Preprocess, apply

    found = []
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        about = runner.spec
        pre = Preprocess.from_json(about.preprocess or {})
        tensor = runner.inputs[0]
        shape = tensor.shape[1:]
        size = (shape[0], shape[1]) if about.layout == "NHWC" else (shape[1], shape[2])
        feed = np.zeros((runner.batch_for(1), *[int(n or 1) for n in shape]), np.float32)
        query = runner.bind({tensor.name: feed})
        for number, image in enumerate(images):
            progress("predicting", number, len(images))
            try:
                pixels = [read_image(Path(image))]
                feed[...] = apply(pre, pixels, about.layout, (int(size[0] or 0), int(size[1] or 0)))
            except DataError as error:
                raise DataError(f"{image}: {error.message}", f"build the bundle again: {error.hint}") from None
            scores = np.asarray(query()[runner.outputs[0].name][0], np.float64).reshape(-1)
            if names and len(names) != scores.size:
                raise UsageError(f"{len(names)} labels were given, the model has {scores.size} classes")
            if scores.min() < 0 or abs(scores.sum() - 1) > 1e-2:
                scores = np.exp(scores - scores.max())
                scores /= scores.sum()
            best = np.argsort(-scores, kind="stable")[:top]
            found.append(
                {
                    "image": image,
                    "top": [
                        {"index": int(i), "label": names[i] if names else str(i), "score": float(scores[i])}
                        for i in best
                    ],
                }
            )
    return found
