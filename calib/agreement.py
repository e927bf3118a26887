"""How close a candidate's outputs are to those of FP32: what chooses between calibration methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

Scores = List[npt.NDArray[Any]]
"""A model's outputs in order, batch first, float32."""


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


@dataclass(frozen=True)
class PerImage:
    """The same for every image, in order.

    Attributes:
        agreement, error: float64, shape (images,).
        right: bool, shape (images,), or None.
    """

    agreement: npt.NDArray[Any]
    error: npt.NDArray[Any]
    right: Optional[npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.agreement)

    def part(self, start: int, stop: Optional[int] = None) -> PerImage:
        """Those of some images, as of a slice."""
        right = None if self.right is None else self.right[start:stop]
        return PerImage(self.agreement[start:stop], self.error[start:stop], right)

    def mean(self) -> Agreement:
        """The figures of all images together."""
        top1 = None if self.right is None else float(self.right.mean())
        return Agreement(float(self.agreement.mean()), float(self.error.mean()), top1)


def join(parts: Sequence[PerImage]) -> PerImage:
    """The images of all parts, one part behind the other."""
    right = [one.right for one in parts if one.right is not None]
    return PerImage(
        np.concatenate([one.agreement for one in parts]),
        np.concatenate([one.error for one in parts]),
        np.concatenate(right) if right else None,
    )


def per_image(
    reference: Scores, scores: Scores, labels: Optional[npt.NDArray[Any]] = None, task: str = "classify"
) -> PerImage:
    """Agreement of scores with those of FP32, image by image; arguments as of `compare`."""
    rows = [[value.reshape(len(value), -1) for value in values] for values in (reference, scores)]
    pairs = list(zip(*rows))
    errors = np.mean([np.abs(a.astype(np.float64) - b).mean(axis=1) for a, b in pairs], axis=0)
    errors = np.where(np.isfinite(errors), errors, np.finfo(np.float32).max)
    if task == "classify":
        right, ours = (values[0].argmax(axis=1) for values in rows)
        return PerImage((right == ours).astype(np.float64), errors, None if labels is None else ours == labels)
    return PerImage(np.mean([_cosines(a, b) for a, b in pairs], axis=0), errors, None)


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
    return per_image(reference, scores, labels, task).mean()


def _cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cosine of rows; 1 where both are zero, 0 where one is or an entry is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    product, dot = norms[0] * norms[1], (a * b).sum(axis=1)
    equal = ((norms[0] == 0) & (norms[1] == 0)).astype(np.float64)
    cosine = np.divide(dot, product, out=equal, where=product > 0)
    found: npt.NDArray[Any] = np.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0)
    return found
