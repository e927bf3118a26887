"""Whether the layers of an engine got the precision that was asked of them: the graph asks, the backend tells.

Backends rename and fuse layers, so a node is looked for under all that is left of it: its name, its outputs, and what
was fused behind it. A node that is not found again is counted, and never called a difference.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Set

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""ONNX operators of which a precision is asked: their multiplications are what a precision is chosen for."""

_FITS = {"fp32": ("f32", "f64"), "fp16": ("f16", "bf16"), "int8": ("int8",)}
"""What a layer may run in where a precision is asked, its usual word first: fp16 is the device's fast 16-bit float."""

_MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators between a DequantizeLinear and the layer that change no value."""

_ABSORBED = ("Add", "BatchNormalization", "Clip", "Relu")
"""Operators that a backend makes part of the layer before them, which may go on under their name."""

_KINDS = ("conv", "gemm", "matmul", "matrix", "fullyconnected", "myelin", "foreign")
"""Parts of the types by which backends call layers that multiply; OpenVINO: Deconvolution, ONNX Runtime: QGemm."""

_STARTS = ("fused ", "node_of_")
_ENDS = ("/WithoutBiases", "/MatMulAddFusion", "_nchwc", "_quant")
"""What backends put before or behind the name of a node: ONNX Runtime, TensorRT; OpenVINO and ONNX Runtime."""

_NAMED = 3
"""Layers that a warning names; the manifest lists all."""


def compare(
    model: Any, precision: str, layers: Sequence[Mapping[str, Any]], kept: Collection[str] = ()
) -> Dict[str, Any]:
    """Compare what a graph asks with what its engine's layers run in.

    INT8 is asked of the layers that Q/DQ pairs feed; what stays float on purpose has none. FP32 and FP16 are asked of
    all; in a graph that is FP16 itself, of those whose weight is.

    Args:
        model: The ONNX graph that the backend was given, an `onnx.ModelProto`; external data is not read.
        precision: fp32, fp16 or int8.
        layers: What the backend tells: `name`, `type`, `precision`, and `names` where it fused several.
        kept: Names of nodes that the backend was told to keep in FP32.

    Returns:
        `asked` (how many layers), `met`, `unread` (not found again, or their precision is not told), and `differ`:
        {`name`, `type`, `asked`, `ran`} of each other layer.
    """
    fits = _FITS[precision]
    by_name = _by_name(layers)
    found: Dict[str, Any] = {"asked": 0, "met": 0, "unread": 0, "differ": []}
    graph = _Graph(model)
    for node in graph.asking(precision):
        if node.name in kept:
            continue
        found["asked"] += 1
        ran = [layer["precision"] for layer in _layers_of(graph, node, by_name) if layer["precision"]]
        if not ran:
            found["unread"] += 1
        elif any(one in fits for one in ran):
            found["met"] += 1
        else:
            name = node.name or node.output[0]
            found["differ"].append({"name": name, "type": node.op_type, "asked": fits[0], "ran": ran[0]})
    return found


def warning(found: Optional[Mapping[str, Any]]) -> str:
    """One line on the layers that ran in another precision than asked; empty where there are none, or none is known."""
    differ = found["differ"] if found else []
    if not found or not differ:
        return ""
    ran = ", ".join(f"{count} in {name}" for name, count in Counter(one["ran"] for one in differ).most_common())
    more = f" and {len(differ) - _NAMED} more" if len(differ) > _NAMED else ""
    names = ", ".join(one["name"] for one in differ[:_NAMED])
    return (
        f"{len(differ)} of {found['asked']} layers of which {differ[0]['asked']} was asked run in another precision "
        f"({ran}): {names}{more}"
    )


def _by_name(layers: Sequence[Mapping[str, Any]]) -> Dict[str, List[Mapping[str, Any]]]:
    found: Dict[str, List[Mapping[str, Any]]] = {}
    for layer in layers:
        names = {str(name) for name in (layer["name"], *layer.get("names", ()))}
        for name in names | {_bare(name) for name in names}:
            found.setdefault(name, []).append(layer)
    return found


def _bare(name: str) -> str:
    """A node's own name from that of a layer."""
    for start in _STARTS:
        name = name[len(start) :] if name.startswith(start) else name
    for end in _ENDS:
        name = name[: -len(end)] if name.endswith(end) else name
    return name


def _layers_of(graph: _Graph, node: Any, by_name: Mapping[str, List[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
    """What a node became: layers that multiply under its own name, else under the name of what was fused behind it.

    A layer of another type under its own name counts where there is no other: TensorRT calls a layer as it likes.
    """
    own: List[Mapping[str, Any]] = []
    for step, name in graph.names(node):
        there = by_name.get(name, [])
        multiply = [layer for layer in there if any(kind in layer["type"].lower() for kind in _KINDS)]
        if multiply:
            return multiply
        own += there if step == 0 else []
    return own


class _Graph:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, model: Any) -> None:
        from onnx import TensorProto

        self._nodes = list(model.graph.node)
        self._maker = {name: node for node in self._nodes for name in node.output}
        self._half: Set[str] = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
        self._readers: Dict[str, List[Any]] = {}
        for node in self._nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def asking(self, precision: str) -> List[Any]:
        """The nodes of which the precision is asked."""
        compute = [node for node in self._nodes if node.op_type in COMPUTE]
        if precision == "int8":
            return [node for node in compute if all(self._quantised(name) for name in node.input[:2])]
        half = [node for node in compute if self._half.intersection(node.input)]
        return half if half and precision == "fp16" else compute

    def names(self, node: Any) -> Iterator[Any]:
        """(0, name) of the node, then (step, name) of what may have been fused behind it, the nearest first."""
        step: int = 0
        while True:
            yield from ((step, name) for name in (node.name, *node.output) if name)
            readers = self._readers.get(node.output[0], [])
            if len(readers) != 1 or readers[0].op_type not in _ABSORBED:
                return
            node, step = readers[0], step + 1

    def _quantised(self, tensor: str) -> bool:
        maker = self._maker.get(tensor)
        while maker is not None and maker.op_type in _MOVES:
            maker = self._maker.get(maker.input[0])
        return maker is not None and maker.op_type == "DequantizeLinear"
