"""Keras models to ONNX: every layer in float32, whatever policy the model was trained under."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Union

from engines import tensors
from engines.spec import Progress, RunnerSpec, quiet
from optimize.exporters.tensorflow import convert
from optimize.exporters.traced import Traced


def trace(spec: RunnerSpec, opset: int, batch: Union[str, int], progress: Progress = quiet) -> Traced:
    """Convert a Keras file, through a traced function: tf2onnx's own reader of Keras models does not know Keras 3.

    Raises:
        ModelError, UsageError, IncompatibleError: See `engines.keras.load_model` and `boundary`; or tf2onnx has no
            ONNX for a layer.
    """
    from engines import keras

    spec = spec.with_(policy="float32", form="")
    progress("loading the model", 0, 0)
    model = keras.load_model(spec)
    inputs, outputs = keras.boundary(model, spec)

    def forward(*given: Any) -> List[Any]:
        result = model(keras.feed(model, list(given), inputs), training=False)
        return [tensor for _, tensor in tensors.flat(result)]

    with keras.tracing(model):
        converted = convert(forward, inputs, opset, batch, Path(spec.path).name, progress)
    return Traced(converted, inputs, outputs, spec.layout or tensors.layout(inputs[0].shape, "NHWC"))
