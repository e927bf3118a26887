"""Train a zoo model in Keras on a small budget: a stage for a child process."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calib.datasets import Dataset, open_dataset
from engines.errors import DataError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize import zoo
from optimize.zoo.keras_resnet import build
from optimize.zoo.make import installed_keras, save_keras
from optimize.zoo.shapes import find

_WARMUP = 0.1
"""Part of the steps in which the learning rate rises to its peak; then it falls as a cosine to 0 (SGDR, 2016)."""

_DECAY = 5e-4
"""Weight decay of kernels per unit of learning rate, the usual one for CIFAR."""

_DECAY_EVERY = 8

_MOMENTUM = 0.9

_SHIFT = 4
"""Images move by up to so many pixels of 32, and are mirrored half the time: the usual augmentation for CIFAR."""

_MEASURED = 2000
"""Test images on which the top-1 accuracy is told after each epoch; `optimize bench --data` measures it on all."""


def train(
    name: str,
    data: str,
    epochs: int,
    batch: int,
    out: str,
    stem: str = "imagenet",
    lr: Optional[float] = None,
    images: Optional[int] = None,
    seed: int = 0,
    size: Optional[int] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Train a model from random weights with SGD, float32, on images scaled to 0..1 (`--preprocess unit`).

    Args:
        name: One of `shapes.NAMES`.
        data: Data set reference.
        epochs: Passes over the images.
        batch: Images a step.
        out: Folder of the file `<name>_<data>_bs<batch>_epochs<epochs>.keras`.
        stem: imagenet or cifar.
        lr: Peak learning rate; by default 0.05 at batch 64, in proportion.
        images: Train on that many, balanced by label; None means all.
        seed: Of weights, order and augmentation.
        size: Height and width that images are brought to, pixels; by default that of the first image.
        progress: Told of every step, and of every epoch in a line.

    Returns:
        `path`, `top1` (fraction, on `test_images` test images that the training does not see; None without labels),
        `loss` (mean of the last epoch), `images`, `epochs`, `seconds`, and `history`: of each `epoch` its `loss`,
        `train_top1` (of the augmented images, as the weights were at each step) and `test_top1`.

    Raises:
        UsageError: No such model, data or option out of range.
        DataError: The data has no labels, or too few images.
    """
    find(name, stem)
    if epochs < 1 or batch < 1 or (images is not None and images < 1):
        raise UsageError("--epochs, --batch and --images are 1 or more")
    started = time.monotonic()
    source = open_dataset(data, "train", images, seed, progress=progress)
    if source.labels is None:
        raise DataError(f"{data}: training needs labels")
    if len(source) < batch:
        raise DataError(f"{data}: {len(source)} training images are fewer than a batch of {batch}", "use --batch")
    side = size or int(np.asarray(source.images([0])[0]).shape[0])
    classes = len(source.classes) or int(source.labels.max()) + 1

    keras = installed_keras()
    keras.utils.set_random_seed(seed)
    model = build(keras, name, stem, classes, side, quiet_blocks=True)
    step = _step(keras, model, lr or 0.05 * batch / 64)
    random = np.random.default_rng(seed)
    each = len(source) // batch
    steps = epochs * each
    losses: List[float] = []
    right = 0
    measure = _measuring(model, data, side, seed)
    history: List[Dict[str, Any]] = []
    for number, (pixels, labels) in enumerate(_batches(source, batch, epochs, side, random), 1):
        loss, hits = step(pixels, labels, schedule(number / steps), number - 1)
        losses.append(float(loss))
        right += int(hits)
        if not math.isfinite(losses[-1]):
            raise DataError(f"{name}: the training diverged at step {number}", "try a smaller --lr or other data")
        progress(f"training {name} for {epochs} epochs", number, steps)
        if number % each == 0:
            top1, tested = measure()
            told = {"loss": float(np.mean(losses[-each:])), "train_top1": right / (each * batch), "test_top1": top1}
            history.append({"epoch": number // each, **told})
            progress(_line(history[-1], epochs, tested), number // each, A_LINE)
            right = 0
    path = Path(out) / zoo.file_name(name, data, batch, epochs)
    save_keras(model, path)
    return {
        "path": str(path),
        "top1": history[-1]["test_top1"],
        "test_images": tested,
        "loss": history[-1]["loss"],
        "history": history,
        "images": len(source),
        "epochs": epochs,
        "seconds": round(time.monotonic() - started, 1),
    }


def _line(told: Dict[str, Any], epochs: int, tested: int) -> str:
    """An epoch for a reader."""
    held_out = ""
    if told["test_top1"] is not None:
        held_out = f", {100 * told['test_top1']:.2f}% of {tested:,} test images"
    top1 = f"top-1 {100 * told['train_top1']:.2f}% in training{held_out}"
    return f"epoch {told['epoch']} of {epochs}: loss {told['loss']:.3f}, {top1}"


def schedule(done: float) -> float:
    """The learning rate as a fraction of its peak: a linear rise, then a cosine to 0.

    Args:
        done: Part of the training that is done, 0 to 1.
    """
    if done < _WARMUP:
        return done / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARMUP) / (1 - _WARMUP))))


def augmented(pixels: npt.NDArray[Any], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Mirror half of the images and shift each, the gap filled with black; scale to 0..1.

    Args:
        pixels: (N, H, W, 3) uint8.
        random: Source of the choices.

    Returns:
        (N, H, W, 3) float32.
    """
    n, height, width, _ = pixels.shape
    reach = max(1, _SHIFT * height // 32)
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    tops, lefts = random.integers(0, 2 * reach + 1, (2, n))
    mirrored = random.random(n) < 0.5
    out = np.empty(pixels.shape, np.float32)
    for i in range(n):
        image = padded[i, tops[i] : tops[i] + height, lefts[i] : lefts[i] + width]
        out[i] = image[:, ::-1] if mirrored[i] else image
    return out / np.float32(255)


def _pixels(source: Dataset, indices: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Images as (N, side, side, 3) uint8; others than that size are resized."""
    from PIL import Image

    found = [np.asarray(image) for image in source.images(indices)]
    return np.stack(
        [
            i
            if i.shape[:2] == (side, side)
            else np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BILINEAR))
            for i in found
        ]
    )


def _batches(
    source: Dataset, batch: int, epochs: int, side: int, random: np.random.Generator
) -> Iterator[Tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    assert source.labels is not None
    for _ in range(epochs):
        order = random.permutation(len(source))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            yield augmented(_pixels(source, chosen, side), random), source.labels[chosen]


def _step(keras: Any, model: Any, peak: float) -> Any:
    """A compiled training step: (images, labels, fraction of the peak learning rate, step number) to loss and hits.

    SGD with Nesterov momentum in one fused pass over each variable: with 21 million of them, the optimizer's separate
    operations would take a fifth of a step on a CPU. The decoupled weight decay (Loshchilov and Hutter, 2017) comes
    every `_DECAY_EVERY` steps, that much stronger, for the same reason.
    """
    import tensorflow as tf

    loss_of = keras.losses.SparseCategoricalCrossentropy()
    variables = [v if callable(v.value) else v.value for v in model.trainable_variables]  # Keras 3 wraps TensorFlow's
    speeds = [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]

    def forward_and_back(images: Any, labels: Any, rate: Any) -> Any:
        with tf.GradientTape() as tape:
            scores = model(images, training=True)
            loss = loss_of(labels, scores)
        for variable, speed, gradient in zip(variables, speeds, tape.gradient(loss, variables)):
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle, accum=speed.handle, lr=rate, grad=gradient, momentum=_MOMENTUM, use_nesterov=True
            )
        return loss, tf.reduce_sum(tf.cast(tf.argmax(scores, 1) == tf.cast(labels, tf.int64), tf.int32))

    def shrink(part: Any) -> None:
        for variable in variables:
            if len(variable.shape) > 1:
                variable.assign_sub(part * variable)

    learn, decay = tf.function(forward_and_back), tf.function(shrink)

    def step(images: npt.NDArray[Any], labels: npt.NDArray[Any], fraction: float, number: int) -> Any:
        rate = peak * fraction
        if number % _DECAY_EVERY == 0:
            decay(tf.constant(_DECAY_EVERY * rate * _DECAY, tf.float32))
        return learn(tf.constant(images), tf.constant(labels), tf.constant(rate, tf.float32))

    return step


def _measuring(model: Any, data: str, side: int, seed: int) -> Callable[[], Tuple[Optional[float], int]]:
    """A function that measures the top-1 accuracy as the model is: fraction (None without labels) and images."""
    import tensorflow as tf

    tests = open_dataset(data, "test", None, seed)
    count = min(len(tests), _MEASURED)
    chosen = np.random.default_rng(seed).permutation(len(tests))[:count]
    forward = tf.function(lambda x: model(x, training=False))

    def measure() -> Tuple[Optional[float], int]:
        if tests.labels is None or count == 0:
            return None, 0
        right = 0
        for start in range(0, count, 64):
            part = chosen[start : start + 64]
            scores = forward(tf.constant(_pixels(tests, part, side) / np.float32(255))).numpy()
            right += int((scores.argmax(1) == tests.labels[part]).sum())
        return right / count, count

    return measure
