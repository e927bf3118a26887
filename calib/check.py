"""Refuse a Q/DQ graph that a target would reject, run slowly, or compute wrongly: each rule by name, each node by name.

The rules are those of TensorRT (NVIDIA's IQuantizeLayer and its explicit-quantisation guide); those about symmetry,
float bias and pairing hold for OpenVINO as well, where only the residual additions differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib.graph import Graph, channel_axis
from calib.placement import FORMS, TARGETS
from engines.errors import BuildError, UsageError

_QDQ = ("QuantizeLinear", "DequantizeLinear")

_FUSED_WITH_CONV = ("Relu", "Clip", "LeakyRelu", "BatchNormalization", "Add")
"""What a convolution is fused with, so that no Q/DQ may stand between."""


def check_qdq(onnx: Union[str, Path, Any], target: str = "tensorrt") -> List[str]:
    """Every breach of a target's rules for explicit quantisation.

    Args:
        onnx: A Q/DQ graph: path or ModelProto.
        target: tensorrt, openvino or onnxruntime.

    Returns:
        One line per breach, `RULE: node 'NAME': what is wrong`; empty where the graph is right.

    Raises:
        ModelError: Not an ONNX file.
        UsageError: An unknown target.
    """
    if target not in TARGETS:
        raise UsageError(f"no rules for {target!r}; known: {', '.join(TARGETS)}")
    model = graphs.load(onnx) if isinstance(onnx, (str, Path)) else onnx
    view = _View(model, target)
    if not view.pairs:
        return ["quantised: graph: it holds no QuantizeLinear or DequantizeLinear"]
    return [f"{rule.name}: {problem}" for rule in RULES if target in rule.targets for problem in rule.find(view)]


def require_qdq(onnx: Union[str, Path, Any], target: str = "tensorrt") -> None:
    """Raise where `check_qdq` finds something.

    Raises:
        BuildError: Names the first breach and how many there are.
    """
    problems = check_qdq(onnx, target)
    if problems:
        name = str(onnx) if isinstance(onnx, (str, Path)) else "the Q/DQ graph"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BuildError(f"{name}: {problems[0]}{more}", "quantise the FP32 graph with optimize calibrate or build")


class _View:
    """A Q/DQ graph with what the rules ask of it."""

    def __init__(self, model: Any, target: str) -> None:
        self.graph = Graph(model)
        self.target = target
        self.opset = graphs.opset(model)
        self.pairs = [node for node in self.graph.nodes if node.op_type in _QDQ]
        self.layers = [node for node in self.graph.nodes if node.op_type in graphs.COMPUTE and len(node.input) > 1]

    def maker(self, tensor: str, op: str) -> Optional[Any]:
        """The node that makes a tensor, if it is an `op`."""
        node = self.graph.maker(tensor)
        return node if node is not None and node.op_type == op else None

    def is_weight(self, node: Any) -> bool:
        """Whether a Q or DQ works on a constant."""
        source = node.input[0]
        if node.op_type == "DequantizeLinear":
            before = self.maker(source, "QuantizeLinear")
            source = before.input[0] if before is not None else source
        return source in self.graph.constants

    def constant(self, tensor: str) -> Optional[npt.NDArray[Any]]:
        """The value of an initializer, also behind one Cast."""
        cast = self.maker(tensor, "Cast")
        return self.graph.array(cast.input[0] if cast is not None else tensor)

    def quantised(self, tensor: str) -> bool:
        """Whether a tensor comes from a DequantizeLinear; for OpenVINO also in another form."""
        node = self.graph.maker(tensor)
        while self.target == "openvino" and node is not None and node.op_type in FORMS:
            node = self.graph.maker(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def source(self, tensor: str) -> str:
        """The float tensor behind a Q/DQ pair, or the tensor itself."""
        for op in ("DequantizeLinear", "QuantizeLinear"):
            node = self.maker(tensor, op)
            if node is None:
                return tensor
            tensor = node.input[0]
        return tensor


def _says(node: Any, what: str) -> str:
    return f"node {node.name or node.output[0]!r}: {what}"


def _opset(view: _View) -> Iterator[str]:
    if view.opset < 13:
        yield f"graph: opset {view.opset}, per-channel scales need 13"


def _int8(view: _View) -> Iterator[str]:
    for node in view.pairs:
        zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        kind = "uint8 (no zero point says otherwise)" if zero is None else str(zero.dtype)
        if zero is None and node.op_type == "DequantizeLinear":
            data = view.graph.array(node.input[0])
            kind = "int8" if data is None else str(data.dtype)
        if kind != "int8":
            yield _says(node, f"{kind}, only int8 is symmetric")


def _zero_point(view: _View) -> Iterator[str]:
    for node in view.pairs:
        zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is not None and np.any(zero != 0):
            yield _says(node, f"zero point {zero.reshape(-1)[0]}, it must be 0")


def _constant_scale(view: _View) -> Iterator[str]:
    for node in view.pairs:
        if view.constant(node.input[1]) is None:
            yield _says(node, f"scale {node.input[1]!r} is computed, it must be a constant")


def _positive_scale(view: _View) -> Iterator[str]:
    for node in view.pairs:
        scale = view.constant(node.input[1])
        if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
            yield _says(node, "a scale is not positive and finite")


def _float32_scale(view: _View) -> Iterator[str]:
    for node in view.pairs:
        scale = view.graph.array(node.input[1])
        if scale is not None and scale.dtype != np.float32 and view.opset < 19:
            yield _says(node, f"{scale.dtype} scale, below opset 19 it must be float32")


def _per_tensor(view: _View) -> Iterator[str]:
    for node in view.pairs:
        scale = view.constant(node.input[1])
        if scale is not None and scale.size > 1 and not view.is_weight(node):
            yield _says(node, f"{scale.size} scales on an activation, only weights have one per channel")


def _channel_axis(view: _View) -> Iterator[str]:
    for layer in view.layers:
        tensor = layer.input[1]
        for op in ("DequantizeLinear", "QuantizeLinear"):
            node = view.maker(tensor, op)
            if node is None:
                break
            scale, weight = view.constant(node.input[1]), view.constant(view.source(layer.input[1]))
            if scale is not None and weight is not None and scale.size > 1:
                axis = graphs.attribute(node, "axis", 1) % max(weight.ndim, 1)
                if axis != channel_axis(layer):
                    yield _says(
                        node, f"axis {axis}, the output channels of a {layer.op_type} are {channel_axis(layer)}"
                    )
                elif scale.shape != (weight.shape[axis],):
                    yield _says(node, f"{scale.size} scales for {weight.shape[axis]} channels")
            tensor = node.input[0]


def _float_weight(view: _View) -> Iterator[str]:
    for layer in view.layers:
        node = view.maker(layer.input[1], "DequantizeLinear")
        if node is not None and node.input[0] in view.graph.constants:
            yield _says(node, "an int8 constant; TensorRT 8 wants the float weight with Q and DQ")


def _float_bias(view: _View) -> Iterator[str]:
    for layer in view.layers:
        if layer.op_type != "MatMul" and len(layer.input) > 2 and view.quantised(layer.input[2]):
            yield _says(layer, "quantised bias, it must stay float")


def _folded_norm(view: _View) -> Iterator[str]:
    """Only where it can be folded: a convolution that others read as well keeps its own result."""
    bare = _without_qdq(view)
    for node in bare.nodes:
        if node.op_type == "BatchNormalization" and bare.fused_conv(node.input[0]) is not None:
            yield _says(node, "a batch normalisation behind a convolution, fold it before quantising")


def _paired(view: _View) -> Iterator[str]:
    for node in view.pairs:
        if node.op_type == "QuantizeLinear":
            readers = [view.graph.nodes[edge.node] for edge in view.graph.readers.get(node.output[0], [])]
            if not readers or any(reader.op_type != "DequantizeLinear" for reader in readers):
                yield _says(node, "a QuantizeLinear that no DequantizeLinear alone reads")
            continue
        before = view.maker(node.input[0], "QuantizeLinear")
        if before is None:
            if node.input[0] not in view.graph.constants:
                yield _says(node, "a DequantizeLinear without its QuantizeLinear")
            continue
        for slot, what in ((1, "scale"), (2, "zero point")):
            a, b = (view.constant(n.input[slot]) if len(n.input) > slot else None for n in (before, node))
            if a is not None and b is not None and not np.array_equal(a, b):
                yield _says(node, f"another {what} than its QuantizeLinear")


def _both_inputs(view: _View) -> Iterator[str]:
    for layer in view.layers:
        data, weight = (view.quantised(name) for name in layer.input[:2])
        # For ONNX Runtime whole tensors are quantised, so that a layer kept in float may read one.
        if data != weight and not (data and view.target == "onnxruntime"):
            yield _says(layer, f"only its {'input' if data else 'weight'} is quantised")


def _float_output(view: _View) -> Iterator[str]:
    for name in view.graph.outputs:
        node = view.graph.maker(name)
        if node is not None and node.op_type in _QDQ:
            yield _says(node, "a quantised model output, it must stay float")


def _nothing_after_conv(view: _View) -> Iterator[str]:
    """No Q/DQ between a convolution and what it is fused with; a residual's shortcut has its own rule."""
    skips, mains = _additions(view)
    for node in view.graph.nodes:
        if node.op_type not in _FUSED_WITH_CONV:
            continue
        for slot, name in enumerate(node.input):
            made = view.graph.maker(view.source(name)) if view.quantised(name) else None
            if made is None or made.op_type not in ("Conv", "ConvTranspose") or (node.output[0], slot) in skips:
                continue
            if view.target == "tensorrt" or (node.output[0], slot) not in mains:
                yield _says(node, f"Q/DQ between it and {made.name or made.op_type!r}, with which it is fused")


def _skip_quantised(view: _View) -> Iterator[str]:
    skips, mains = _additions(view)
    wanted = skips if view.target == "tensorrt" else skips | mains
    for node in view.graph.nodes:
        for slot, name in enumerate(node.input):
            if (node.output[0], slot) in wanted and not view.quantised(name):
                side = "skip" if (node.output[0], slot) in skips else "convolution's side"
                yield _says(node, f"the {side} of the residual addition (input {slot}) is not quantised")


_Slot = Tuple[str, int]


def _additions(view: _View) -> Tuple[Set[_Slot], Set[_Slot]]:
    """Skip and main slots, by output name, of the residual additions behind quantised convolutions."""
    bare = _without_qdq(view)
    kept = {node.output[0]: node for node in view.layers if view.quantised(node.input[1])}
    skips, mains = set(), set()
    for found in bare.residuals():
        node = bare.nodes[found.node]
        conv = bare.fused_conv(node.input[found.main])
        if conv is not None and bare.nodes[conv].output[0] in kept:
            skips.add((str(node.output[0]), found.skip))
            mains.add((str(node.output[0]), found.main))
    return skips, mains


def _without_qdq(view: _View) -> Graph:
    """The same graph with every Q/DQ pair taken out."""
    model = type(view.graph.model)()
    model.CopyFrom(view.graph.model)
    kept = [node for node in model.graph.node if node.op_type not in _QDQ]
    for node in kept:
        for slot, name in enumerate(node.input):
            node.input[slot] = view.source(name)
    fresh = [type(node).FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(fresh)
    return Graph(model)


def _unsigned(view: _View) -> Iterator[str]:
    """ONNX Runtime's kernels on x86 multiply uint8 by int8."""
    for node in view.pairs:
        zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if not view.is_weight(node) and (zero is None or zero.dtype != np.uint8) and node.op_type == "QuantizeLinear":
            yield _says(node, "an activation that is not uint8 misses the fast kernels")


class Rule(NamedTuple):
    """A rule of a target: what breaches it in a view, one line each."""

    name: str
    targets: Sequence[str]
    find: Callable[[_View], Iterator[str]]


_ALL, _SIGNED, _TRT = TARGETS, ("tensorrt", "openvino"), ("tensorrt",)

RULES: Tuple[Rule, ...] = (
    Rule("opset", _ALL, _opset),
    Rule("int8", _TRT, _int8),
    Rule("zero-point", _SIGNED, _zero_point),
    Rule("uint8", ("onnxruntime",), _unsigned),
    Rule("constant-scale", _ALL, _constant_scale),
    Rule("positive-scale", _ALL, _positive_scale),
    Rule("float32-scale", _ALL, _float32_scale),
    Rule("per-tensor-activation", _ALL, _per_tensor),
    Rule("channel-axis", _ALL, _channel_axis),
    Rule("float-weight", _TRT, _float_weight),
    Rule("float-bias", _SIGNED, _float_bias),
    Rule("folded-norm", _ALL, _folded_norm),
    Rule("paired", _ALL, _paired),
    Rule("both-inputs", _ALL, _both_inputs),
    Rule("float-output", _ALL, _float_output),
    Rule("after-conv", _SIGNED, _nothing_after_conv),
    Rule("residual-skip", _SIGNED, _skip_quantised),
)
"""In the order in which they are reported."""

RULE_NAMES: Dict[str, Sequence[str]] = {rule.name: rule.targets for rule in RULES}
"""Targets by rule."""
