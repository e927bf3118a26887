"""Walking an ONNX graph: who makes a tensor, who reads it, what is constant, which additions close a residual block."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from calib import weightfile
from engines.errors import ModelError

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input, where constant, is a weight to quantise."""

_PASS = ("BatchNormalization", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Dropout")
"""What may stand between a convolution and the addition that it is fused with (tf2onnx leaves some of these)."""


def load(path: Union[str, Path]) -> Any:
    """Read an ONNX file as a ModelProto in one form: constants as initializers, MatMul and its bias as one Gemm, and
    a name for every node. What `calib.weightfile` wrote has that form and leaves its weights in their file.

    Raises:
        ModelError: Not a readable ONNX file.
    """
    import onnx
    from onnx import external_data_helper

    try:
        model = onnx.load(str(path), load_external_data=False)
        if weightfile.is_split(model):
            weightfile.attach(model, path)
            return model
        external_data_helper.load_external_data_for_model(model, str(Path(path).parent))
    except OSError:
        raise
    except Exception:  # protobuf's DecodeError, whose module moves between its versions
        raise ModelError(f"{path}: not an ONNX file") from None
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{path}: not an ONNX file, or it holds no node")
    constants_to_initializers(model)
    matmul_to_gemm(model)
    name_nodes(model)
    return model


def name_nodes(model: Any) -> None:
    """Give nodes without a name, or with another's, that of their first output, in place: names tell layers apart."""
    taken = {""}
    for node in model.graph.node:
        if node.name in taken:
            node.name = node.output[0]
        taken.add(node.name)


def constants_to_initializers(model: Any) -> None:
    """Turn `Constant` nodes that hold a tensor into initializers, in place, so that weights are found in one place."""
    kept = []
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        value.name = node.output[0]
        model.graph.initializer.append(value)
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(kept)


def matmul_to_gemm(model: Any) -> None:
    """Turn a MatMul of matrices with a constant bias added into a Gemm, in place.

    ONNX Runtime does so as well, but between the Q/DQ nodes, after which the layer runs in float.
    """
    if not any(node.op_type == "MatMul" for node in model.graph.node):
        return
    graph = Graph(model)
    gone = []
    for index in graph.weighted():
        node, readers = graph.nodes[index], graph.readers.get(graph.nodes[index].output[0], [])
        add = graph.nodes[readers[0].node] if len(readers) == 1 else None
        if node.op_type != "MatMul" or add is None or add.op_type != "Add" or node.output[0] in graph.outputs:
            continue
        bias = add.input[1 - readers[0].slot]
        width = list(graph.constants[node.input[1]].dims)[1]
        if not graph.is_float(bias) or list(graph.constants[bias].dims) != [width]:
            continue
        if len(graph.shapes.get(node.input[0], ())) == 2:
            node.op_type = "Gemm"
            node.input.append(bias)
            node.output[0] = add.output[0]
            gone.append(add)
    for add in gone:
        model.graph.node.remove(add)


def opset(model: Any) -> int:
    """Version of the default operator set; 0 where none is named."""
    return max((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


def attribute(node: Any, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def channel_axis(node: Any) -> int:
    """Axis of the output channels in the weight of a Conv, ConvTranspose, Gemm or MatMul.

    Source: the rules for per-channel scales of TensorRT's IQuantizeLayer; the same axis holds the output channels
    elsewhere.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1


class Edge(NamedTuple):
    """One input of one node: `node` indexes the graph's nodes, `slot` the node's inputs."""

    node: int
    slot: int


class Residual(NamedTuple):
    """An addition that closes a residual block: the slot fed by the convolution it fuses with, and the skip's slot."""

    node: int
    main: int
    skip: int


class Graph:
    """A read-only view of a model's main graph.

    Attributes:
        nodes: In topological order, as ONNX demands.
        producer: Index of the node that makes a tensor; inputs and initializers have none.
        readers: The edges that read a tensor.
        constants: Initializers by name.
        inputs, outputs: Names of what a caller feeds and gets.
        shapes: Inferred shapes, None where a dimension is free; tensors of unknown rank are absent.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes: List[Any] = list(model.graph.node)
        self.constants: Dict[str, Any] = {item.name: item for item in model.graph.initializer}
        self.inputs = [item.name for item in model.graph.input if item.name not in self.constants]
        self.outputs = [item.name for item in model.graph.output]
        self.producer: Dict[str, int] = {}
        self.readers: Dict[str, List[Edge]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.output:
                if name:
                    self.producer[name] = index
            for slot, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append(Edge(index, slot))
        self._shapes: Optional[Dict[str, Tuple[Optional[int], ...]]] = None

    @property
    def shapes(self) -> Dict[str, Tuple[Optional[int], ...]]:
        """Shapes by tensor, inferred on first use."""
        if self._shapes is None:
            self._shapes = _shapes(self.model)
        return self._shapes

    def maker(self, tensor: str) -> Optional[Any]:
        """The node that makes a tensor, or None."""
        index = self.producer.get(tensor)
        return None if index is None else self.nodes[index]

    def array(self, tensor: str) -> Optional[npt.NDArray[Any]]:
        """The value of an initializer, or None."""
        found = self.constants.get(tensor)
        return None if found is None else weightfile.array(self.model, found)

    def is_float(self, tensor: str) -> bool:
        """Whether an initializer holds float32."""
        from onnx import TensorProto

        return tensor in self.constants and int(self.constants[tensor].data_type) == int(TensorProto.FLOAT)

    def weighted(self) -> List[int]:
        """Nodes with a constant float32 weight as second input: the layers to quantise.

        A MatMul counts with a matrix as weight only; a Gemm with its first input as it stands (transA = 0).
        """
        found = []
        for index, node in enumerate(self.nodes):
            if node.op_type not in COMPUTE or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
                continue
            if node.input[0] in self.constants or not self.is_float(node.input[1]):
                continue
            rank = len(self.constants[node.input[1]].dims)
            if (node.op_type in ("Gemm", "MatMul") and rank != 2) or rank < 2 or attribute(node, "transA", 0):
                continue
            found.append(index)
        return found

    def multiplications(self, index: int) -> int:
        """Multiply-accumulates of a Conv, ConvTranspose, Gemm or MatMul for one image; 0 where its shape is unknown.

        Every weight is used once for each position of the output (of the input, for ConvTranspose).
        """
        node = self.nodes[index]
        dims = list(self.constants[node.input[1]].dims)
        shape = self.shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
        if shape is None or any(size is None for size in shape[1:]):
            return 0
        sizes = [int(size or 0) for size in shape[1:]]
        positions = sizes[1:] if node.op_type in ("Conv", "ConvTranspose") else sizes[:-1]
        return int(math.prod(dims) * math.prod(positions))

    def fused_conv(self, tensor: str) -> Optional[int]:
        """The convolution whose result reaches `tensor` unshared, through nothing but `_PASS`; None where none does."""
        while True:
            if len(self.readers.get(tensor, ())) != 1 or tensor in self.outputs:
                return None
            index = self.producer.get(tensor)
            if index is None:
                return None
            node = self.nodes[index]
            if node.op_type in ("Conv", "ConvTranspose"):
                return index
            if node.op_type not in _PASS:
                return None
            tensor = node.input[0]

    def residuals(self) -> List[Residual]:
        """Every addition of two activations of one shape where at least one side comes straight from a convolution.

        The main side is that convolution's; where both sides are convolutions it is the deeper one (more
        convolutions on the longest path), so that the shortcut's is the skip.
        """
        depth = self._depths()
        found = []
        for index, node in enumerate(self.nodes):
            if node.op_type != "Add" or any(name in self.constants for name in node.input):
                continue
            if node.input[0] == node.input[1] or not self._same_shape(node.input[0], node.input[1]):
                continue
            convs = [self.fused_conv(name) for name in node.input]
            if convs[0] is None and convs[1] is None:
                continue
            ranks = [-1 if conv is None else depth[conv] for conv in convs]
            main = 1 if ranks[1] > ranks[0] else 0
            found.append(Residual(index, main, 1 - main))
        return found

    def _depths(self) -> List[int]:
        """Per node, convolutions on the longest path from an input up to and with it."""
        depths: List[int] = []
        for node in self.nodes:
            before = max((depths[self.producer[n]] for n in node.input if n in self.producer), default=0)
            depths.append(before + (node.op_type in ("Conv", "ConvTranspose")))
        return depths

    def _same_shape(self, a: str, b: str) -> bool:
        first, second = self.shapes.get(a), self.shapes.get(b)
        if first is None or second is None:
            return True
        known = [(m, n) for m, n in zip(first, second) if m is not None and n is not None]
        return len(first) == len(second) and all(m == n for m, n in known)


_SMALL = 1024
"""Elements of an initializer that may decide a shape; larger ones are weights, whose values shapes do not need."""


def _shapes(model: Any) -> Dict[str, Tuple[Optional[int], ...]]:
    import onnx

    weights = {item.name for item in model.graph.initializer if _elements(item) > _SMALL}
    graph = onnx.shape_inference.infer_shapes(_without_values(model, weights) if weights else model).graph
    shapes: Dict[str, Tuple[Optional[int], ...]] = {}
    for item in [*graph.input, *graph.value_info, *graph.output]:
        kind = item.type.tensor_type
        if kind.HasField("shape") and item.name not in weights:
            shapes[item.name] = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in kind.shape.dim)
    return shapes


def _elements(item: Any) -> int:
    return int(np.prod(list(item.dims), dtype=np.int64))


def _without_values(model: Any, weights: Collection[str]) -> Any:
    """A copy in which weights are inputs: the inference copies a model three times, values and all."""
    from onnx import helper

    lean = type(model)(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    lean.graph.name = model.graph.name
    lean.graph.node.extend(model.graph.node)
    known = {item.name for item in model.graph.input}
    lean.graph.input.extend(model.graph.input)
    lean.graph.output.extend(model.graph.output)
    lean.graph.value_info.extend(model.graph.value_info)
    for item in model.graph.initializer:
        if item.name not in weights:
            lean.graph.initializer.append(item)
        elif item.name not in known:
            lean.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)))
    return lean
