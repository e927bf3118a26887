"""Where quantisation goes: one description of a model's layers, a placement per target.

All targets quantise the input and the weight of every Conv, Gemm and MatMul with a constant weight; gates (the
multiplication of squeeze-excite, swish) stay float. They differ in the residual additions and in what surrounds them:

- tensorrt: only the skip of a residual addition, so that the other branch's Conv, addition and activation fuse into one
  kernel; results stay float (TensorRT derives the output type of a layer from the Q that follows).
- openvino: both inputs of a residual addition (measured: 10% faster than the skip alone), means between two layers
  (the global pooling of a ResNet-34 in 16-bit floats: 4% of its time), what a layer reads in another form where it is
  made (behind a Flatten: 2% of a ResNet-34's at batch 1, for what is made is then written as floats), and what a pad
  shortcut is made of (in 16-bit floats: 11% of a ResNet-20's).
- both: where everyone who reads a tensor reads integers, so do concatenations and pooling. The inputs of a
  concatenation then share the scale of its result, so that joining them is copying bytes.
- onnxruntime: every activation between two quantised operators, because its CPU kernels (QLinearConv, QLinearAdd,
  QGemm) want quantised inputs, bias and output. Nothing goes between a Conv and its Relu, for which the zero point of
  the result stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Set, Tuple

from calib.graph import Edge, Graph, channel_axis
from engines.errors import UsageError

TARGETS = ("tensorrt", "openvino", "onnxruntime")
"""Backends with a placement of their own."""

_CLAMPS = ("Relu", "Clip")
"""Activations that ONNX Runtime folds into the output range of the operator before them."""

_JOINS = ("Concat", "MaxPool")
"""Operators of which TensorRT and OpenVINO give integers as they read them."""

_POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs")
"""Operators that give no negative values."""

_MEANS = ("AveragePool", "GlobalAveragePool")
"""Operators that may read integers, and whose results have a range of their own."""

_MEANS_OF = {"tensorrt": _MEANS, "openvino": (*_MEANS, "ReduceMean")}

_MOVES = ("Slice", "Pad")
"""Operators of a pad shortcut, which OpenVINO runs on integers."""

FORMS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that give the values of their data in their order."""

_SAME_RANGE = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice")
"""Operators that only select or move values: they run on int8 as they are, their output has their input's scale."""


class Weight(NamedTuple):
    """A constant weight read at `edge`, quantised per channel along `axis`."""

    tensor: str
    edge: Edge
    axis: int


class Bias(NamedTuple):
    """A constant bias read at `edge`, quantised to int32 with the scales of the activation and the weight beside it."""

    tensor: str
    edge: Edge
    activation: str
    weight: Weight


@dataclass
class Placement:
    """What is quantised.

    Attributes:
        target: One of `TARGETS`.
        activations: Per tensor the edges that read its one Q/DQ pair, in the order of the nodes that make the tensors.
        weights: Per-channel weights.
        biases: Biases quantised to int32 (onnxruntime only).
        scale_of: Tensors that use another tensor's scale, because the operator between only moves values.
    """

    target: str
    activations: Dict[str, List[Edge]] = field(default_factory=dict)
    weights: List[Weight] = field(default_factory=list)
    biases: List[Bias] = field(default_factory=list)
    scale_of: Dict[str, str] = field(default_factory=dict)

    def measured(self) -> List[str]:
        """The tensors whose ranges must be known."""
        return [name for name in self.activations if name not in self.scale_of]

    def add(self, tensor: str, edge: Edge) -> None:
        """Let `edge` read the Q/DQ pair of `tensor`."""
        edges = self.activations.setdefault(tensor, [])
        if edge not in edges:
            edges.append(edge)


def points(model: Any, target: str, keep_float: Tuple[str, ...] = ()) -> Placement:
    """Where Q/DQ pairs go in a model for a target.

    Args:
        model: FP32 ModelProto with the batch normalisations folded, or its `Graph`, which keeps what it inferred.
        target: One of `TARGETS`.
        keep_float: Names of nodes that stay float.

    Returns:
        The placement; empty where the model has nothing to quantise.

    Raises:
        UsageError: An unknown target, or `keep_float` names a node that the model lacks.
    """
    if target not in TARGETS:
        raise UsageError(f"no placement for {target!r}; known: {', '.join(TARGETS)}")
    graph = model if isinstance(model, Graph) else Graph(model)
    missing = sorted(set(keep_float) - {node.name for node in graph.nodes})
    if missing:
        raise UsageError(f"the graph has no node {missing[0]!r} to keep in float", "optimize inspect lists the nodes")
    layers = [i for i in graph.weighted() if graph.nodes[i].name not in keep_float]
    if target == "onnxruntime":
        return _whole_tensors(graph, layers, keep_float)
    placement = Placement(target)
    for index in layers:
        _layer(graph, placement, index)
    quantised = set(layers)
    for add in graph.residuals():
        node = graph.nodes[add.node]
        conv = graph.fused_conv(node.input[add.main])
        if conv not in quantised or node.name in keep_float:
            continue
        placement.add(node.input[add.skip], Edge(add.node, add.skip))
        if target == "openvino":
            placement.add(node.input[add.main], Edge(add.node, add.main))
    _joins(graph, placement, keep_float)
    if target == "openvino":
        _before_forms(graph, placement, keep_float)
    return placement


def _joins(graph: Graph, placement: Placement, keep_float: Tuple[str, ...]) -> None:
    """Let concatenations and pooling read pairs of the tensors that all others read so."""
    able = (*_JOINS, *_MEANS_OF[placement.target])
    takes = {i for i, n in enumerate(graph.nodes) if n.op_type in able and n.name not in keep_float}
    means, moves = set(), set()
    if placement.target == "openvino":
        means = {i for i in takes if _feeds_a_layer(graph, placement, i)}
        moves = {i for i, n in enumerate(graph.nodes) if _moves_values(graph, n) and n.name not in keep_float}
    joins = moves | {i for i in takes if graph.nodes[i].op_type in _JOINS and len(graph.nodes[i].output) == 1}
    takes |= moves

    def integers(tensor: str) -> bool:
        """Whether nobody needs a tensor's floats, and someone reads a pair of it or joins it."""
        if tensor in graph.outputs or tensor in graph.constants:
            return False
        pairs, edges = placement.activations.get(tensor, []), graph.readers.get(tensor, [])
        if any(edge.node in moves and edge.slot > 0 for edge in edges):  # where to cut, not what
            return False
        wanted = any(edge in pairs or edge.node in joins | means for edge in edges)
        return wanted and all(edge in pairs or edge.node in takes for edge in edges)

    before = -1
    while before != len(joins):  # one counts as long as those behind it do
        before = len(joins)
        joins = {i for i in joins if integers(str(graph.nodes[i].output[0]))}
        takes -= {i for i in takes - joins if graph.nodes[i].op_type == "Concat" or i in moves}
    narrow: Set[str] = set()  # the largest values of windows leave out negative ones
    for index in sorted(takes, reverse=True):  # those behind first: theirs is the scale
        result = str(graph.nodes[index].output[0])
        root = placement.scale_of.get(result, result)
        holds_all = graph.nodes[index].op_type == "Concat" and result not in narrow
        for slot, tensor in enumerate(graph.nodes[index].input):
            if integers(tensor):
                placement.add(tensor, Edge(index, slot))
                same = holds_all or _positive(graph, tensor)
                # Who reads it besides needs what a narrow range leaves out.
                if index in joins - moves and (same or len(graph.readers.get(tensor, [])) == 1):
                    placement.scale_of.setdefault(tensor, root)
                    narrow |= set() if same else {tensor}
    for index in sorted(takes & moves):  # those before first: what is moved is a part of what was there
        tensor, result = str(graph.nodes[index].input[0]), str(graph.nodes[index].output[0])
        if integers(tensor):
            placement.scale_of.setdefault(result, placement.scale_of.get(tensor, tensor))


def _before_forms(graph: Graph, placement: Placement, keep_float: Tuple[str, ...]) -> None:
    """Quantise what a layer reads in another form where it is made: whoever makes it then writes integers."""
    pairs: Dict[str, List[Edge]] = {}
    for tensor, edges in placement.activations.items():
        before, node = (tensor, edges), graph.maker(tensor)
        while node is not None and node.op_type in FORMS and node.name not in keep_float:
            readers = graph.readers[before[0]]
            if before[0] in graph.outputs or not set(readers) <= set(before[1]):
                break
            source = str(node.input[0])
            before = source, [edge for edge in graph.readers[source] if graph.nodes[edge.node] is node]
            node = graph.maker(source)
        alone = before[0] not in graph.outputs and graph.readers[before[0]] == before[1]
        moved = alone and before[0] != tensor and tensor not in placement.scale_of
        pairs.setdefault(*(before if moved else (tensor, edges)))
        if moved:
            placement.scale_of[tensor] = before[0]
    placement.activations = pairs


def _positive(graph: Graph, tensor: str) -> bool:
    """Whether the graph says that a tensor has no negative values."""
    maker = graph.maker(tensor)
    if maker is None:
        return False
    if maker.op_type == "Concat":
        return all(_positive(graph, str(name)) for name in maker.input)
    if maker.op_type == "Clip":
        least = graph.array(maker.input[1]) if len(maker.input) > 1 else None
        return least is not None and bool((least >= 0).all())
    return maker.op_type in _POSITIVE or (maker.op_type in _SAME_RANGE and _positive(graph, str(maker.input[0])))


def _moves_values(graph: Graph, node: Any) -> bool:
    """Whether a node copies values, and zeros that a Pad adds."""
    if node.op_type != "Pad":
        return node.op_type in _MOVES
    given = {item.name: item for item in node.attribute}
    if ("mode" in given and given["mode"].s != b"constant") or ("value" in given and given["value"].f):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = graph.array(node.input[2])
    return value is not None and not value.any()


def _feeds_a_layer(graph: Graph, placement: Placement, index: int) -> bool:
    """Whether a mean's result goes to quantised layers and nowhere else."""
    node = graph.nodes[index]
    if node.op_type not in _MEANS_OF[placement.target]:
        return False
    tensor = str(node.output[0])
    while True:
        edges = graph.readers.get(tensor, [])
        if edges and tensor not in graph.outputs and set(edges) <= set(placement.activations.get(tensor, [])):
            return True
        if len(edges) != 1 or tensor in graph.outputs or graph.nodes[edges[0].node].op_type not in _SAME_RANGE:
            return False
        tensor = str(graph.nodes[edges[0].node].output[0])


def _layer(graph: Graph, placement: Placement, index: int) -> Weight:
    node = graph.nodes[index]
    weight = Weight(node.input[1], Edge(index, 1), channel_axis(node))
    placement.add(node.input[0], Edge(index, 0))
    placement.weights.append(weight)
    return weight


def _result(graph: Graph, index: int) -> str:
    """The tensor where a node's result is quantised: after the activation that follows it alone, if one does."""
    tensor = str(graph.nodes[index].output[0])
    readers = graph.readers.get(tensor, [])
    if len(readers) == 1 and tensor not in graph.outputs and graph.nodes[readers[0].node].op_type in _CLAMPS:
        return str(graph.nodes[readers[0].node].output[0])
    return tensor


def _whole_tensors(graph: Graph, layers: List[int], keep_float: Tuple[str, ...]) -> Placement:
    """ONNX Runtime's form: a tensor that a quantised operator makes or reads is quantised for everyone who reads it."""
    placement = Placement("onnxruntime")
    made: Set[str] = set()

    def emit(index: int) -> None:
        tensor = _result(graph, index)
        made.add(tensor)
        for edge in graph.readers.get(tensor, []):
            placement.add(tensor, edge)

    compute = set(layers)
    for index, node in enumerate(graph.nodes):
        if node.name in keep_float:
            continue
        if index in compute:
            _kernel(graph, placement, index, emit)
        elif node.op_type == "Concat" and made.issuperset(node.input):
            if node.output[0] not in graph.outputs:
                emit(index)
        elif node.op_type == "Add" and all(_quantised(graph, name, made) for name in node.input):
            if _result(graph, index) not in graph.outputs:
                for slot, name in enumerate(node.input):
                    placement.add(name, Edge(index, slot))
                emit(index)
        elif node.input and node.input[0] in made and node.output[0] not in graph.outputs:
            if node.op_type in _MEANS:
                emit(index)
            elif node.op_type in _SAME_RANGE and len(node.output) == 1:
                emit(index)
                source = str(node.input[0])
                placement.scale_of[str(node.output[0])] = placement.scale_of.get(source, source)
    return placement


def _quantised(graph: Graph, tensor: str, made: Set[str]) -> bool:
    """Whether an addition's input is a quantised operator's result, or derived from one without arithmetic."""
    if tensor in made:
        return True
    maker = graph.maker(tensor)
    return maker is not None and maker.op_type in ("Pad", "Concat") and maker.input[0] in made


def _kernel(graph: Graph, placement: Placement, index: int, emit: Any) -> None:
    node = graph.nodes[index]
    result = _result(graph, index)
    if node.op_type == "ConvTranspose":  # no quantised kernel on the CPU
        return
    if node.op_type == "Conv" and result in graph.outputs:  # QLinearConv has no float output; a float Conv is faster
        return
    weight = _layer(graph, placement, index)
    if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and graph.is_float(node.input[2]):
        placement.biases.append(Bias(str(node.input[2]), Edge(index, 2), str(node.input[0]), weight))
    readers = graph.readers.get(result, [])
    to_compute = any(edge.node in set(graph.weighted()) and edge.slot == 0 for edge in readers)
    if node.op_type == "Conv" or to_compute:
        emit(index)
