"""What every exporter hands over: a graph as the framework's converter wrote it, and the source's own boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

from engines.spec import TensorSpec


@dataclass(frozen=True)
class Traced:
    """A converted model before the clean-up.

    Attributes:
        model: The ModelProto; its inputs and outputs are in the order of the two below, whatever they are called.
        inputs, outputs: The source's own names, shapes and dtypes.
        layout: NHWC or NCHW of the source's image input; empty where it has none.
    """

    model: Any
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    layout: str
