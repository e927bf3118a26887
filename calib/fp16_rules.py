"""Which nodes of a graph may compute in a 16-bit float, and why the others stay in float32.

What a node can take is asked of ONNX's own operator schemas, at the graph's opset: so Resize keeps float32 scales while
its data are halved, Clip's and Pad's scalars follow their data, and QuantizeLinear turns with its scale at opset 19.
What it should take is decided by a table of fragile operators, by its constants, and by measured ranges.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Set

import numpy as np
import numpy.typing as npt

from calib.graph import COMPUTE, Graph, channel_axis
from engines.errors import UsageError


class Format(NamedTuple):
    """A 16-bit float: its ONNX name, largest finite and smallest normal value, binary digits after the point."""

    name: str
    largest: float
    normal: float
    digits: int


FORMATS = {
    "float16": Format("float16", 65504.0, 2.0**-14, 10),
    "bfloat16": Format("bfloat16", float(np.float32(2.0**127 * (2 - 2.0**-7))), 2.0**-126, 7),
}

HEADROOM = 2.0
"""Measured ranges are of some images only: a tensor may become this much larger on others, one bit of the exponent."""

FRAGILE: Dict[str, str] = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Exp", "Softplus"), "exponentials overflow"),
    **dict.fromkeys(("ReduceLogSumExp", "ReduceLogSum", "Log"), "logarithms lose small values"),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceProd", "CumSum"), "long sums overflow"),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL1", "ReduceL2", "LpPool", "GlobalLpPool"), "sums of powers overflow"),
    **dict.fromkeys(("Pow", "Sqrt", "Reciprocal"), "powers and roots of small values"),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), "sums of squares overflow"),
    **dict.fromkeys(("LpNormalization", "MeanVarianceNormalization", "LRN", "RMSNormalization"), "sums of squares"),
    **dict.fromkeys(("RoiAlign", "MaxRoiPool", "GridSample", "AffineGrid", "NonMaxSuppression"), "coordinates"),
    **dict.fromkeys(("Sin", "Cos", "Tan", "Range", "Mod"), "large arguments lose their fraction"),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Det"), "errors add up over the steps"),
}
"""Operators that stay in float32, with the reason."""

_TYPED_BY_ATTRIBUTE = (
    *("Constant", "EyeLike", "Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomNormalLike"),
    *("RandomUniformLike", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"),
)

_SATURABLE = ("Clip", "Min", "Max", "Where", "Pad", "Add", "Sub", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
"""Operators in which a constant beyond the range means "as large as can be": bounds, fillers and additive masks."""

QDQ = ("QuantizeLinear", "DequantizeLinear")
"""A pair of them is what TensorRT reads INT8 from."""

_POINTWISE = (
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid"),
    *("HardSwish", "Tanh", "Mish", "Gelu", "Erf", "Softsign", "Add", "Sub", "Mul", "Div", "Min", "Max", "Neg", "Abs"),
    *("BatchNormalization", "Identity", "Where"),
)
"""What TensorRT fuses into the layer before it, so that no Cast may stand between."""

SHAPES = ("Shape", "Size")
"""Operators that read no value."""

FLOAT = 1
"""`TensorProto.FLOAT`, known without importing onnx."""


class Slots(NamedTuple):
    """Inputs and outputs of a node that become 16-bit with it."""

    inputs: FrozenSet[int]
    outputs: FrozenSet[int]


def element_types(model: Any) -> Dict[str, int]:
    """Inferred element type (`TensorProto.DataType`) of every tensor of the main graph that has a known one."""
    graph = model.graph
    items = [*graph.input, *graph.value_info, *graph.output]
    types = {item.name: int(item.type.tensor_type.elem_type) for item in items if item.type.HasField("tensor_type")}
    types.update({item.name: int(item.data_type) for item in graph.initializer})
    return {name: kind for name, kind in types.items() if kind}


def schema_of(node: Any, opset: int) -> Optional[Any]:
    """ONNX's definition of a node's operator at an opset; None for another domain or an unknown operator."""
    from onnx import defs

    if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type):
        return None
    return defs.get_schema(node.op_type, opset, "")


def slots(node: Any, opset: int, types: Mapping[str, int], name: str) -> Slots:
    """The float32 inputs and outputs of a node for which its operator knows the 16-bit type `name` as well."""
    schema = schema_of(node, opset)
    if schema is None:
        return Slots(frozenset(), frozenset())
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}

    def fitting(names: Sequence[str], formals: Sequence[Any]) -> FrozenSet[int]:
        found = set()
        for slot, tensor in enumerate(names):
            if types.get(tensor) == FLOAT and formals:  # the last formal stands for all that follow
                kind = formals[min(slot, len(formals) - 1)].type_str
                if f"tensor({name})" in allowed.get(kind, {kind}):
                    found.add(slot)
        return frozenset(found)

    return Slots(fitting(node.input, schema.inputs), fitting(node.output, schema.outputs))


def rounded(values: npt.NDArray[Any], form: Format) -> npt.NDArray[Any]:
    """float32 values on the grid of a 16-bit float: nearest even, finite ones stay finite, infinities stay.

    Returns:
        float32, of the same shape.
    """
    finite = np.where(np.isfinite(values), np.clip(values, -form.largest, form.largest), values).astype(np.float32)
    if form.name == "float16":
        return np.asarray(finite.astype(np.float16).astype(np.float32))
    bits = np.ascontiguousarray(finite).view(np.uint32)
    kept = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.asarray(np.where(np.isfinite(finite), kept.view(np.float32), finite).reshape(values.shape))


class Plan(NamedTuple):
    """What becomes 16-bit.

    Attributes:
        low: Per index of a node that computes in the 16-bit float, its slots.
        kept: Per index of a node that stays in float32 although it reads or makes floats, the reason.
    """

    low: Dict[int, Slots]
    kept: Dict[int, str]


class _Planner:
    """A graph with what the rules ask of it; `kept` grows rule by rule."""

    def __init__(self, graph: Graph, opset: int, types: Mapping[str, int], form: Format) -> None:
        self.graph, self.opset, self.types, self.form = graph, opset, types, form
        self.slots = {i: slots(node, opset, types, form.name) for i, node in enumerate(graph.nodes)}
        self.kept: Dict[int, str] = {}

    def floats(self, index: int) -> List[str]:
        """The float32 tensors that a node reads and that are no constants."""
        names = self.graph.nodes[index].input
        return [n for n in names if self.types.get(n) == FLOAT and n not in self.graph.constants]

    def made(self, index: int) -> List[str]:
        """The float32 tensors that a node makes."""
        return [n for n in self.graph.nodes[index].output if self.types.get(n) == FLOAT]

    def neutral(self, index: int) -> bool:
        """Whether a node has no type of its own: a Cast to or from float, or one that reads no more than a shape."""
        node = self.graph.nodes[index]
        one = node.op_type == "Cast" and (self.types.get(node.input[0]) != FLOAT or not self.made(index))
        return one or node.op_type in SHAPES

    def low(self, index: int) -> bool:
        """Whether a node is to compute in 16 bits, as far as decided."""
        found = self.slots[index]
        return index not in self.kept and not self.neutral(index) and bool(found.inputs or found.outputs)

    def keep(self, index: int, why: str) -> None:
        """Let a node stay in float32; the first reason stands."""
        self.kept.setdefault(index, why)


def plan(
    model: Any,
    opset: int,
    types: Mapping[str, int],
    form: Format,
    keep: Sequence[str] = (),
    ranges: Optional[Mapping[str, float]] = None,
) -> Plan:
    """Decide for every node of a graph whether it computes in a 16-bit float.

    Args:
        model: ModelProto with its constants as initializers.
        opset: Of the default domain.
        types: Element types by tensor, `element_types` of the inferred model.
        form: The 16-bit float.
        keep: Names of nodes that stay in float32.
        ranges: Largest |x| per tensor; tensors that are missing count as harmless.

    Raises:
        UsageError: `keep` names a node that the graph lacks.
    """
    graph = Graph(model)
    missing = sorted(set(keep) - {label(node) for node in graph.nodes})
    if missing:
        raise UsageError(f"the graph has no node {missing[0]!r} to keep in float32", "optimize inspect lists the nodes")
    planner = _Planner(graph, opset, types, form)
    shaped = _from_shapes(planner)
    for index, node in enumerate(graph.nodes):
        if planner.neutral(index) or not (planner.floats(index) or planner.made(index)):
            continue
        why = "asked for" if label(node) in keep else _unable(planner, index) or FRAGILE.get(node.op_type, "")
        why = why or ("computes a shape" if index in shaped else "") or _scale_lost(planner, index)
        why = why or _constants(planner, index) or _range(planner, index, ranges or {})
        if why:
            planner.keep(index, why)
    _quantised_regions(planner)
    _between(planner)
    return Plan({i: planner.slots[i] for i in range(len(graph.nodes)) if planner.low(i)}, planner.kept)


def label(node: Any) -> str:
    """A node's name, or that of its first output where it has none."""
    return str(node.name or (node.output[0] if node.output else ""))


def _unable(planner: _Planner, index: int) -> str:
    """Why a node cannot be cast at all."""
    node, found, form = planner.graph.nodes[index], planner.slots[index], planner.form
    if any(item.HasField("g") or item.graphs for item in node.attribute):
        return "its body stays in float32"
    if schema_of(node, planner.opset) is None:
        return f"no {node.op_type} in ONNX, its types are unknown"
    fixed = any(item.name == "output_dtype" and item.i == FLOAT for item in node.attribute)
    if node.op_type in _TYPED_BY_ATTRIBUTE or fixed:
        return "its type is an attribute"
    if any(name and name not in planner.types for name in [*node.input, *node.output]):
        return "the type of one of its tensors is unknown"
    if node.op_type in QDQ and not pairs_follow(planner.opset):
        return "its scale is float32"
    if not (found.inputs or found.outputs):
        return f"opset {planner.opset} has no {form.name} {node.op_type}"
    return ""


def _from_shapes(planner: _Planner) -> Set[int]:
    """Nodes whose floats derive from shapes and constants alone: sizes must stay exact."""
    derived = dict.fromkeys(planner.graph.constants, False)  # True where a shape is among the sources
    found = set()
    for index, node in enumerate(planner.graph.nodes):
        inputs = [name for name in node.input if name]
        if node.op_type in SHAPES:
            derived.update(dict.fromkeys(node.output, True))
        elif inputs and all(name in derived for name in inputs) and node.op_type not in ("ConstantOfShape", "Expand"):
            shaped = any(derived[name] for name in inputs)
            derived.update(dict.fromkeys(node.output, shaped))
            if shaped:
                found.add(index)
    return found


@lru_cache(maxsize=None)
def pairs_follow(opset: int) -> bool:
    """Whether Q/DQ pairs may have 16-bit scales: from opset 19, where ONNX itself knows that their results follow.

    ONNX 1.14 has the opset, but takes every dequantised tensor for float32.
    """
    from onnx import TensorProto, helper, shape_inference

    if opset < 19:
        return False
    half, int8 = TensorProto.FLOAT16, TensorProto.INT8
    inputs = [helper.make_tensor_value_info(*item) for item in (("q", int8, [1]), ("scale", half, []))]
    node = helper.make_node("DequantizeLinear", ["q", "scale"], ["x"])
    graph = helper.make_graph([node], "pair", inputs, [helper.make_empty_tensor_value_info("x")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    (result,) = shape_inference.infer_shapes(model).graph.output
    return bool(result.type.tensor_type.elem_type == half)


def _scale_lost(planner: _Planner, index: int) -> str:
    """A pair stays in float32 where its scale would change too much."""
    node = planner.graph.nodes[index]
    if node.op_type not in QDQ:
        return ""
    scale = planner.graph.array(node.input[1])
    if scale is None:
        return "a computed scale"
    return "" if scale_fits(scale, planner.form) else f"scale {float(scale.max()):.3g} loses digits"


def scale_fits(scale: npt.NDArray[Any], form: Format) -> bool:
    """Whether rounding moves a scale by less than 1/256: half an int8 step at the end of the range."""
    values = scale.astype(np.float32)
    return bool(np.all(np.abs(rounded(values, form) - values) < 2.0**-8 * values))


def rounded_up(values: npt.NDArray[Any], form: Format) -> npt.NDArray[Any]:
    """Positive float32 values on the grid of a 16-bit float, not below what they were (save at its largest value)."""
    grid = rounded(values, form)
    step = np.maximum(grid, np.float32(form.normal)) * np.float32(2.0**-form.digits)
    return np.where(grid < values, rounded(grid + step, form), grid).astype(np.float32)


def _constants(planner: _Planner, index: int) -> str:
    """Constants that the format cannot hold: factors beyond its range, and those too small to keep their digits."""
    node, form = planner.graph.nodes[index], planner.form
    for slot in sorted(planner.slots[index].inputs):
        value = planner.graph.array(node.input[slot])
        if value is None or not value.size or node.op_type in QDQ:
            continue
        sizes = np.abs(value[np.isfinite(value)])
        peak = float(sizes.max()) if sizes.size else 0.0
        if peak > form.largest and node.op_type not in _SATURABLE:
            return f"constant {node.input[slot]!r} reaches {peak:.3g}"
        bias = slot == 2 and node.op_type in ("Conv", "ConvTranspose", "Gemm")
        if 0 < peak < form.normal and not bias:
            return f"constant {node.input[slot]!r} is at most {peak:.3g}"
        if node.op_type == "BatchNormalization" and slot == 4 and float(sizes.min()) < form.normal:
            return f"variance {node.input[slot]!r} is as small as {float(sizes.min()):.3g}"
    return ""


def _range(planner: _Planner, index: int, ranges: Mapping[str, float]) -> str:
    """What overflows by the measured ranges: inputs, outputs, or the sum inside; or vanishes as a whole."""
    form, node = planner.form, planner.graph.nodes[index]
    for name in [*planner.floats(index), *planner.made(index)]:
        peak = ranges.get(name, 0.0)
        if not peak * HEADROOM <= form.largest:
            return f"|x| reaches {peak:.3g} in {name!r}"
        if 0 < peak < form.normal:
            return f"|x| is at most {peak:.3g} in {name!r}"
    peak = ranges.get(node.input[0], 0.0) if node.input else 0.0
    found = peak * _accumulated(planner.graph, index) if peak else 0.0
    return f"a sum inside may reach {found:.3g}" if found > form.largest else ""


def _accumulated(graph: Graph, index: int) -> float:
    """Bound of the sum inside a layer or pooling with inputs up to 1: the largest sum of |weights| of a channel."""
    node = graph.nodes[index]
    if node.op_type in COMPUTE and len(node.input) > 1:
        weight = graph.array(node.input[1])
        if weight is None or weight.ndim < 2:
            return 0.0
        axis = weight.ndim - 1 if node.op_type == "MatMul" else channel_axis(node)
        others = tuple(i for i in range(weight.ndim) if i != axis)
        return float(np.abs(weight.astype(np.float64)).sum(axis=others).max()) if weight.size else 0.0
    if node.op_type == "GlobalAveragePool":
        return float(np.prod([n or 1 for n in (graph.shapes.get(node.input[0]) or ())[2:]]))
    kernel = next((item.ints for item in node.attribute if item.name == "kernel_shape"), ())
    return float(np.prod(kernel)) if node.op_type == "AveragePool" else 0.0


def _quantised_regions(planner: _Planner) -> None:
    """Where a DequantizeLinear stays in float32, so does all that TensorRT fuses with it, up to the next Q.

    A Cast between DequantizeLinear and its layer would stand in the middle of the pattern that is fused to an INT8
    kernel. So the layer, and the element-wise operators behind it, take the type of the pair: inside the kernel
    they work on the float accumulator, whatever its type in the graph.
    """
    graph = planner.graph
    region: Set[int] = set()
    for index, node in enumerate(graph.nodes):
        makers = [graph.producer.get(name) for name in planner.floats(index)]
        made = [m for m in makers if m is not None]
        dequantised = any(graph.nodes[m].op_type == "DequantizeLinear" and m in planner.kept for m in made)
        behind = node.op_type in _POINTWISE and made and len(made) == len(makers) and all(m in region for m in made)
        if node.op_type not in QDQ and (dequantised or behind):
            if planner.low(index):
                planner.keep(index, "reads a float32 DequantizeLinear" if dequantised else "fused with a float32 layer")
            region.add(index)


def _between(planner: _Planner) -> None:
    """Leave in float32 what stands between float32 nodes only: casting there and back would gain nothing."""
    graph, heavy = planner.graph, (*COMPUTE, *QDQ, "Einsum")
    cheap = {i for i, node in enumerate(graph.nodes) if planner.low(i) and node.op_type not in heavy}
    while cheap:
        stack = [cheap.pop()]
        group, around = set(stack), set()
        while stack:
            for near in _neighbours(planner, stack.pop()):
                if near in cheap:
                    cheap.remove(near)
                    group.add(near)
                    stack.append(near)
                elif near not in group:
                    around.add(near)
        if around and not any(planner.low(i) for i in around):
            for index in group:
                planner.keep(index, "between float32 nodes")


def _neighbours(planner: _Planner, index: int) -> List[int]:
    """Nodes that make or read a node's floats, without those that have no type of their own."""
    graph = planner.graph
    found = [graph.producer[name] for name in planner.floats(index) if name in graph.producer]
    found += [edge.node for name in planner.made(index) for edge in graph.readers.get(name, ())]
    return [i for i in found if not planner.neutral(i)]
