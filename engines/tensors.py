"""What the frameworks share at the boundary: checked feeds, named outputs, the layout of an image input."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from engines.errors import UsageError
from engines.spec import Feeds, TensorSpec

_CHANNELS = (1, 3, 4)

PRECISIONS = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "int8": "int8",
    "uint8": "int8",
}
"""What a layer computes in, in the words of `Runner.achieved`, by the type of its tensors."""


def layout(shape: Sequence[Optional[int]], default: str = "") -> str:
    """NHWC or NCHW of an image input, from where its 1, 3 or 4 channels stand; `default` where both or none fit.

    Args:
        shape: With the batch first.
        default: What the framework prefers; empty for inputs that are no images.
    """
    if len(shape) != 4:
        return ""
    last, first = shape[3] in _CHANNELS, shape[1] in _CHANNELS
    return "NHWC" if last and not first else "NCHW" if first and not last else default


def checked(inputs: Sequence[TensorSpec], feeds: Feeds) -> List[np.ndarray[Any, Any]]:
    """The arrays of `feeds` in the order of `inputs`, after checking them; the same arrays, not copies.

    Raises:
        UsageError: A wrong name, shape, dtype or memory order, batches that differ, or nothing to run.
    """
    known = [tensor.name for tensor in inputs]
    if set(feeds) != set(known):
        raise UsageError(f"the model takes {', '.join(known)}; {', '.join(sorted(feeds)) or 'nothing'} was given")
    arrays = []
    for tensor in inputs:
        array = feeds[tensor.name]
        fits = len(array.shape) == len(tensor.shape) and all(
            want is None or want == got for want, got in zip(tensor.shape, array.shape)
        )
        if not fits:
            raise UsageError(f"{tensor.name} has the shape {text(tensor.shape)}; {text(array.shape)} was given")
        if array.dtype.name != tensor.dtype:
            raise UsageError(f"{tensor.name} is {tensor.dtype}; {array.dtype.name} was given")
        if not array.flags.c_contiguous:
            raise UsageError(f"{tensor.name}: a C-contiguous array is expected")
        arrays.append(array)
    batches = {array.shape[0] for array in arrays if array.shape}
    if len(batches) > 1:
        raise UsageError(f"the inputs have different batch sizes: {sorted(batches)}")
    if any(0 in array.shape for array in arrays):
        raise UsageError("a batch of at least 1 is expected")
    return arrays


def text(shape: Sequence[Optional[int]]) -> str:
    """A shape for a reader, such as `?x32x32x3`."""
    return "x".join("?" if n is None else str(n) for n in shape) or "scalar"


def flat(value: Any, prefix: str = "") -> List[Tuple[str, Any]]:
    """Name the tensors of a nested result, in a stable order.

    Args:
        value: A tensor; or tuples, lists, dictionaries, named tuples and dataclass-like mappings of such. None is
            left out.
        prefix: Of the names below.

    Returns:
        `(name, tensor)`: a dictionary's keys in its own order, positions in sequences, joined by `.`; a lone tensor has
        an empty name.
    """
    if value is None:
        return []
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = dict(zip(value._fields, value))
    if hasattr(value, "keys") and hasattr(value, "__getitem__"):
        items = [(str(key), value[key]) for key in value.keys()]  # noqa: SIM118  (mappings of frameworks)
    elif isinstance(value, (list, tuple)):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return [(prefix, value)]
    return [pair for key, item in items for pair in flat(item, f"{prefix}.{key}" if prefix else key)]


def named(value: Any, names: Sequence[str] = ()) -> Dict[str, Any]:
    """The tensors of a nested result by stable names.

    Args:
        value: See `flat`.
        names: What the model calls its outputs; taken where there is one for each and the result has no keys.

    Returns:
        `output` for a lone tensor without a name, `output_N` for positions, `aux` and the like for keys.
    """
    pairs = flat(value)
    keyed = any(not part.isdigit() for name, _ in pairs for part in name.split(".") if name)
    if not keyed and len(names) == len(pairs) == len(set(names)):
        return {name: tensor for name, (_, tensor) in zip(names, pairs)}
    if len(pairs) == 1 and not pairs[0][0]:
        return {"output": pairs[0][1]}
    return {f"output_{name}" if name[:1].isdigit() else name: tensor for name, tensor in pairs}
