"""Rows and columns of a kernel that only ever meet padding, which a network on smaller images than it was made for has.

The last maps of a ResNet-34 of 224-pixel images are 1 x 1 on images of 32: of its last 3 x 3 kernels, half of all
weights, one row and column is used. The others cost memory in every engine.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import numpy as np

from optimize.exporters.graph.net import Net, attributes, set_attribute


def crop(net: Net) -> bool:
    """Cut such rows and columns off convolutions on maps of known size, and the padding with them."""
    found = False
    for node in [node for node in net.nodes if node.op_type == "Conv"]:
        weight = net.constant(node, 1)
        if weight is None:
            continue
        axes = _axes(net, node, weight.shape[2:])
        if axes is None or all(stop - start == size for (start, stop, _, _), size in zip(axes, weight.shape[2:])):
            continue
        kept = weight[(slice(None), slice(None), *(slice(start, stop) for start, stop, _, _ in axes))]
        node.input[1] = net.add_constant(node.input[1], np.ascontiguousarray(kept))
        set_attribute(node, "kernel_shape", list(kept.shape[2:]))
        set_attribute(node, "pads", [begin for _, _, begin, _ in axes] + [end for _, _, _, end in axes])
        set_attribute(node, "auto_pad", None)
        net.changed()
        found = True
    return found and (net.sweep() or True)


def _axes(net: Net, node: Any, kernel: Tuple[int, ...]) -> Optional[List[Tuple[int, int, int, int]]]:
    """For each axis of the maps: first and end of the kernel that is used, and the padding left before and behind."""
    given = attributes(node)
    sizes = net.shapes.get(node.input[0], ())[2:], net.shapes.get(node.output[0], ())[2:]
    if given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(len(s) != len(kernel) for s in sizes):
        return None
    ones = [1] * len(kernel)
    pads = given.get("pads") or [0] * 2 * len(kernel)
    steps = given.get("strides") or ones, given.get("dilations") or ones
    found = []
    for size, results, taps, stride, dilation, begin, end in zip(*sizes, kernel, *steps, pads, pads[len(kernel) :]):
        if not size or not results:
            return None
        before = begin - np.arange(taps) * dilation  # of each tap: how far in front of the map it starts
        window = np.maximum(0, -(-before // stride))  # the first one whose tap is not in front of it
        used = np.flatnonzero((window < results) & (window * stride - before < size))
        if not used.size:
            return None
        first, stop = int(used[0]), int(used[-1]) + 1
        begin -= first * dilation
        reach = (stop - first - 1) * dilation + 1
        end = max(0, (results - 1) * stride + reach - begin - size)  # what no window reads is left out
        if begin < 0 or (size + begin + end - reach) // stride + 1 != results:
            return None  # the smaller kernel would have another place to stand
        found.append((first, stop, begin, end))
    return found
