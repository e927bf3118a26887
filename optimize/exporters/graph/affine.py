"""Fold what multiplies and adds per channel (BatchNormalization, Mul, Add, Sub, Div) into the layer beside it.

With y = s * x + t per channel: after a layer, weight * s and bias * s + t (s, t per output channel); before a layer,
weight * s per input channel and bias + sum(weight * t), the latter only where no zero padding is added after t was.
All in float64, rounded once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from optimize.exporters.graph.net import Net, attributes, set_attribute

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Affine(NamedTuple):
    """y = scale * x + shift along one axis; `scale` and `shift` are float64 of shape (channels,) or (1,)."""

    source: str
    scale: npt.NDArray[Any]
    shift: npt.NDArray[Any]


def fold(net: Net) -> bool:
    """Fold every per-channel multiplication and addition that a neighbouring layer can take."""
    found = False
    for node in list(net.nodes):
        if any(item is node for item in net.nodes):
            found |= _into_layer_before(net, node) or _into_layer_after(net, node)
    return found


def of(net: Net, node: Any, axis: int, rank: int) -> Optional[Affine]:
    """What a node does per channel of `axis` in a tensor of `rank`; None where it does anything else."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "BatchNormalization":
        return _batch_norm(net, node) if axis == 1 else None
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    slot = 1 if node.input[1] in net.constants else 0
    constant = net.constant(node, slot)
    if constant is None or constant.dtype != np.float32 or node.input[1 - slot] in net.constants:
        return None
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(n != 1 for i, n in enumerate(shape) if i != axis):
        return None
    value, one, zero = constant.reshape(-1).astype(np.float64), np.ones(1), np.zeros(1)
    source = node.input[1 - slot]
    if node.op_type == "Mul":
        return Affine(source, value, zero)
    if node.op_type == "Add":
        return Affine(source, one, value)
    if node.op_type == "Sub":
        return Affine(source, one, -value) if slot == 1 else Affine(source, -one, value)
    return Affine(source, 1 / value, zero) if slot == 1 and value.all() else None


def _batch_norm(net: Net, node: Any) -> Optional[Affine]:
    given = attributes(node)
    if given.get("training_mode", 0) or any(name in net.readers or name in net.outputs for name in node.output[1:]):
        return None
    values = [net.constant(node, slot) for slot in range(1, 5)]
    if any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + given.get("epsilon", 1e-5))
    return Affine(node.input[0], scale, beta - mean * scale)


def _into_layer_before(net: Net, node: Any) -> bool:
    source = next((name for name in node.input if name and name not in net.constants), "")
    layer = net.makers.get(source)
    if layer is None or layer.op_type not in LAYERS or net.sole_reader(source) is not node:
        return False
    rank = net.rank(source)
    weight = net.constant(layer, 1)
    if weight is None or rank < 2 or layer.input[0] in net.constants:
        return False
    matmul = layer.op_type == "MatMul"
    if (matmul and weight.ndim != 2) or (layer.op_type == "Gemm" and rank != 2):
        return False
    affine = of(net, node, rank - 1 if matmul else 1, rank)
    bias = _bias(net, layer, _outputs(layer, weight))
    if affine is None or bias is None or (matmul and rank > 2 and affine.shift.any()):
        return False
    outputs = len(bias)
    if affine.scale.size not in (1, outputs) or affine.shift.size not in (1, outputs):
        return False
    scale = np.broadcast_to(affine.scale, (outputs,))
    shift = bias * scale + affine.shift
    _replace(net, layer, _scaled_outputs(layer, weight, scale), shift)
    result = node.output[0]
    net.remove(node)
    layer.output[0] = result
    net.changed()
    return True


def _into_layer_after(net: Net, node: Any) -> bool:
    layer = net.sole_reader(node.output[0])
    if layer is None or layer.op_type not in ("Conv", "Gemm", "MatMul") or layer.input[0] != node.output[0]:
        return False
    rank, weight = net.rank(node.output[0]), net.constant(layer, 1)
    if weight is None or rank < 2 or (layer.op_type != "Conv" and (rank != 2 or weight.ndim != 2)):
        return False
    given = attributes(layer)
    affine = of(net, node, 1, rank)
    bias = _bias(net, layer, _outputs(layer, weight))
    if affine is None or bias is None or given.get("transA", 0):
        return False
    if net.shapes.get(affine.source) != net.shapes.get(node.output[0]):
        return False  # the constant broadcasts the channels
    padded = any(given.get("pads", ())) or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if layer.op_type == "Conv" and padded and affine.shift.any():
        return False
    group = given.get("group", 1)
    by_input = _by_input(layer, weight.astype(np.float64), group)  # (group, outputs / group, inputs / group, ...)
    inputs = by_input.shape[0] * by_input.shape[2]
    if affine.scale.size not in (1, inputs) or affine.shift.size not in (1, inputs):
        return False
    tail = (1,) * (by_input.ndim - 3)
    spread = [np.broadcast_to(v, (inputs,)).reshape(group, 1, -1, *tail) for v in (affine.scale, affine.shift)]
    added = (by_input * spread[1]).sum(axis=tuple(range(2, by_input.ndim))).reshape(-1) * given.get("alpha", 1.0)
    scaled = by_input * spread[0]
    _replace(net, layer, _from_input(layer, scaled, weight.shape), bias + added)
    layer.input[0] = affine.source
    net.remove(node)
    net.changed()
    return True


def _outputs(layer: Any, weight: npt.NDArray[Any]) -> int:
    given = attributes(layer)
    if layer.op_type == "Conv":
        return int(weight.shape[0])
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1]) * int(given.get("group", 1))
    return int(weight.shape[0 if given.get("transB", 0) else 1])


def _bias(net: Net, layer: Any, outputs: int) -> Optional[npt.NDArray[Any]]:
    """The layer's bias as float64 of shape (outputs,), zeros where it has none; None where it is not constant."""
    if len(layer.input) < 3 or not layer.input[2] or layer.op_type == "MatMul":
        return np.zeros(outputs)
    bias = net.constant(layer, 2)
    if bias is None or bias.size not in (1, outputs) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
        return None
    beta = attributes(layer).get("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.array(np.broadcast_to(bias.reshape(-1).astype(np.float64) * beta, (outputs,)))


def _scaled_outputs(layer: Any, weight: npt.NDArray[Any], scale: npt.NDArray[Any]) -> npt.NDArray[Any]:
    wide, given = weight.astype(np.float64), attributes(layer)
    if layer.op_type == "Conv":
        return np.asarray(wide * scale.reshape(-1, *(1,) * (wide.ndim - 1)))
    if layer.op_type == "ConvTranspose":
        group, tail = int(given.get("group", 1)), wide.shape[2:]
        parted = wide.reshape(group, -1, wide.shape[1], *tail)
        return np.asarray((parted * scale.reshape(group, 1, -1, *(1,) * len(tail))).reshape(wide.shape))
    return np.asarray(wide * (scale[:, None] if given.get("transB", 0) else scale[None, :]))


def _by_input(layer: Any, weight: npt.NDArray[Any], group: int) -> npt.NDArray[Any]:
    if layer.op_type == "Conv":
        return weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    return (weight if attributes(layer).get("transB", 0) else weight.T)[None]


def _from_input(layer: Any, weight: npt.NDArray[Any], shape: Any) -> npt.NDArray[Any]:
    if layer.op_type == "Conv":
        return weight.reshape(shape)
    return weight[0] if attributes(layer).get("transB", 0) else weight[0].T


def _replace(net: Net, layer: Any, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> None:
    """Give a layer new constants; the old ones may have other readers."""
    layer.input[1] = net.add_constant(f"{layer.output[0]}_weight", weight.astype(np.float32))
    had = len(layer.input) > 2 and bool(layer.input[2])
    if not had and not bias.any():
        return
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"
    if layer.op_type == "Gemm":
        set_attribute(layer, "beta", None)
    del layer.input[2:]
    layer.input.append(net.add_constant(f"{layer.output[0]}_bias", bias.astype(np.float32)))
