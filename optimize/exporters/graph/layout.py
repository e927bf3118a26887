"""Move Transposes between channels last and channels first until they meet and cancel.

Convolutions want channels first. A Transpose to channels first is pulled up towards the input, one to channels last is
pushed down towards the output, through operators that work on each element; what is left stands at the boundary.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from optimize.exporters.graph.net import Net, attributes, set_attribute
from optimize.exporters.graph.noop import RESHAPES, as_reshape, same

_UNARY = {
    *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Clip", "Erf", "Exp", "Log", "Neg", "Abs", "Sqrt"),
    *("Reciprocal", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Floor", "Ceil", "Round"),
    *("Cast", "Sign", "Sin", "Cos", "Celu", "Mish", "Not", "Pad"),
}
"""Operators whose first input alone has the axes of the result; a Pad's numbers are put in order with it."""

_BINARY = {
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum", "Mean", "Where"),
    *("Less", "Greater", "Equal", "And", "Or"),
}


def to_last(rank: int) -> Tuple[int, ...]:
    """The order of axes that makes channels first into channels last: 0, 2, 3, 1 for images."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> Tuple[int, ...]:
    """The order of axes that makes channels last into channels first: 0, 3, 1, 2 for images."""
    return (0, rank - 1, *range(1, rank - 1))


def _order(node: Any) -> Optional[Tuple[int, ...]]:
    if node is None or node.op_type != "Transpose":
        return None
    order = attributes(node).get("perm")
    return None if order is None else tuple(int(n) for n in order)


def _is(node: Any, kind: Any) -> bool:
    """Whether a node is a Transpose `to_last` or `to_first` of four axes or more (with three, both are the same)."""
    order = _order(node)
    return order is not None and len(order) > 3 and order == kind(len(order))


def explicit(net: Net) -> bool:
    """Write the Reshapes that only move a 1x1 map's channels as the Transposes that they stand for."""
    found = False
    for node in net.nodes:
        if node.op_type not in RESHAPES:
            continue
        before, after = net.shapes.get(node.input[0]), net.shapes.get(node.output[0])
        if before is None or after is None or len(before) != 4 or len(after) != 4 or None in before[1:]:
            continue
        for kind in (to_last, to_first):
            order = kind(4)
            channels = before[1] if kind is to_last else before[3]
            flat = sum(n != 1 for n in before[1:]) == 1 and channels != 1
            if flat and same(tuple(before[axis] for axis in order), after) and after != before:
                node.op_type = "Transpose"
                del node.input[1:]
                del node.attribute[:]
                set_attribute(node, "perm", list(order))
                found = True
                break
    if found:
        net.changed()
    return found


def cancel(net: Net) -> bool:
    """Make one of two Transposes in a row, or none."""
    found = False
    for node in list(net.nodes):
        second = _order(node)
        maker = net.makers.get(node.input[0]) if second else None
        first = _order(maker)
        if second is None or first is None or net.inside(node.input[0]):
            continue
        joined = [first[axis] for axis in second]
        source = maker.input[0]  # type: ignore[union-attr]
        if joined == list(range(len(joined))) and net.bypass(node, source):
            found = True
            continue
        node.input[0] = source
        set_attribute(node, "perm", joined)
        net.changed()
        found = True
    return found and (net.sweep() or True)


def share(net: Net) -> bool:
    """Let the readers of equal Transposes of one tensor read the first of them."""
    seen: Dict[Tuple[str, Tuple[int, ...]], str] = {}
    for node in list(net.nodes):
        order = _order(node)
        if order is None:
            continue
        kept = seen.setdefault((node.input[0], order), node.output[0])
        if kept != node.output[0] and node.output[0] not in net.outputs and net.bypass(node, kept):
            return True
    return False


def pull_up(net: Net) -> bool:
    """Move a Transpose to channels first above the operator before it."""
    for node in net.nodes:
        maker = net.makers.get(node.input[0]) if _is(node, to_first) else None
        if maker is None or not _elementwise(net, maker) or node.input[0] in net.outputs or net.inside(node.input[0]):
            continue
        if not all(_is(reader, to_first) for reader, _ in net.readers[node.input[0]]):
            continue
        moving = _moving(net, maker)
        cancels = sum(_is(net.makers.get(name), to_last) for name in moving)
        rank = len(_order(node) or ())
        if len(moving) - cancels > 1 or any(net.rank(name) != rank for name in moving):
            continue  # it would multiply on its way
        readers = [reader for reader, _ in net.readers[node.input[0]]]
        if sum(reader.output[0] in net.outputs for reader in readers) > 1:
            continue
        _move(net, maker, to_first(rank), rank)
        for reader in readers:
            net.bypass(reader)
        net.changed()
        net.sweep()
        return True
    return False


def push_down(net: Net) -> bool:
    """Move a Transpose to channels last below the operator after it."""
    for node in net.nodes:
        if not _elementwise(net, node):
            continue
        moving = _moving(net, node)
        if not moving or not all(_is(net.makers.get(name), to_last) for name in moving):
            continue
        if net.inside(node.output[0]):
            continue
        rank = net.rank(moving[0])
        if any(net.rank(name) != rank for name in moving):
            continue
        for slot, name in enumerate(node.input):
            if name in moving:
                node.input[slot] = net.makers[name].input[0]
            elif name:
                _turn_constant(net, node, slot, to_first(rank), rank)
        _turn_axis(node, to_first(rank))
        result = node.output[0]
        node.output[0] = net.name(f"{result}_first")
        below = net.index(node) + 1
        made = _transpose(node.output[0], result, to_last(rank))
        net.nodes.insert(below, made)
        net.changed()
        net.sweep()
        return True
    return False


def reduce(net: Net) -> bool:
    """Let a mean or another reduction over height and width of a channels-last map read the channels-first one."""
    found = False
    for node in list(net.nodes):
        maker = net.makers.get(node.input[0]) if node.op_type in ("ReduceMean", "ReduceMax", "ReduceSum") else None
        if maker is None or not _is(maker, to_last):
            continue
        rank = len(_order(maker) or ())
        axes = net.ints(node, 1, "axes")
        if axes is None or sorted(axis % rank for axis in axes) != list(range(1, rank - 1)):
            continue
        _set_axes(net, node, list(range(2, rank)))
        node.input[0] = maker.input[0]
        if attributes(node).get("keepdims", 1):
            result = node.output[0]
            node.output[0] = net.name(f"{result}_first")
            net.nodes.insert(net.index(node) + 1, _transpose(node.output[0], result, to_last(rank)))
        net.changed()
        found = True
    return found and (net.sweep() or True)


def absorb(net: Net) -> bool:
    """Join a Transpose that moves axes of length 1 only with the Reshape before or after it."""
    for node in net.nodes:
        order = _order(node)
        before = net.shapes.get(node.input[0]) if order else None
        after = net.shapes.get(node.output[0])
        if order is None or before is None or after is None or None in before[1:] or order[0] != 0:
            continue
        moved = [axis for axis in order[1:] if before[axis] != 1]
        maker = net.makers.get(node.input[0])
        if moved != sorted(moved) or net.inside(node.input[0]) or net.inside(node.output[0]):
            continue
        if maker is not None and maker.op_type in RESHAPES:
            as_reshape(net, node, after)
            net.changed()
            return True
        for reader, slot in net.readers.get(node.output[0], ()):
            shape = net.shapes.get(reader.output[0])
            if reader.op_type in RESHAPES and slot == 0 and shape is not None and shape.count(None) <= 1:
                as_reshape(net, reader, shape)
                reader.input[0] = node.input[0]
                net.changed()
                net.sweep()
                return True
    return False


def flatten(net: Net) -> bool:
    """Let a dense layer read a flattened map in channels-first order, by reordering the rows of its weight."""
    for node in net.nodes:
        if node.op_type not in ("Gemm", "MatMul") or attributes(node).get("transA", 0):
            continue
        flat = net.makers.get(node.input[0])
        turn = net.makers.get(flat.input[0]) if flat is not None and flat.op_type in ("Flatten", "Reshape") else None
        weight = net.constant(node, 1)
        if weight is None or weight.ndim != 2 or not _is(turn, to_last) or net.sole_reader(node.input[0]) is not node:
            continue
        assert flat is not None and turn is not None
        shape = net.shapes.get(turn.input[0])
        if shape is None or None in shape[1:] or net.rank(node.input[0]) != 2:
            continue
        if net.shapes[node.input[0]][1] != int(np.prod(shape[1:], dtype=np.int64)):
            continue
        rows = np.arange(int(np.prod(shape[1:], dtype=np.int64))).reshape(shape[1:])
        rows = rows.transpose(*range(1, len(shape) - 1), 0).reshape(-1)  # where each row is in channels first
        by_row = weight.T if attributes(node).get("transB", 0) else weight
        turned = np.empty_like(by_row)
        turned[rows] = by_row
        turned = turned.T if attributes(node).get("transB", 0) else turned
        node.input[1] = net.add_constant(f"{node.output[0]}_weight", turned)
        flat.input[0] = turn.input[0]
        net.changed()
        net.sweep()
        return True
    return False


def _elementwise(net: Net, node: Any) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return False
    if node.op_type == "Concat":
        return not any(name in net.constants for name in node.input)
    if node.op_type == "Pad":
        return 2 <= len(node.input) <= 3 and net.constant(node, 1) is not None
    return node.op_type in _UNARY or node.op_type in _BINARY


def _moving(net: Net, node: Any) -> List[str]:
    """The inputs that are not constant, without the limits of a Clip."""
    names = node.input[:1] if node.op_type in _UNARY else node.input
    return list(dict.fromkeys(name for name in names if name and name not in net.constants))


def _move(net: Net, node: Any, order: Sequence[int], rank: int) -> None:
    """Let an operator work in another order of axes, by Transposes on its inputs."""
    turned = {}
    for slot, name in enumerate(list(node.input)):
        if not name:
            continue
        if name in net.constants:
            _turn_constant(net, node, slot, order, rank)
        elif not (node.op_type in _UNARY and slot):
            if name not in turned:
                turned[name] = net.insert(node, "Transpose", [name], f"{name}_first", perm=list(order))
            node.input[slot] = turned[name]
    _turn_axis(node, order)


def _turn_axis(node: Any, order: Sequence[int]) -> None:
    if node.op_type == "Concat":
        set_attribute(node, "axis", list(order).index(attributes(node)["axis"] % len(order)))


def _turn_constant(net: Net, node: Any, slot: int, order: Sequence[int], rank: int) -> None:
    value = net.constants[node.input[slot]]
    if node.op_type == "Pad" and slot == 1:
        pads = value.reshape(2, rank)[:, list(order)].reshape(-1)
        node.input[slot] = net.add_constant(f"{node.input[slot]}_first", pads)
        return
    if value.size == 1 or node.op_type in _UNARY:
        return
    wide = value.reshape((1,) * (rank - value.ndim) + value.shape)
    node.input[slot] = net.add_constant(f"{node.input[slot]}_first", wide.transpose(*order))


def _transpose(source: str, result: str, order: Sequence[int]) -> Any:
    from onnx import helper

    return helper.make_node("Transpose", [source], [result], name=result, perm=list(order))


def _set_axes(net: Net, node: Any, axes: List[int]) -> None:
    if len(node.input) > 1:
        node.input[1] = net.add_constant(f"{node.output[0]}_axes", np.asarray(axes, np.int64))
    else:
        set_attribute(node, "axes", axes)
