"""Q/DQ pairs of activations as FakeQuantize, OpenVINO's own form of them.

OpenVINO reads QuantizeLinear as a FakeQuantize onto integers and DequantizeLinear as arithmetic on them. Where
quantised values that may be negative are concatenated, its CPU plugin then computes something else (2023.3 to 2026.4:
outputs off by half their size). In one FakeQuantize onto floats, as OpenVINO's own quantiser writes it, they come out
right, in the same precisions.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np


def fuse(model: Any) -> int:
    """Put one FakeQuantize in the place of every pair on an activation, in place.

    Args:
        model: An `openvino.Model` as read from ONNX.

    Returns:
        How many DequantizeLinear were replaced.
    """
    try:
        from openvino import opset8
    except ImportError:  # before 2024
        from openvino.runtime import opset8

    count = 0
    for quantize in [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]:
        integers = _only_reader(quantize)
        if integers is None or integers.get_type_name() != "Convert":
            continue
        for reader in list(integers.output(0).get_target_inputs()):
            found = _scale(reader.get_node())
            if found is None:
                continue
            multiply, zero, scale = found
            low, high = (_value(quantize.input_value(slot).get_node()) for slot in (3, 4))
            if low is None or high is None:
                continue
            ends = [opset8.constant((end - zero) * scale, dtype=np.float32) for end in (low, high)]
            inputs = [quantize.input_value(slot) for slot in range(3)]
            fused = opset8.fake_quantize(*inputs, *ends, quantize.get_attributes()["levels"])
            fused.set_friendly_name(multiply.get_friendly_name())
            for target in list(multiply.output(0).get_target_inputs()):
                target.replace_source_output(fused.output(0))
            count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _scale(convert: Any) -> Optional[Tuple[Any, np.float32, np.float32]]:
    """The Multiply that ends a DequantizeLinear begun by a Convert, its zero point and its scale; None: it is none."""
    if convert.get_type_name() != "Convert":
        return None
    zero, following = np.float32(0), _only_reader(convert)
    if following is not None and following.get_type_name() == "Subtract":
        known = _value(following.input_value(1).get_node())
        if known is None:
            return None
        zero, following = known, _only_reader(following)
    if following is None or following.get_type_name() != "Multiply":
        return None
    scale = _value(following.input_value(1).get_node())
    return None if scale is None else (following, zero, scale)


def _only_reader(node: Any) -> Optional[Any]:
    readers = list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _value(node: Any) -> Optional[np.float32]:
    """A constant of one value, or one behind a change of type or shape; None where it is not (scales per channel)."""
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.data.size != 1:
        return None
    return np.float32(node.data.reshape(-1)[0])
