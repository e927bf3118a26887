"""How close a candidate's outputs are to those of FP32: what chooses between calibration methods."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

Scores = List[npt.NDArray[Any]]
"""A model's outputs in order, batch first, float32, all images concatenated."""


class Agreement(NamedTuple):
    """How a candidate compares with FP32 on the hold-out images.

    Attributes:
        agreement: Share of images with the same first class; for tensors, the mean cosine over outputs and images.
        error: Mean absolute difference of the outputs.
        top1: Share of right classes, None without labels or for tensors.
    """

    agreement: float
    error: float
    top1: Optional[float]


def choose(results: Sequence[Tuple[T, Agreement]]) -> T:
    """The candidate of best agreement; among equals the smaller error, then the first."""
    return max(results, key=lambda item: (item[1].agreement, -item[1].error))[0]


def compare(
    reference: Scores, scores: Scores, labels: Optional[npt.NDArray[Any]] = None, task: str = "classify"
) -> Agreement:
    """Agreement of scores with those of FP32.

    Args:
        reference: Outputs of FP32, batch first, in order.
        scores: The candidate's, of the same shapes.
        labels: int64, shape (images,), or None.
        task: classify compares the first output's largest entry; tensors the direction of every output.
    """
    errors = [float(np.abs(a.astype(np.float64) - b).mean()) for a, b in zip(reference, scores)]
    error = float(np.mean(errors)) if np.isfinite(errors).all() else float(np.finfo(np.float32).max)
    if task == "classify":
        right, ours = (values[0].reshape(len(values[0]), -1).argmax(axis=1) for values in (reference, scores))
        top1 = None if labels is None else float((ours == labels).mean())
        return Agreement(float((right == ours).mean()), error, top1)
    cosines = [_cosine(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in zip(reference, scores)]
    return Agreement(float(np.mean(cosines)), error, None)


def _cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Mean cosine of rows; 1 where both are zero, 0 where one is or an entry is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product, dot = norms[0] * norms[1], (a * b).sum(axis=1)
    equal = ((norms[0] == 0) & (norms[1] == 0)).astype(np.float64)
    cosine = np.divide(dot, product, out=equal, where=product > 0)
    return float(np.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0).mean())
