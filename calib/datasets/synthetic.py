"""A labelled set that needs no download: ten kinds of shapes, drawn with jitter, colours and noise.

Small CNNs learn it well within minutes, but not by one pixel or one colour: colours tell nothing, a second faint shape
distracts, and noise hides edges. It is always called synthetic; nothing about real photographs follows from it.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Tuple

import numpy as np
import numpy.typing as npt

from calib.datasets.base import Indices, Source

CLASSES = ("disc", "ring", "square", "triangle", "plus", "bar", "dots", "half", "checker", "stripes")

TRAIN, TEST = 10000, 2000

_SIDE = 32
_CHUNK = 1000
_SEED = 20120


def _disc(u: Any, v: Any) -> Any:
    return u * u + v * v < 0.8


def _ring(u: Any, v: Any) -> Any:
    r = u * u + v * v
    return (r < 1.0) & (r > 0.35)


def _square(u: Any, v: Any) -> Any:
    return np.maximum(abs(u), abs(v)) < 0.8


def _triangle(u: Any, v: Any) -> Any:
    return (v < 0.75) & (v > 2 * abs(u) - 1.0)


def _plus(u: Any, v: Any) -> Any:
    return (np.minimum(abs(u), abs(v)) < 0.28) & (np.maximum(abs(u), abs(v)) < 1.0)


def _bar(u: Any, v: Any) -> Any:
    return (abs(u) < 1.1) & (abs(v) < 0.35)


def _dots(u: Any, v: Any) -> Any:
    return (abs(u) - 0.65) ** 2 + v * v < 0.2


def _half(u: Any, v: Any) -> Any:
    return (u * u + v * v < 1.2) & (v > 0)


def _checker(u: Any, v: Any) -> Any:
    return (np.maximum(abs(u), abs(v)) < 0.95) & (u * v > 0)


def _stripes(u: Any, v: Any) -> Any:
    return (np.maximum(abs(u), abs(v)) < 1.0) & (np.floor(v * 2.5 + 0.5) % 2 == 0)


_SHAPES: Tuple[Callable[[Any, Any], Any], ...] = (
    _disc,
    _ring,
    _square,
    _triangle,
    _plus,
    _bar,
    _dots,
    _half,
    _checker,
    _stripes,
)
"""Whether a point belongs to the shape of a class; a unit is its scale in pixels."""


def _labels(n: int, seed: int) -> npt.NDArray[Any]:
    labels: npt.NDArray[Any] = np.arange(n, dtype=np.int64) % len(CLASSES)
    np.random.Generator(np.random.PCG64(seed)).shuffle(labels)
    return labels


def _uniform(rng: np.random.Generator, n: int, low: float, high: float) -> npt.NDArray[Any]:
    return (low + (high - low) * rng.random(n, np.float32)).astype(np.float32)[:, None, None]


def _masks(rng: np.random.Generator, labels: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[Any]:
    """Where each image's shape is: bool (n, 32, 32), scales from `low` to `high` pixels, turned by up to 40 degrees."""
    n = len(labels)
    scale, angle = _uniform(rng, n, low, high), _uniform(rng, n, -0.7, 0.7)
    free = _SIDE / 2 - scale
    row = _SIDE / 2 + free * _uniform(rng, n, -0.9, 0.9)
    column = _SIDE / 2 + free * _uniform(rng, n, -0.9, 0.9)
    pixels = np.arange(_SIDE, dtype=np.float32) + np.float32(0.5)
    y, x = (pixels[None, :, None] - row) / scale, (pixels[None, None, :] - column) / scale
    sine, cosine = np.sin(angle), np.cos(angle)
    masks: npt.NDArray[Any] = np.empty((n, _SIDE, _SIDE), bool)
    for label, inside in enumerate(_SHAPES):
        here = labels == label
        u = cosine[here] * x[here] + sine[here] * y[here]
        v = cosine[here] * y[here] - sine[here] * x[here]
        masks[here] = inside(u, v)
    return masks


def _draw(labels: npt.NDArray[Any], seed: int) -> npt.NDArray[Any]:
    """Images of these classes: uint8 (n, 32, 32, 3)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    n = len(labels)
    back = rng.integers(0, 256, (n, 1, 1, 3)).astype(np.float32)
    # The shape's colour lies 70 to 130 away in every channel, to the side where there is room.
    away = rng.integers(70, 131, (n, 1, 1, 3)).astype(np.float32)
    front = np.where(back < 128, back + away, back - away)
    faint = back + rng.integers(-60, 61, (n, 1, 1, 3)).astype(np.float32)
    distractor = _masks(rng, rng.integers(0, len(CLASSES), n), 3.0, 6.0)
    shape = _masks(rng, labels, 6.0, 12.0)
    images = np.where(distractor[..., None], faint, back)
    images = np.where(shape[..., None], front, images)
    # A triangular distribution of standard deviation 26 out of integers: the same bytes on every machine.
    noise = rng.integers(0, 256, images.shape, np.uint8).astype(np.int16) - rng.integers(0, 256, images.shape, np.uint8)
    images += noise // 4
    return np.clip(images, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=2)
def _part(n: int, seed: int) -> npt.NDArray[Any]:
    labels = _labels(n, seed)
    parts = [_draw(labels[start : start + _CHUNK], seed + 1 + start) for start in range(0, n, _CHUNK)]
    made = np.concatenate(parts)
    made.setflags(write=False)
    return made


class Synthetic(Source):
    """10,000 training and 2,000 test images, uint8 32x32, always the same ones; drawn when first asked for."""

    name = "synthetic-10"
    classes = CLASSES

    def __init__(self) -> None:
        self.labels = np.concatenate([_labels(TRAIN, _SEED), _labels(TEST, _SEED + TRAIN + 1)])
        self.train = np.arange(TRAIN)
        self.test = np.arange(TRAIN, TRAIN + TEST)

    def __len__(self) -> int:
        return TRAIN + TEST

    def images(self, indices: Indices) -> npt.NDArray[Any]:
        """uint8 of shape (N, 32, 32, 3)."""
        wanted: npt.NDArray[Any] = np.asarray(indices, np.int64)
        out = np.empty((len(wanted), _SIDE, _SIDE, 3), np.uint8)
        tested = wanted >= TRAIN
        if not tested.all():
            out[~tested] = _part(TRAIN, _SEED)[wanted[~tested]]
        if tested.any():
            out[tested] = _part(TEST, _SEED + TRAIN + 1)[wanted[tested] - TRAIN]
        return out
