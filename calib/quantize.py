"""Write explicit Q/DQ graphs: the form that TensorRT, OpenVINO and ONNX Runtime read INT8 from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Collection, Dict, List, Mapping, NamedTuple, Set, Tuple, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import placement as placements
from calib import weightfile
from calib.placement import Bias, Placement, Weight
from engines import jsonfile
from engines.errors import BuildError, ModelError

_FLOOR = np.float32(2.0**-40)
"""Smallest scale of a channel: positive, so that a dead channel stays legal and becomes zero."""

_INT32 = float(2**31 - 1)


class Quant(NamedTuple):
    """Scale and zero point of an activation; `signed` tells int8 from uint8."""

    scale: float
    zero: int = 0
    signed: bool = True


def weight_scales(weight: npt.NDArray[Any], axis: int, limit: int = 127) -> npt.NDArray[Any]:
    """Symmetric scales per channel: max |w| / limit.

    Args:
        weight: Float array.
        axis: Of the channels.
        limit: Largest magnitude of the integers, 127 for 8 bits or 63 for 7.

    Returns:
        float32, shape (channels,), all positive.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peaks = np.abs(weight).max(axis=others) if weight.size else np.zeros(weight.shape[axis])
    return np.maximum((peaks / np.float32(limit)).astype(np.float32), _FLOOR)


def quantise_weight(
    weight: npt.NDArray[Any], scales: npt.NDArray[Any], axis: int, limit: int = 127
) -> npt.NDArray[Any]:
    """Round half to even of weight / scale, clamped to [-limit, limit]: what QuantizeLinear does, as int8."""
    units = weight / _along(scales, axis, weight.ndim)
    np.rint(units, units)  # in place: weights are large, boards small
    return np.clip(units, -limit, limit, units).astype(np.int8)


def rounded_weight(weight: npt.NDArray[Any], axis: int, limit: int = 127) -> npt.NDArray[Any]:
    """What a weight is after quantisation with its own scales, float32."""
    scales = weight_scales(weight, axis, limit)
    return quantise_weight(weight, scales, axis, limit) * _along(scales, axis, weight.ndim)


def _along(scales: npt.NDArray[Any], axis: int, rank: int) -> npt.NDArray[Any]:
    """Scales of channels in the shape that multiplies a weight."""
    shape = [1] * rank
    shape[axis] = -1
    return scales.reshape(shape)


def quant(scale: float, nonnegative: bool, target: str) -> Quant:
    """Scale and zero point of an activation with the symmetric int8 `scale` (range 127 x scale).

    Where a tensor is never negative, uint8 with zero point 0 covers it with 255 steps instead of 127, and x86 CPUs
    without AMX multiply uint8 by int8 without a detour (VNNI, ResNet-34, batch 64 on two cores: 8.4 ms instead of
    13.1). TensorRT takes int8 only. ONNX Runtime's kernels want uint8 for the others too, with zero point 128.
    """
    if nonnegative and target != "tensorrt":
        return Quant(scale * 127.0 / 255.0, 0, False)
    return Quant(scale, 128, False) if target == "onnxruntime" else Quant(scale)


def levels(nonnegative: bool, target: str) -> int:
    """Steps from 0 to the largest value that `quant` gives an activation: 127, or 255 where uint8 starts at 0."""
    found = quant(1.0, nonnegative, target)
    return 127 if found.signed or found.zero else 255


def quantize(
    onnx: Any,
    out: Union[str, Path],
    scales: Mapping[str, float],
    target: str,
    *,
    nonnegative: Collection[str] = (),
    keep_float: Tuple[str, ...] = (),
    weight_bits: int = 8,
    metadata: Mapping[str, str] = {},
) -> Dict[str, Any]:
    """Write the Q/DQ form of an FP32 graph for a target.

    Args:
        onnx: FP32 graph, opset 13 or later, batch normalisations folded: a file, or as `calib.graph.load` gives it,
            which is then changed.
        out: Where the new graph is written, atomically.
        scales: Symmetric int8 scale (largest |x| / 127) per tensor that `placement.points(...).measured()` names.
        target: `tensorrt`, `openvino` or `onnxruntime`.
        nonnegative: Tensors without negative values (used by onnxruntime).
        keep_float: Names of nodes that stay float.
        weight_bits: 8, or 7 where the CPU's 8-bit dot product saturates (x86 without VNNI).
        metadata: Written into the model's metadata.

    Returns:
        `{"onnx", "activations", "weights", "biases"}`: the path, and how many of each were quantised.

    Raises:
        BuildError: Nothing to quantise, or a tensor's scale is missing.
        ModelError: The graph is not ONNX, has an older opset, or holds Q/DQ nodes already.
    """
    model, name = (graphs.load(onnx), onnx) if isinstance(onnx, (str, Path)) else (onnx, "the graph")
    require_float(model, str(name))
    place = placements.points(model, target, keep_float)
    if not place.weights:
        raise BuildError(
            f"{name}: no Conv, Gemm or MatMul with a constant weight, nothing to quantise", "--precision fp16"
        )
    counts = insert(model, place, scales, nonnegative, weight_bits)
    weightfile.fill(model)
    _set_metadata(model, metadata)
    with jsonfile.replacing_file(out) as part:
        part.write_bytes(model.SerializeToString())
    return {"onnx": str(out), **counts}


def insert(
    model: Any, place: Placement, scales: Mapping[str, float], nonnegative: Collection[str], weight_bits: int = 8
) -> Dict[str, int]:
    """Put the Q/DQ nodes of a placement into its model, in place; how many activations, weights and biases got some."""
    writer = _Writer(model, place, _quants(place, scales, nonnegative), 63 if weight_bits == 7 else 127)
    writer.write()
    return {"activations": len(place.activations), "weights": len(place.weights), "biases": len(writer.biases)}


def require_float(model: Any, name: str) -> None:
    """Refuse a model that cannot be quantised.

    Raises:
        ModelError: An opset before 13 (no per-channel axis), or Q/DQ nodes already there.
    """
    if graphs.opset(model) < 13:
        raise ModelError(f"{name}: opset {graphs.opset(model)}, INT8 needs 13 or later", "optimize export --opset 17")
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise ModelError(f"{name}: already quantised", "give the FP32 model")


def _quants(place: Placement, scales: Mapping[str, float], nonnegative: Collection[str]) -> Dict[str, Quant]:
    found = {}
    for name in place.activations:
        source = place.scale_of.get(name, name)
        if source not in scales:
            raise BuildError(f"no range is known for tensor {source!r}", "calibrate the same graph for the same target")
        found[name] = quant(float(scales[source]), source in nonnegative, place.target)
    return found


def _set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    kept = [item for item in model.metadata_props if item.key not in metadata]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)


@dataclass
class _Writer:
    """Puts the nodes of a placement into a model, in place."""

    model: Any
    place: Placement
    quants: Dict[str, Quant]
    limit: int
    biases: List[Bias] = field(default_factory=list)
    _before: Dict[int, List[Any]] = field(default_factory=dict)
    _after: Dict[int, List[Any]] = field(default_factory=dict)
    _outside: Set[str] = field(default_factory=set)
    _names: Dict[Tuple[str, str], str] = field(default_factory=dict)

    def write(self) -> None:
        self.graph = graphs.Graph(self.model)
        self._outside = captured(self.model) | {item.name for item in self.model.graph.input}
        if self.place.target == "onnxruntime":
            self.biases = [bias for bias in self.place.biases if self._bias_fits(bias)]
        peaks = {bias.weight: bias for bias in self.biases}
        done: Dict[Tuple[str, int, str], Tuple[str, npt.NDArray[Any]]] = {}
        scales: Dict[Weight, npt.NDArray[Any]] = {}
        for weight in self.place.weights:
            bias = peaks.get(weight)
            key = (weight.tensor, weight.axis, bias.tensor if bias else "")
            if key not in done:
                done[key] = self._weight(weight, bias)
            name, scales[weight] = done[key]
            self.graph.nodes[weight.edge.node].input[1] = name
        for bias in self.biases:
            self._bias(bias, scales[bias.weight])
        for tensor, edges in self.place.activations.items():
            name = self._activation(tensor)
            for edge in edges:
                self.graph.nodes[edge.node].input[edge.slot] = name
        if self.place.target == "openvino":
            self._end_behind_softmax()
        nodes = []
        for index, node in enumerate(self.graph.nodes):
            nodes += [*self._before.get(index, ()), node, *self._after.get(index, ())]
        fresh = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(fresh)
        self._drop_unused()

    def _end_behind_softmax(self) -> None:
        """Put an Abs, which changes no probability and lets NaN through, behind a Softmax that makes an output.

        A graph of OpenVINO that ends in its Softmax takes longer than one with a layer behind it: an INT8 ResNet-34 at
        batch 1 on two cores by 1.5 to 2%, in each of 12 processes (OpenVINO 2026.4).
        """
        from onnx import helper

        outputs = {item.name for item in self.model.graph.output}
        for index, node in enumerate(self.graph.nodes):
            if node.op_type == "Softmax" and node.output[0] in outputs:
                result, node.output[0] = node.output[0], self._name(node.output[0], "unsigned")
                self._after[index] = [
                    helper.make_node("Abs", [node.output[0]], [result], name=self._name(result, "Abs"))
                ]

    def _name(self, stem: str, suffix: str) -> str:
        """A name that no tensor of the graph has."""
        taken = self.graph.constants.keys() | self.graph.producer.keys() | set(self._names.values())
        taken |= {node.name for node in self.graph.nodes}  # nodes are named after what they make
        taken |= self._outside
        name, count = f"{stem}_{suffix}", 1
        while name in taken:
            name, count = f"{stem}_{suffix}_{count}", count + 1
        self._names[(stem, name)] = name
        return name

    def _constant(self, stem: str, suffix: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self._name(stem, suffix)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def _node(self, index: int, op: str, inputs: List[str], stem: str, suffix: str, **attributes: int) -> str:
        """Add a node ahead of node `index` and return its output's name."""
        from onnx import helper

        out = self._name(stem, suffix)
        self._before.setdefault(index, []).append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def _activation(self, tensor: str) -> str:
        quant = self.quants[tensor]
        dtype = np.int8 if quant.signed else np.uint8
        scale = self._constant(tensor, "scale", np.array(quant.scale, np.float32))
        zero = self._constant(tensor, "zero_point", np.array(quant.zero, dtype))
        first = self.graph.producer.get(tensor, -1) + 1
        q = self._node(first, "QuantizeLinear", [tensor, scale, zero], tensor, "QuantizeLinear")
        return self._node(first, "DequantizeLinear", [q, scale, zero], tensor, "DequantizeLinear")

    def _weight(self, weight: Weight, bias: Any) -> Tuple[str, npt.NDArray[Any]]:
        """TensorRT 8 wants float weights with Q and DQ; the others get int8 and DQ, a quarter of the size."""
        value = self.graph.array(weight.tensor)
        assert value is not None
        if not np.isfinite(value).all():
            raise ModelError(f"weight {weight.tensor!r} holds NaN or an infinity")
        scales = weight_scales(value, weight.axis, self.limit)
        if bias is not None:  # a bias must fit int32 in units of activation scale x weight scale
            peak = np.abs(self.graph.array(bias.tensor)).astype(np.float64)
            least = peak / (_INT32 * 0.5 * self.quants[bias.activation].scale)
            scales = np.maximum(scales, least.astype(np.float32))
        index, stem = weight.edge.node, weight.tensor
        scale = self._constant(stem, "scale", scales)
        zero = self._constant(stem, "zero_point", np.zeros(scales.shape, np.int8))
        if self.place.target == "tensorrt":
            source = self._node(index, "QuantizeLinear", [stem, scale, zero], stem, "QuantizeLinear", axis=weight.axis)
        else:
            source = self._constant(stem, "quantized", quantise_weight(value, scales, weight.axis, self.limit))
        out = self._node(index, "DequantizeLinear", [source, scale, zero], stem, "DequantizeLinear", axis=weight.axis)
        return out, scales

    def _bias_fits(self, bias: Bias) -> bool:
        """One value per channel, and no factor in between: else the bias stays float."""
        node, value = self.graph.nodes[bias.edge.node], self.graph.array(bias.tensor)
        weight = self.graph.array(bias.weight.tensor)
        assert value is not None and weight is not None
        plain = all(a.f == 1.0 for a in node.attribute if a.name in ("alpha", "beta"))
        return plain and value.shape == (weight.shape[bias.weight.axis],)

    def _bias(self, bias: Bias, weights: npt.NDArray[Any]) -> None:
        value = self.graph.array(bias.tensor)
        assert value is not None
        scales = (np.float64(np.float32(self.quants[bias.activation].scale)) * weights).astype(np.float32)
        units = np.rint(value.astype(np.float64) / scales)
        quantised = np.clip(units, -_INT32, _INT32).astype(np.int32)
        scale = self._constant(bias.tensor, "scale", scales)
        zero = self._constant(bias.tensor, "zero_point", np.zeros(scales.shape, np.int32))
        source = self._constant(bias.tensor, "quantized", quantised)
        node = bias.edge.node
        out = self._node(node, "DequantizeLinear", [source, scale, zero], bias.tensor, "DequantizeLinear", axis=0)
        self.graph.nodes[node].input[bias.edge.slot] = out

    def _drop_unused(self) -> None:
        """Remove float weights that nothing reads any more, and inferred shapes, which the next reader infers again."""
        del self.model.graph.value_info[:]
        used = {name for node in self.model.graph.node for name in node.input}
        used |= {item.name for item in self.model.graph.output} | captured(self.model)
        kept = [item for item in self.model.graph.initializer if item.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)


def captured(model: Any) -> Set[str]:
    """Names that the bodies of If, Loop and Scan read or make."""
    found: Set[str] = set()
    stack = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    while stack:
        body = stack.pop()
        for node in body.node:
            found.update(node.input, node.output)
            stack += [a.g for a in node.attribute if a.HasField("g")]
    return found
