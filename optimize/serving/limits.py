"""The largest request that a served model can answer, in each of the forms that requests have."""

from __future__ import annotations

from typing import Iterable

import numpy as np

from engines.spec import TensorSpec
from optimize.serving.models import Model

SLACK = 1 << 20
"""Bytes of a request beside its tensors."""

TEXT = 32
"""Bytes of a number: the longest float64 of JSON has 24 characters, beside commas and brackets; a varint of gRPC 10."""


def raw(model: Model) -> int:
    """Bytes of a request whose tensors are raw."""
    return model.batcher.most * sum(_numbers(one) * np.dtype(one.dtype).itemsize for one in model.inputs) + SLACK


def text(model: Model) -> int:
    """Bytes of a request whose numbers are JSON."""
    return model.batcher.most * TEXT * sum(map(_numbers, model.inputs)) + SLACK


def message(models: Iterable[Model]) -> int:
    """Bytes of a gRPC message, request or answer, of any of some models; at most what gRPC can be told."""
    found = [TEXT * model.batcher.most * sum(map(_numbers, side)) for model in models for side in _sides(model)]
    return min(max(found) + SLACK, (1 << 31) - 1)


def _sides(model: Model) -> Iterable[Iterable[TensorSpec]]:
    return model.inputs, model.outputs


def _numbers(tensor: TensorSpec) -> int:
    """Of one sample."""
    return int(np.prod([size or 1 for size in tensor.shape[1:]], dtype=np.int64))
