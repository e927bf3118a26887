"""Zero padding that stands before a convolution or pooling becomes the padding of that layer."""

from __future__ import annotations

from typing import Any, List, Optional

import numpy as np

from optimize.exporters.graph.net import Net, attributes, set_attribute

_NOT_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Softplus")


def merge(net: Net) -> bool:
    """Merge Pads into the convolutions and poolings that read them."""
    found = False
    for pad in [node for node in net.nodes if node.op_type == "Pad"]:
        spatial = _spatial(net, pad)
        value = _value(net, pad)
        if spatial is None or value is None or attributes(pad).get("mode", "constant") != "constant":
            continue
        for node, slot in list(net.readers.get(pad.output[0], ())):
            if slot == 0 and _takes(net, pad, node, spatial, value):
                given = attributes(node)
                own = given.get("pads") or [0] * len(spatial)
                set_attribute(node, "pads", [int(a + b) for a, b in zip(own, spatial)])
                set_attribute(node, "auto_pad", None)
                if node.op_type == "AveragePool":
                    set_attribute(node, "count_include_pad", 1)
                node.input[0] = pad.input[0]
                found = True
        net.changed()
    return found and (net.sweep() or True)


def _spatial(net: Net, pad: Any) -> Optional[List[int]]:
    """The pads of height and width (all begins, then all ends), where nothing else is padded and nothing cropped."""
    pads = net.ints(pad, 1, "pads")
    if pads is None or len(pads) < 6 or len(pad.input) > 3 or min(pads) < 0:
        return None
    half = len(pads) // 2
    if any((pads[0], pads[1], pads[half], pads[half + 1])):
        return None
    return pads[2:half] + pads[half + 2 :]


def _value(net: Net, pad: Any) -> Optional[float]:
    if len(pad.input) > 2 and pad.input[2]:
        value = net.constant(pad, 2)
        return None if value is None else float(value.reshape(-1)[0])
    return float(attributes(pad).get("value", 0.0))


def _takes(net: Net, pad: Any, node: Any, pads: List[int], value: float) -> bool:
    given = attributes(node)
    if given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    own = given.get("pads") or [0] * len(pads)
    if node.op_type == "Conv":
        return value == 0
    if node.op_type not in ("MaxPool", "AveragePool") or given.get("ceil_mode", 0) or len(node.output) > 1:
        return False
    kernel = given["kernel_shape"]
    if any(a + b >= k for a, b, k in zip(own, pads, [*kernel, *kernel])):
        return False  # a window may lie in the padding alone
    if node.op_type == "AveragePool":
        return value == 0 and (bool(given.get("count_include_pad", 0)) or not any(own))
    lowest = value <= float(np.finfo(np.float32).min)
    return lowest or (value == 0 and not any(own) and _not_negative(net, pad.input[0]))


def _not_negative(net: Net, name: str) -> bool:
    """Whether a tensor has no negative element: then padding with 0 does to a maximum what -inf does."""
    maker = net.makers.get(name)
    if maker is None:
        return False
    if maker.op_type == "Clip":
        low = net.constant(maker, 1)
        return low is not None and bool((low >= 0).all())
    return maker.op_type in _NOT_NEGATIVE
