"""The scales that a quantised graph holds, as the calibration cache of its float graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping

from calib import graph as graphs
from engines.errors import BuildError
from engines.spec import Progress, quiet
from engines.tensorrt import cachefile

_SAME_VALUES = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Dropout")
"""Operators whose result is within the range of their data, and has its peaks: one scale holds for both."""


def write(
    quantised: str, onnx: str, out: str, of: Mapping[str, Any], tensorrt: str, progress: Progress = quiet
) -> Dict[str, Any]:
    """Write the scales of a Q/DQ graph as a calibration cache, and the sidecar that ties it to the float graph.

    Args:
        quantised: The Q/DQ graph.
        onnx: The float graph that it was made from.
        out: The cache.
        of: What the scales were measured on, see `engines.tensorrt.cachefile.write`.
        tensorrt: Version for the header.
        progress: Not told anything.

    Returns:
        `tensors`: how many have a scale.

    Raises:
        BuildError: None has one.
    """
    found = spread(read(graphs.load(quantised)), graphs.load(onnx))
    if not found:
        raise BuildError(f"{quantised}: no activation in it is quantised", "build it again with --precision int8")
    content = cachefile.render(cachefile.Cache(cachefile.tag(tensorrt), "entropy", found))
    cachefile.write(Path(out), content, of, "entropy", tensorrt)
    return {"tensors": len(found)}


def read(model: Any) -> Dict[str, float]:
    """Symmetric int8 scales (largest |x| / 127) of the activations that a Q/DQ graph quantises, by tensor.

    uint8 with zero point 0 covers the same range with 255 steps (`calib.quantize.quant`).
    """
    import numpy as np
    from onnx import numpy_helper

    constants = {item.name: item for item in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants or node.input[1] not in constants:
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        if scale.size != 1:
            continue
        item = constants.get(node.input[2]) if len(node.input) > 2 else None
        zero = np.zeros((), np.uint8) if item is None else numpy_helper.to_array(item)  # the default of the operator
        steps = 255.0 / 127.0 if zero.dtype == np.uint8 and int(zero.reshape(-1)[0]) == 0 else 1.0
        found[str(node.input[0])] = float(np.float32(float(scale.reshape(-1)[0]) * steps))
    return found


def spread(scales: Mapping[str, float], model: Any) -> Dict[str, float]:
    """The same scales for tensors of the same values, which another target may quantise in their place."""
    found = dict(scales)
    pairs = [(node.input[0], node.output[0]) for node in model.graph.node if node.op_type in _SAME_VALUES]
    for before, after in pairs:
        if before in found and after not in found:
            found[after] = found[before]
    for before, after in reversed(pairs):
        if after in found and before not in found:
            found[before] = found[after]
    return found
