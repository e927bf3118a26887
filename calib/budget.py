"""How many images are worth what they cost: for the ranges, for the choice between methods, for one run."""

from __future__ import annotations

from typing import Any, Iterator, Sequence

import numpy as np

from calib import graph as graphs
from calib.holdout import ImageInput
from calib.placement import Placement

HOLDOUT = (16, 256)
"""Images that choose between the methods, at least and at most; none of them is among those that gave the ranges."""

_CHOOSING = 20e9
"""Multiply-accumulates of one method on the hold-out images: to choose must not cost more than to measure the ranges.
ResNets of 32x32 images with a pooled stem have 256 images, a ResNet-50 of 224x224 has 16."""

_PAUSE = 5
"""Images of the first pause, for each of the hold-out: so many cost as much as choosing between the methods."""

_BATCH_BYTES = 16 << 20
"""Activations of one batch, bytes; two batches are kept at once."""

_BATCH = 32


def holdout_images(view: graphs.Graph, place: Placement) -> int:
    """How many images choose between the methods: fewer where each costs more, so that the choice stays affordable."""
    macs = sum(view.multiplications(weight.edge.node) for weight in place.weights)
    least, most = HOLDOUT
    return max(least, min(most, int(_CHOOSING / max(macs, 1))))


def pauses(images: int, holdout: int, batch: int) -> Iterator[int]:
    """Numbers of images after which the pass pauses, in whole batches, each twice the one before; the last is all.

    From the second on it asks whether they were better than half of them. Where images are cheap beside the choice
    between the methods there is only the last.
    """
    stop = -(-_PAUSE * holdout // batch) * batch
    while stop < images:
        yield stop
        stop *= 2
    yield images


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
