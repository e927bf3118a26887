"""From a TensorFlow function to ONNX with tf2onnx; SavedModel folders by their serving signature."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from engines.errors import IncompatibleError, ModelError
from engines.spec import Progress, RunnerSpec, TensorSpec, quiet
from engines.tensors import layout
from optimize.exporters.traced import Traced


def trace(spec: RunnerSpec, opset: int, batch: Union[str, int], progress: Progress = quiet) -> Traced:
    """Convert a SavedModel.

    Raises:
        ModelError: It cannot be loaded or converted, or its signature is fixed to another batch.
        UsageError: Its input's size is free and was not given.
        IncompatibleError: TensorFlow or tf2onnx is missing.
    """
    from engines.tensorflow import boundary, load_signature

    progress("loading the model", 0, 0)
    loaded, signature = load_signature(spec)
    inputs, outputs = boundary(signature, spec)
    fixed = inputs[0].shape[0]
    name = Path(spec.path).name
    if fixed is not None and fixed != batch:
        raise ModelError(
            f"{name} was saved for batch {fixed}, {'a free one' if batch == 'dynamic' else batch} was asked for",
            f"--batch {fixed}, or save it with a free batch",
        )

    def forward(*given: Any) -> List[Any]:
        found = signature(**{tensor.name: value for tensor, value in zip(inputs, given)})
        return [found[tensor.name] for tensor in outputs]

    model = convert(forward, inputs, opset, batch, name, progress)
    del loaded
    return Traced(model, inputs, outputs, spec.layout or layout(inputs[0].shape, "NHWC"))


def convert(
    forward: Callable[..., List[Any]],
    inputs: Sequence[TensorSpec],
    opset: int,
    batch: Union[str, int],
    name: str,
    progress: Progress = quiet,
) -> Any:
    """Trace a function of tensors that returns a list of tensors, and convert it.

    Args:
        forward: Called with one tensor for each of `inputs`.
        inputs: Their shapes, batch first, and dtypes.
        opset: Of the result.
        batch: `dynamic`, or a number.
        name: Of the model, for messages.
        progress: Told the steps.

    Returns:
        A ModelProto with inputs and outputs in the function's order.

    Raises:
        ModelError: tf2onnx has no ONNX for an operator.
        IncompatibleError: tf2onnx is missing.
    """
    import tensorflow as tf
    from onnx import numpy_helper

    try:
        import tf2onnx
    except ImportError as error:
        raise IncompatibleError(f"tf2onnx is needed to export {name}: {error}", "pip install tf2onnx") from None
    size: Optional[int] = None if batch == "dynamic" else int(batch)
    signature = [tf.TensorSpec((size, *t.shape[1:]), t.dtype, name=f"input_{i}") for i, t in enumerate(inputs)]
    progress("converting to ONNX", 0, 0)
    heard = _Heard()
    logger = logging.getLogger("tf2onnx.tfonnx")
    logger.addHandler(heard)
    try:
        function = tf.function(forward, input_signature=signature)
        captured = _captured(function.get_concrete_function())
        model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=opset)
    except Exception as error:  # tf2onnx and the model's own code raise every class there is
        text = heard.text or f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise ModelError(f"{name} cannot be converted to ONNX: {text}") from error
    finally:
        logger.removeHandler(heard)
    order = {f"input_{i}": i for i in range(len(inputs))}
    items = []
    for item in sorted(model.graph.input, key=lambda item: order.get(item.name.split(":")[0], len(order))):
        value = captured.get(item.name.split(":")[0])
        if value is None:
            items.append(item)
        else:
            model.graph.initializer.append(numpy_helper.from_array(value, item.name))
    del model.graph.input[:]
    model.graph.input.extend(items)
    return model


def _captured(concrete: Any) -> Dict[str, Any]:
    """Values, by placeholder, of the tensors that a traced function holds besides its variables.

    A Keras Normalization layer keeps its mean so; tf2onnx makes variables constant, and inputs of these.
    """
    inner = concrete.inputs[len(concrete.inputs) - len(concrete.captured_inputs) :]
    return {
        inside.name.split(":")[0]: outside.numpy()
        for inside, outside in zip(inner, concrete.captured_inputs)
        if outside.dtype.name not in ("resource", "variant") and hasattr(outside, "numpy")
    }


class _Heard(logging.Handler):
    """Keeps what tf2onnx complains of: it logs the operators that it lacks, and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or " ".join(record.getMessage().split())[:400]
