"""Readable names that do not depend on the exporter's counters: a node by its layer, tensors by the node."""

from __future__ import annotations

import re
from typing import Any, Collection, Dict

from engines.text import plain
from optimize.exporters.graph.net import Net, attributes

_SLOTS = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("a", "weight"),
    "BatchNormalization": ("", "scale", "shift", "mean", "variance"),
    "Reshape": ("", "shape"),
    "Squeeze": ("", "axes"),
    "Unsqueeze": ("", "axes"),
    "Pad": ("", "pads", "value"),
    "Slice": ("", "starts", "ends", "axes", "steps"),
    "Clip": ("", "min", "max"),
}
"""What the inputs of operators are called, for the constants among them."""

_COUNTERS = re.compile(r"(__\d+)+(?=/|$)|:\d+$")
_LAYOUT = re.compile(r"(_first)+(_\d+)?$")
"""What a tensor's name ends in where only its layout was changed."""

_LEADING = re.compile(r"^(?:(?:StatefulPartitionedCall|PartitionedCall|model|/)/?)+(?=.)")


def tidy(net: Net, source: Collection[str] = ()) -> Dict[str, str]:
    """Name nodes, intermediate tensors and constants; inputs and outputs keep their names.

    Args:
        net: The graph, cleaned up.
        source: Names of the tensors before it was.

    Returns:
        What the results of nodes that are called otherwise now were called in the source, where others who know it
        have them by that name. One whose layout alone was changed holds the same values.
    """
    from onnx import AttributeProto

    if any(item.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for n in net.nodes for item in n.attribute):
        return {}  # names inside subgraphs refer to those outside
    kept = {*net.inputs, *net.outputs}
    new: Dict[str, str] = {name: name for name in kept}
    taken = set(kept)
    for count, node in enumerate(net.nodes):
        base = _plain(node.name)
        if base in ("", node.op_type) and node.output[0] not in kept:
            base = _plain(node.output[0]) if "/" in node.output[0] else ""
        base = base or f"{node.op_type}_{count}"
        base = _suited(net, node, base)
        node.name = _free(base, taken)
        for slot, name in enumerate(node.output):
            if name and name not in new:
                new[name] = node.name if slot == 0 else _free(f"{node.name}:{slot}", taken)
    for node in net.nodes:
        words = _SLOTS.get(node.op_type, ())
        for slot, name in enumerate(node.input):
            if name in net.constants and name not in new:
                new[name] = _free(f"{node.name}/{words[slot] if slot < len(words) else f'const_{slot}'}", taken)
    made = [name for node in net.nodes for name in node.output if name]
    before = {new[name]: name if name in source else _LAYOUT.sub("", name) for name in made}
    for node in net.nodes:
        for slots in (node.input, node.output):
            for slot, name in enumerate(slots):
                slots[slot] = new.get(name, name)
    net.constants = {new.get(name, name): value for name, value in net.constants.items()}
    net.changed()
    return {now: name for now, name in before.items() if now != name and name in source}


def _plain(name: str) -> str:
    return _LEADING.sub("", _COUNTERS.sub("", plain(name))).strip("/ ")


def _suited(net: Net, node: Any, base: str) -> str:
    """The one Transpose at the input is named after what it does; rewritten nodes end in what they are now."""
    if node.op_type == "Transpose" and node.input[0] in net.inputs:
        order = attributes(node).get("perm", [])
        return f"{node.input[0]}/to_{'channels_first' if list(order)[1:2] == [len(order) - 1] else 'transposed'}"
    for suffix in ("_first", "_pool"):
        if base.endswith(suffix):
            base = base[: -len(suffix)]
    return base


def _free(wish: str, taken: Any) -> str:
    found, count = wish, 1
    while found in taken:
        count += 1
        found = f"{wish}_{count}"
    taken.add(found)
    return found
