"""Accuracy of a classifier on labelled images, agreement of two on the same ones, and which preprocessing fits."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from bench import paired
from engines import jsonfile
from engines.errors import DataError, UsageError
from engines.spec import Progress, Query, Runner, RunnerSpec, quiet

CHECKED = 512
"""Images on which the other batch sizes must give what the largest gives."""

CANDIDATES = ("unit", "raw", "imagenet", "tf", "caffe")
"""Preprocessing that labels can tell apart; among equals the first."""

_LABELLED = (
    "top1_drop",
    "drop_interval",
    "lost",
    "won",
    "mcnemar_p",
    "top5_drop",
    "top5_drop_interval",
    "worst_classes",
)
"""What `compare` can tell with labels only."""

_LARGEST = float(np.finfo(np.float32).max)
"""Stands for a difference that is not finite: JSON holds no infinity."""


def evaluate(
    spec: Dict[str, Any],
    data: str,
    out: str,
    batch: int,
    split: str = "test",
    preprocess: Optional[Dict[str, Any]] = None,
    images: Optional[int] = None,
    batches: Sequence[int] = (),
    seed: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Run a classifier over labelled images and keep its scores: a stage for a child process.

    Args:
        spec: RunnerSpec as JSON.
        data: Data set reference.
        out: `.npz` file for `scores` (float32, images x classes), `labels` (int64, empty where there are none) and
            `sha256` of the images, written atomically.
        batch: Images of a query, unless the model fixes another; the last query is filled up with zeros, whose scores
            are dropped.
        split: Of the data set.
        preprocess: `calib.preprocess.Preprocess` as JSON; the spec's own by default.
        images: Only so many, balanced by label; all by default.
        batches: Other batch sizes, each checked on the first 512 images against the scores at `batch`.
        seed: Of the choice where `images` is given.
        progress: Told the images done.

    Returns:
        `top1` and `top5` (fractions of 1, None without labels; top5 None below six classes), `n`,
        `dataset` ({name, n, sha256}), `classes` (names), `class_count` (of the model), `batch`,
        `batches` ([{batch, n, agreement}]), `predictions` (`out`).

    Raises:
        UsageError: Not a classifier with one image input.
        DataError: Images that do not fit, or labels beyond the classes.
    """
    import engines
    from calib.datasets import open_dataset

    dataset = open_dataset(data, split, images, seed, labelled=False, progress=progress)
    wanted = RunnerSpec.from_json(spec)
    with engines.open(wanted) as runner:
        batch = (runner.inputs[0].shape or (None,))[0] or batch
        what = f"accuracy of {_name(runner.spec)}"
        scores = _scores(runner, dataset, preprocess, batch, lambda _, done, total: progress(what, done, total))
        checks = [_check_batch(runner, dataset, preprocess, other, scores) for other in batches]
    labels = dataset.labels
    _check_labels(labels, scores.shape[1], data)
    about = dataset.describe()
    with jsonfile.replacing_file(out) as part, open(part, "wb") as handle:
        known = labels if labels is not None else np.empty(0, np.int64)
        np.savez(handle, scores=scores, labels=known, sha256=np.array(about["sha256"]))
    return {
        "top1": top(scores, labels, 1),
        "top5": top(scores, labels, 5) if scores.shape[1] > 5 else None,
        "n": len(scores),
        "dataset": about,
        "classes": list(dataset.classes),
        "class_count": scores.shape[1],
        "batch": batch,
        "batches": checks,
        "predictions": out,
    }


def _name(spec: RunnerSpec) -> str:
    path = Path(spec.path)
    inside = path.stem == "model" and spec.kind == "onnx"  # an engine file is told by its bundle or stage
    words = [re.sub(r"-[0-9a-f]{16}$", "", path.parent.name) if inside else path.name, spec.form]
    return " ".join(word for word in words if word)


def _bound(runner: Runner, batch: int) -> Tuple[Query, npt.NDArray[Any]]:
    """A query of `batch` images and the host array that feeds it."""
    if len(runner.inputs) != 1 or len(runner.inputs[0].shape) != 4:
        raise UsageError(f"{_name(runner.spec)} is no classifier with one image input", "--task tensors")
    tensor = runner.inputs[0]
    if any(n is None for n in tensor.shape[1:]):
        raise UsageError(f"the input of {_name(runner.spec)} has free sizes", "--input-shape, such as 224x224x3")
    feed: npt.NDArray[Any] = np.zeros((batch, *[int(n or 0) for n in tensor.shape[1:]]), tensor.dtype)
    return runner.bind({tensor.name: feed}), feed


def _scores(
    runner: Runner, dataset: Any, preprocess: Optional[Dict[str, Any]], batch: int, progress: Progress
) -> npt.NDArray[Any]:
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    query, feed = _bound(runner, batch)
    layout = runner.spec.layout or "NHWC"
    size = (feed.shape[1], feed.shape[2]) if layout == "NHWC" else (feed.shape[2], feed.shape[3])
    pre = Preprocess.from_json(preprocess or runner.spec.preprocess or {})
    name = runner.outputs[0].name
    parts: List[npt.NDArray[Any]] = []
    for images, _ in batches(dataset, pre, layout, size, batch, progress):
        feed[: len(images)] = images
        feed[len(images) :] = 0
        parts.append(np.array(query()[name][: len(images)], np.float32).reshape(len(images), -1))
    return np.concatenate(parts)


class _First:
    """The first images of a data set, with what `calib.feeds.batches` asks of one."""

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset, self.labels, self.count = dataset, None, min(count, len(dataset))

    def __len__(self) -> int:
        return self.count

    def images(self, indices: Any) -> Any:
        return self.dataset.images(indices)


def _check_batch(
    runner: Runner, dataset: Any, preprocess: Optional[Dict[str, Any]], batch: int, scores: npt.NDArray[Any]
) -> Dict[str, Any]:
    first = _scores(runner, _First(dataset, CHECKED), preprocess, batch, quiet)
    same = predictions(first) == predictions(scores[: len(first)])
    return {"batch": batch, "n": len(first), "agreement": float(same.mean())}


def _check_labels(labels: Optional[npt.NDArray[Any]], classes: int, data: str) -> None:
    if labels is not None and len(labels) and labels.max() >= classes:
        raise DataError(
            f"{data}: labels up to {int(labels.max())}, the model has {classes} classes",
            "give the data it was trained on",
        )


def predictions(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Class of the largest score of each image, int64; -1, which no label is, where a score is not finite."""
    finite = np.isfinite(scores).all(axis=1)
    return np.where(finite, scores.argmax(axis=1), -1)


def top(scores: npt.NDArray[Any], labels: Optional[npt.NDArray[Any]], k: int) -> Optional[float]:
    """Share of images whose label is among the `k` largest scores; None without labels.

    Of equal scores the first class wins, as in `argmax`. An image with a score that is not finite counts as wrong.
    """
    if labels is None or len(labels) == 0:
        return None
    return float(among(scores, labels, k).mean())


def among(scores: npt.NDArray[Any], labels: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    """Of each image, whether its label is among the `k` largest scores: bool, see `top`."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1) & np.isfinite(scores).all(axis=1)


def compare(reference: Path, candidate: Path, classes: Sequence[str] = ()) -> Dict[str, Any]:
    """Two results of `evaluate` on the same images.

    Args:
        reference: Scores of the original.
        candidate: Scores of the engine.
        classes: Names by label.

    Returns:
        `agreement` (share of images with the same first class) and its `agreement_interval` (95%), `max_abs` (largest
        difference of scores); without labels None, else: `top1_drop` (points of 100) and `drop_interval` (95%),
        `lost` and `won` (images that only the original, only the engine is right on), `mcnemar_p`, `top5_drop` and
        `top5_drop_interval` (None below six classes), `worst_classes` (see `bench.paired`).

    Raises:
        DataError: They are not of the same images, or the original's scores are not finite.
    """
    with np.load(reference, allow_pickle=False) as a, np.load(candidate, allow_pickle=False) as b:
        before, after, labels = a["scores"], b["scores"], b["labels"]
        same = before.shape == after.shape and a["sha256"] == b["sha256"] and np.array_equal(a["labels"], labels)
        if not same:
            raise DataError("the two results are not of the same images", "measure both on the same --data")
    broken = int((~np.isfinite(before)).any(axis=1).sum())
    if broken:
        raise DataError(
            f"the original gives scores that are not finite numbers on {broken} of {len(before)} images",
            "check --preprocess and the model; `optimize calibrate ONNX --data ...` names the first tensor with NaN",
        )
    first, second = predictions(before), predictions(after)
    largest = float(np.abs(before - after).max())
    found: Dict[str, Any] = {
        "agreement": float((first == second).mean()),
        "agreement_interval": paired.wilson(int((first == second).sum()), len(first)),
        "max_abs": largest if math.isfinite(largest) else _LARGEST,
        **dict.fromkeys(_LABELLED),
    }
    if len(labels):
        right, still = first == labels, second == labels
        found["top1_drop"], found["drop_interval"] = paired.drop(right, still)
        found["lost"], found["won"] = paired.discordant(right, still)
        found["mcnemar_p"] = paired.mcnemar(found["lost"], found["won"])
        found["worst_classes"] = paired.worst_classes(right, still, labels, classes)
        if before.shape[1] > 5:
            five = among(before, labels, 5), among(after, labels, 5)
            found["top5_drop"], found["top5_drop_interval"] = paired.drop(*five)
    return found


def choose_preprocess(
    spec: Dict[str, Any],
    data: str,
    candidates: Sequence[str] = CANDIDATES,
    n: int = 512,
    seed: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Which preprocessing a classifier was trained on, by its accuracy on training images: a stage for a child process.

    The test images are not looked at: what is chosen here must not flatter what is measured there.

    Returns:
        `preprocess` (the best candidate; the first where there are no labels), `accuracies` by candidate, and `doubt`:
        in words why the best may not be the one, or empty.
    """
    import engines
    from calib.datasets import open_dataset
    from calib.preprocess import parse

    dataset = open_dataset(data, "calibration", n, seed, labelled=False, progress=progress)
    if dataset.labels is None:
        return {"preprocess": candidates[0], "accuracies": {}, "doubt": ""}
    right: Dict[str, npt.NDArray[Any]] = {}
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        for done, text in enumerate(candidates):
            progress("which preprocessing fits", done, len(candidates))
            fixed = (runner.inputs[0].shape or (None,))[0]
            try:
                scores = _scores(runner, dataset, parse(text).to_json(), fixed or min(64, len(dataset)), quiet)
            except DataError:
                if not right:
                    raise
                continue  # such as three means for images of one channel: not what it was trained on
            _check_labels(dataset.labels, scores.shape[1], data)
            right[text] = predictions(scores) == dataset.labels
    found = {text: float(one.mean()) for text, one in right.items()}
    best = max(found, key=lambda text: found[text])
    return {"preprocess": best, "accuracies": found, "doubt": _doubt(best, right, scores.shape[1])}


def _doubt(best: str, right: Dict[str, npt.NDArray[Any]], classes: int) -> str:
    """Why the best preprocessing may not be the one that a model was trained on; empty where it stands out.

    Args:
        best: The one with the most right answers.
        right: bool, shape (images,), by preprocessing: the answer is right.
        classes: Of the model.
    """
    count = len(right[best])
    close = [text for text, one in right.items() if text != best and paired.drop(right[best], one)[1][0] <= 0]
    told = ", ".join(f"{text} {100 * right[text].mean():.1f}%" for text in (best, *close))
    if classes > 1 and paired.by_chance(float(right[best].mean()), count, classes):
        return f"no preprocessing that was tried is right more often than guessing on {count} training images ({told})"
    if close:
        return f"the preprocessing is not told apart by {count} training images ({told})"
    return ""
