"""Bias correction: what quantisation adds to each output channel in the mean is taken off the layer's bias.

A layer's mean error comes from its own rounding: E[q(W) q(x) - W x] = q(W) E[q(x) - x] + (q(W) - W) E[x]. Convolutions
and matrix products are linear, so the means of x and q(x) over images, position by position, tell it exactly, at the
cost of one pass that keeps two maps per tensor. The inputs are those of the FP32 graph: what earlier layers add is
corrected there, and would otherwise be taken off twice. Values are clipped before anything else, so that only rounding
is corrected: what clipping takes from a few extreme images is no constant of the others (ResNet-34 with the 95th
percentile of peaks: agreement falls from 98% to 57% when its mean is corrected as well).

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2,
with means measured on images instead of derived from batch normalisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Collection, Dict, Iterable, List, Mapping, Tuple, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import ranges
from calib.placement import Placement, Weight
from calib.quantize import quant, rounded_weight
from engines.spec import Progress, quiet

_CORRECTABLE = ("Conv", "ConvTranspose", "Gemm")
"""Operators with a bias of their own."""

Means = Tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Of a tensor, over images and position by position: its mean, and the mean of what quantisation adds to it."""


def mean_inputs(
    onnx: Union[str, Path],
    place: Placement,
    scales: Mapping[str, float],
    nonnegative: Collection[str],
    feeds: Iterable[Mapping[str, npt.NDArray[Any]]],
    progress: Progress = quiet,
    total: int = 0,
) -> Dict[str, Means]:
    """One pass through the FP32 graph that averages what the layers read, and its rounding, over images.

    Args:
        onnx: FP32 graph.
        place: Its placement.
        scales: Symmetric int8 scale per measured tensor.
        nonnegative: Tensors without negative values.
        feeds: Batches of inputs.
        progress: Told the images done.
        total: Images to come.

    Returns:
        By tensor; empty where no layer can be corrected or no image came.
    """
    from onnx import TensorProto, helper, numpy_helper

    tensors: List[str] = []
    wanted: List[str] = []

    def extended() -> Any:
        model = graphs.load(onnx)
        graph, view = model.graph, graphs.Graph(model)
        layers = [view.nodes[weight.edge.node] for weight in place.weights if _correctable(view, weight)]
        tensors.extend(sorted({str(node.input[0]) for node in layers}))
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "optimize/axis"))
        for index, tensor in enumerate(tensors):
            source, stem = place.scale_of.get(tensor, tensor), f"optimize/{index}"
            found = quant(float(scales[source]), source in nonnegative, place.target)
            zero = np.array(found.zero, np.int8 if found.signed else np.uint8)
            ends = np.iinfo(zero.dtype)
            low, high = (found.scale * (int(end) - found.zero) for end in (ends.min, ends.max))
            graph.initializer.append(numpy_helper.from_array(np.array(found.scale, np.float32), f"{stem}/scale"))
            graph.initializer.append(numpy_helper.from_array(zero, f"{stem}/zero"))
            for what, limit in (("low", low), ("high", high)):
                graph.initializer.append(numpy_helper.from_array(np.array(limit, np.float32), f"{stem}/{what}"))
            pair, inside = [f"{stem}/scale", f"{stem}/zero"], f"{stem}/inside"
            graph.node.append(helper.make_node("Clip", [tensor, f"{stem}/low", f"{stem}/high"], [inside]))
            graph.node.append(helper.make_node("QuantizeLinear", [inside, *pair], [f"{stem}/q"]))
            graph.node.append(helper.make_node("DequantizeLinear", [f"{stem}/q", *pair], [f"{stem}/dq"]))
            graph.node.append(helper.make_node("Sub", [f"{stem}/dq", inside], [f"{stem}/error"]))
            for what, value in (("mean", inside), ("shift", f"{stem}/error")):
                name = f"{stem}/{what}"
                graph.node.append(helper.make_node("ReduceSum", [value, "optimize/axis"], [name], keepdims=1))
                graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
                wanted.append(name)
        return model

    runner = ranges.session_from(extended, simulate=True)
    if not tensors:
        return {}
    fixed, done = ranges.fixed_batch(runner), 0
    sums: List[Any] = []
    for batch in feeds:
        count = len(next(iter(batch.values())))
        if fixed and count < fixed and done:
            continue  # padding would count
        results = runner.run(wanted, ranges.pad(batch, fixed))
        sums = [a + b for a, b in zip(sums, results)] if sums else list(results)
        done += max(count, fixed)
        progress("bias correction", min(done, total), total)
    return {tensor: (sums[2 * i] / done, sums[2 * i + 1] / done) for i, tensor in enumerate(tensors)} if done else {}


def mean_errors(
    model: Any, place: Placement, means: Mapping[str, Means], weight_bits: int
) -> Dict[str, npt.NDArray[Any]]:
    """The mean error that quantisation makes in each output channel of each layer.

    Args:
        model: FP32 graph as `calib.graph.load` gives it.
        place: Its placement.
        means: From `mean_inputs`.
        weight_bits: 8 or 7.

    Returns:
        By the layer's node: float64 of shape (channels,). Layers whose bias is computed, scaled or of another shape are
        left out.
    """
    view = graphs.Graph(model)
    layers = [weight for weight in place.weights if _correctable(view, weight)]
    nodes = [(view.nodes[weight.edge.node], weight) for weight in layers]
    return {n.name: _layer(view, w, means[n.input[0]], weight_bits) for n, w in nodes if n.input[0] in means}


def correct(model: Any, errors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Take mean errors off the layers' biases, in place; a Conv or Gemm without a bias gets one."""
    from onnx import numpy_helper

    view = graphs.Graph(model)
    taken = {item.name for item in model.graph.initializer} | set(view.producer)
    for node in view.nodes:
        if node.name not in errors:
            continue
        old = view.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        value = (0.0 if old is None else old.astype(np.float64)) - errors[node.name]
        name = f"{node.name}_corrected_bias"
        while name in taken:
            name += "_"
        taken.add(name)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)


def _correctable(view: graphs.Graph, weight: Weight) -> bool:
    """Whether a layer has no bias yet, or a constant one with a value per channel and no factor."""
    node = view.nodes[weight.edge.node]
    if node.op_type not in _CORRECTABLE or (node.op_type == "ConvTranspose" and graphs.attribute(node, "group", 1) > 1):
        return False
    if any(a.f != 1.0 for a in node.attribute if a.name in ("alpha", "beta")):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    channels = int(view.constants[weight.tensor].dims[weight.axis])
    return view.is_float(node.input[2]) and list(view.constants[node.input[2]].dims) == [channels]


def _layer(view: graphs.Graph, weight: Weight, means: Means, bits: int) -> npt.NDArray[Any]:
    """The layer's mean error per output channel, by ONNX Runtime."""
    from onnx import TensorProto, helper

    node, value = view.nodes[weight.edge.node], view.array(weight.tensor)
    assert value is not None
    limit = 63 if bits == 7 else 127
    rounded = rounded_weight(value, weight.axis, limit)
    nodes, outs = [], []
    for x, w in (("shift", "rounded"), ("mean", "off")):
        one = type(node)()
        one.CopyFrom(node)
        one.name = f"{x}_out"
        del one.input[:], one.output[:]
        one.input.extend([x, w])
        one.output.append(one.name)
        nodes.append(one)
        outs.append(helper.make_tensor_value_info(one.name, TensorProto.FLOAT, None))
    # Weights are inputs as well: as constants they would be copied four times to be used once.
    feeds = {"mean": means[0], "shift": means[1], "rounded": rounded, "off": rounded - value}
    ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(x.shape)) for name, x in feeds.items()]
    graph = helper.make_graph(nodes, "layer", ins, outs)
    model = helper.make_model(graph, opset_imports=view.model.opset_import, ir_version=view.model.ir_version)
    first, second = ranges.session(model.SerializeToString()).run(None, feeds)
    result = first.astype(np.float64) + second
    axis = result.ndim - 1 if node.op_type == "Gemm" else 1
    return np.asarray(result.mean(axis=tuple(i for i in range(result.ndim) if i != axis)))
