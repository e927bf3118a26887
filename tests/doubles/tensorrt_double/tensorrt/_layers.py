"""The layers of an engine: fused as TensorRT fuses them, each with a precision, and reformats between."""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Mapping, Sequence, Set

from tensorrt._operators import LAYERS, WEIGHTED

_FOLLOWERS = frozenset(("BatchNormalization", "Relu", "Clip", "LeakyRelu"))
_NOTHING = frozenset(("Identity", "Dropout", "Constant", "DequantizeLinear"))
_TYPES = {
    "CONVOLUTION": "CaskConvolution",
    "DECONVOLUTION": "CaskDeconvolutionV2",
    "MATRIX_MULTIPLY": "CaskGemmMatrixMultiply",
    "POOLING": "CaskPooling",
    "REDUCE": "Reduce",
    "SOFTMAX": "CaskSoftMaxV2",
    "SHUFFLE": "Shuffle",
    "ELEMENTWISE": "PointWiseV2",
    "ACTIVATION": "PointWiseV2",
    "UNARY": "PointWiseV2",
    "SCALE": "Scale",
    "QUANTIZE": "Reformat",
    "IDENTITY": "Reformat",
    "CONCATENATION": "Concatenation",
    "SLICE": "Slice",
}
_ELEMENTS = {1: "FLOAT", 10: "HALF", 16: "BF16", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL"}


def fuse(model: Any, half: bool, scales: Mapping[str, float], full: FrozenSet[str]) -> List[Dict[str, Any]]:
    """The layers of an engine in order.

    Args:
        model: The ONNX model with inferred shapes.
        half: FP16 is allowed.
        scales: From a calibrator; empty without one.
        full: Names of nodes that stay in FP32.

    Returns:
        For each: name, type, precision, inputs and outputs (name and data type), onnx (names of its nodes), origin
        (of a reformat: QDQ, REFORMAT), cost (a share of the time).
    """
    graph = _Graph(model)
    groups: List[List[int]] = []
    taken: Set[int] = set()
    for place, node in enumerate(graph.nodes):
        if place in taken or node.op_type in _NOTHING or graph.is_constant(node):
            continue
        groups.append([place, *graph.followers(place, taken)] if node.op_type in WEIGHTED else [place])
        taken.update(groups[-1])
    groups.sort(key=max)  # a kernel that adds runs when both sides are there
    layers = [_layer(graph, [graph.nodes[one] for one in group], half, scales, full) for group in groups]
    return _with_reformats(graph, layers, scales)


class _Graph:
    """Who makes and who reads each tensor."""

    def __init__(self, model: Any) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {item.name for item in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in model.graph.output]
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self.kinds = {value.name: _ELEMENTS.get(value.type.tensor_type.elem_type, "FLOAT") for value in values}
        self.maker = {name: place for place, node in enumerate(self.nodes) for name in node.output}
        self.readers: Dict[str, List[int]] = {}
        for place, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(place)
        for node in self.nodes:  # Q and DQ of weights, and what else is computed from constants alone
            if all(name in self.constants for name in node.input if name) and node.input:
                self.constants.update(node.output)

    def is_constant(self, node: Any) -> bool:
        return node.output[0] in self.constants

    def source(self, name: str) -> str:
        """The tensor behind a DQ, an identity or a dropout."""
        place = self.maker.get(name)
        if place is None or self.nodes[place].op_type not in _NOTHING or not self.nodes[place].input:
            return name
        return self.source(self.nodes[place].input[0])

    def is_quantized(self, name: str) -> bool:
        place = self.maker.get(name)
        return place is not None and self.nodes[place].op_type == "DequantizeLinear"

    def followers(self, start: int, taken: Set[int]) -> List[int]:
        """The nodes that a kernel with weights takes in after it."""
        found: List[int] = []
        place, added = start, False
        while True:
            output = self.nodes[place].output[0]
            readers = self.readers.get(output, [])
            if len(readers) != 1 or output in self.outputs or readers[0] in taken:
                return found
            after = self.nodes[readers[0]]
            if after.op_type == "Add" and not added:
                added = True
            elif after.op_type == "QuantizeLinear":
                return [*found, readers[0]]
            elif after.op_type not in _FOLLOWERS:
                return found
            place = readers[0]
            found.append(place)


def _layer(
    graph: _Graph, nodes: Sequence[Any], half: bool, scales: Mapping[str, float], full: FrozenSet[str]
) -> Dict[str, Any]:
    first, last = nodes[0], nodes[-1]
    made = {name for node in nodes for name in node.output}
    inputs = [
        name for node in nodes for name in node.input if name and name not in graph.constants and name not in made
    ]
    kept = any((node.name or node.output[0]) in full for node in nodes)
    plain = "HALF" if half and not kept else "FLOAT"
    precision = graph.kinds.get(first.output[0], "FLOAT")
    if precision == "FLOAT":
        precision = plain
    if (
        first.op_type in WEIGHTED
        and not kept
        and inputs
        and (graph.is_quantized(first.input[0]) or inputs[0] in scales)
    ):
        precision = "INT8"
    quantizes = last.op_type == "QuantizeLinear"
    output = "INT8" if quantizes else plain if precision == "INT8" else precision
    if first.op_type == "QuantizeLinear":
        precision = "INT8"
    words = {"type": _TYPES.get(LAYERS[first.op_type], LAYERS[first.op_type].title().replace("_", ""))}
    return {
        **words,
        "name": " + ".join(node.name or node.output[0] for node in nodes),
        "precision": precision,
        "inputs": [{"name": graph.source(name), "kind": ""} for name in inputs],
        "outputs": [
            {"name": name, "kind": output if graph.kinds.get(name, "FLOAT") in ("FLOAT", "INT8") else graph.kinds[name]}
            for name in last.output
        ],
        "onnx": [node.name or node.output[0] for node in nodes],
        "origin": "QDQ" if first.op_type == "QuantizeLinear" else "",
        "cost": 10.0 if first.op_type in WEIGHTED else 1.0,
    }


def _with_reformats(graph: _Graph, layers: List[Dict[str, Any]], scales: Mapping[str, float]) -> List[Dict[str, Any]]:
    """Give every input its data type, and put a copy where a layer wants another one than there is."""
    kinds = {name: graph.kinds.get(name, "FLOAT") for name in graph.inputs}
    last = {one["name"]: layer for layer in layers for one in layer["outputs"]}
    wanted = {one["name"] for layer in layers if layer["precision"] == "INT8" for one in layer["inputs"][:1]}
    for layer in layers:
        for one in layer["outputs"]:
            if layer["precision"] == "INT8" and one["name"] in wanted and one["name"] in scales:
                one["kind"] = "INT8"  # one kernel gives what the next one wants
    made: List[Dict[str, Any]] = []
    for layer in layers:
        for number, one in enumerate(layer["inputs"]):
            have = kinds.get(one["name"], "FLOAT")
            want = have if layer["origin"] or have not in ("FLOAT", "HALF", "INT8") else layer["precision"]
            if number and want == "INT8":
                want = have
            if (have == "FLOAT" and want == "HALF") or (want == "INT8" and have != "INT8"):
                name = f"Reformatted Input Tensor {number} to {layer['name']}"
                made.append(_copy("Input", number, layer["name"], one["name"], have, name, want))
                one["name"] = name
                have = want
            one["kind"] = have
        for one in layer["outputs"]:
            kinds[one["name"]] = one["kind"]
        made.append(layer)
    for number, name in enumerate(graph.outputs):
        want, have = graph.kinds.get(name, "FLOAT"), kinds.get(name, "FLOAT")
        if have != want and name in last:
            inner = f"Reformatted Output Tensor {number} to {last[name]['name']}"
            for one in last[name]["outputs"]:
                one["name"] = inner if one["name"] == name else one["name"]
            made.append(_copy("Output", number, last[name]["name"], inner, have, name, want))
    return made


def _copy(side: str, number: int, layer: str, source: str, have: str, target: str, want: str) -> Dict[str, Any]:
    return {
        "name": f"Reformatting CopyNode for {side} Tensor {number} to {layer}",
        "type": "Reformat",
        "precision": want,
        "inputs": [{"name": source, "kind": have}],
        "outputs": [{"name": target, "kind": want}],
        "onnx": [],
        "origin": "REFORMAT",
        "cost": 0.5,
    }
