"""Nodes that do nothing at inference, chains of Reshapes, and the forms that global pooling and dense layers take."""

from __future__ import annotations

from typing import Any, List, Optional

import numpy as np

from optimize.exporters.graph.net import Net, Shape, attributes, set_attribute

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that keep the elements and their order."""


def same(first: Optional[Shape], second: Optional[Shape]) -> bool:
    """Whether two shapes with the same number of elements are certainly equal: one free dimension at most, in place."""
    if first is None or second is None or len(first) != len(second):
        return False
    return first == second and sum(n is None for n in first) <= 1


def idle(net: Net) -> bool:
    """Drop Identity, Dropout, zero Pads, and Transposes, Reshapes, Slices and Concats that change nothing."""
    found = False
    for node in list(net.nodes):
        more = any(name in net.outputs or name in net.readers for name in node.output[1:])  # a Dropout's mask
        if node.domain in ("", "ai.onnx") and not more and _does_nothing(net, node):
            found |= net.bypass(node)
    return found


def _does_nothing(net: Net, node: Any) -> bool:
    op = node.op_type
    if op in ("Identity", "Dropout"):
        training = net.constant(node, 2) if op == "Dropout" else None
        return training is None or not training.any()
    if op == "Transpose":
        order = attributes(node).get("perm")
        return order is not None and list(order) == list(range(len(order)))
    if op in (*RESHAPES, "GlobalAveragePool"):  # the mean of a map of 1 x 1 is that map
        return same(net.shapes.get(node.input[0]), net.shapes.get(node.output[0]))
    if op == "Pad":
        pads = net.ints(node, 1, "pads")
        return pads is not None and not any(pads)
    if op in ("Concat", "Sum", "Max", "Min", "Mean"):
        return len(node.input) == 1
    return op == "Slice" and _takes_all(net, node)


def _takes_all(net: Net, node: Any) -> bool:
    starts, ends = net.ints(node, 1, "starts"), net.ints(node, 2, "ends")
    steps = net.ints(node, 4, "steps") or [1]
    if starts is None or ends is None or (len(node.input) > 4 and net.constant(node, 4) is None):
        return False
    return not any(starts) and min(ends) >= np.iinfo(np.int32).max and set(steps) == {1}


def slices(net: Net) -> bool:
    """Make one of two Slices in a row along different axes: PyTorch writes one for each axis."""
    found = False
    for node in list(net.nodes):
        maker = net.makers.get(node.input[0]) if node.op_type == "Slice" else None
        if maker is None or maker.op_type != "Slice" or net.sole_reader(node.input[0]) is not node:
            continue
        first, second = _cut(net, maker), _cut(net, node)
        if first is None or second is None or set(first[2]) & set(second[2]):
            continue
        node.input[0] = maker.input[0]
        del node.input[1:]
        for word, a, b in zip(("starts", "ends", "axes", "steps"), first, second):
            node.input.append(net.add_constant(f"{node.output[0]}_{word}", np.asarray(a + b, np.int64)))
        net.remove(maker)
        net.changed()
        found = True
    return found


def _cut(net: Net, node: Any) -> Optional[List[List[int]]]:
    """Starts, ends, axes (counted from the front) and steps of a Slice; None where they are not all constant."""
    rank = net.rank(node.input[0])
    if rank < 0 or len(node.input) < 4 or any(name and name not in net.constants for name in node.input[1:]):
        return None
    starts, ends, axes = (net.ints(node, slot, "") for slot in (1, 2, 3))
    if starts is None or ends is None or axes is None:
        return None
    steps = net.ints(node, 4, "") or [1] * len(axes)
    return [starts, ends, [axis % rank for axis in axes], steps]


def reshapes(net: Net) -> bool:
    """Make one of two Reshapes in a row, and a Flatten of one that leaves the batch and joins the rest."""
    found = False
    for node in list(net.nodes):
        if node.op_type not in RESHAPES:
            continue
        maker = net.makers.get(node.input[0])
        shape = net.shapes.get(node.output[0])
        if shape is None or sum(n is None for n in shape) > 1 or 0 in shape:
            continue
        if maker is not None and maker.op_type in RESHAPES and not net.inside(node.input[0]):
            node.input[0] = maker.input[0]
            as_reshape(net, node, shape)
            net.changed()
            found = True
        if node.op_type != "Flatten" and _flattens(net.shapes.get(node.input[0]), shape):
            node.op_type = "Flatten"
            del node.input[1:]
            del node.attribute[:]
            set_attribute(node, "axis", 1)
            net.changed()
            found = True
    return found


def _flattens(before: Optional[Shape], after: Shape) -> bool:
    if before is None or len(after) != 2 or len(before) < 3 or None in before[1:]:
        return False
    rest = int(np.prod(before[1:], dtype=np.int64))
    return before[0] == after[0] and after[1] == rest


def as_reshape(net: Net, node: Any, shape: Shape) -> None:
    """Turn a node into a Reshape of its first input to a shape with one free dimension at most."""
    value = np.asarray([-1 if n is None else n for n in shape], np.int64)
    node.op_type = "Reshape"
    del node.attribute[:]
    del node.input[1:]
    node.input.append(net.add_constant(f"{node.output[0]}_shape", value))


def pooling(net: Net) -> bool:
    """Turn the mean over height and width into GlobalAveragePool, which every backend knows as such."""
    found = False
    for node in list(net.nodes):
        if node.op_type != "ReduceMean" or net.rank(node.input[0]) != 4:
            continue
        axes: Optional[List[int]] = net.ints(node, 1, "axes")
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        channels = net.shapes[node.input[0]][1]
        keep = attributes(node).get("keepdims", 1)
        if not keep and channels is None:
            continue
        source = node.input[0]
        del node.attribute[:], node.input[1:]
        if keep:
            node.op_type = "GlobalAveragePool"
        else:
            node.input[0] = net.insert(node, "GlobalAveragePool", [source], f"{node.output[0]}_pool")
            node.op_type = "Flatten"
            set_attribute(node, "axis", 1)
        net.changed()
        found = True
    return found


def dense(net: Net) -> bool:
    """Join a MatMul of a matrix with a constant one, and the constant added to it, into a Gemm."""
    found = False
    for node in list(net.nodes):
        weight = net.constant(node, 1) if node.op_type == "MatMul" else None
        add = net.sole_reader(node.output[0]) if weight is not None else None
        if weight is None or weight.ndim != 2 or add is None or add.op_type != "Add" or net.rank(node.input[0]) != 2:
            continue
        other = add.input[1] if add.input[0] == node.output[0] else add.input[0]
        bias = net.constants.get(other)
        if bias is None or bias.size not in (1, weight.shape[1]) or bias.ndim > 2 or bias.shape[:-1] not in ((), (1,)):
            continue
        add.op_type = "Gemm"
        del add.input[:], add.attribute[:]
        flat = np.broadcast_to(bias.reshape(-1), (weight.shape[1],))
        add.input.extend([*node.input, net.add_constant(f"{node.output[0]}_bias", flat)])
        add.name = node.name
        net.remove(node)
        net.changed()
        found = True
    return found
