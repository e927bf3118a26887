"""Cross-layer equalisation: channels that need very different ranges are brought together before one range covers all.

Where a convolution reaches the next through operators that scale with their input (ReLU, pooling), a channel may be
divided by any s > 0 in the first and multiplied by it in the second: the network computes the same. Source: Nagel et
al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction". Here the first layer's ranges are
those of its activations on images, because its weights have a scale per channel anyway; and every s is a power of two,
so that FP32 stays the same to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import ranges, weightfile
from calib.memory import release
from calib.quantize import captured

IMAGES = 32
"""Images that tell the ranges of channels."""

_SEVERE = 4.0
"""Noise before over noise after from which a pair is equalised: two bits. Trained ResNets lie between 1.0 and 1.7."""

_SCALES = ("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool")
"""Operators with f(s x) = s f(x) for s > 0, channel by channel."""


class Pair(NamedTuple):
    """Two layers of which the second alone reads the first, by their nodes; `tensor` is what the second reads."""

    first: int
    second: int
    tensor: str


def equalize(
    onnx: Union[str, Path], batches: Iterable[Mapping[str, npt.NDArray[Any]]], out: Union[str, Path]
) -> List[str]:
    """Write an FP32 graph that computes the same with channels of like ranges, where channels differ severely.

    Args:
        onnx: FP32 graph, batch normalisations folded.
        batches: Feeds by input name; about `IMAGES` images are enough.
        out: The new graph, in the form of `calib.weightfile`; not written where there is nothing to do.

    Returns:
        Names of the layers whose results were scaled; empty where no pair gains `_SEVERE`.

    Raises:
        ModelError: ONNX Runtime cannot run the graph.
    """
    model = graphs.load(onnx)
    view = graphs.Graph(model)
    found = pairs(view)
    peaks = _channel_peaks(onnx, sorted({pair.tensor for pair in found}), batches) if found else {}
    changed = []
    for pair in found:
        weight = view.array(view.nodes[pair.second].input[1])
        axis = _input_axis(view, pair.second)
        assert weight is not None and axis is not None
        columns = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))
        s = factors(peaks[pair.tensor], columns)
        if s is None:
            continue
        first, second = view.nodes[pair.first], view.nodes[pair.second]
        for name, along in zip(_parameters(view, pair.first), (graphs.channel_axis(first), 0)):
            _multiply(view, name, along, 1 / s)
        _multiply(view, second.input[1], axis, s)
        changed.append(str(first.name))
    if changed:
        weightfile.write(model, out)
    return changed


def factors(activations: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Optional[npt.NDArray[Any]]:
    """What the channels of a tensor are divided by, or None where that gains less than `_SEVERE`.

    With largest values a_i of the activations and w_i of the weights that read them, s_i = sqrt(a_i / w_i) makes both
    sqrt(a_i w_i) (Nagel et al. 2019, equation 11). The noise of rounding is a step, which the largest value decides,
    times what it meets: max(a) |w| + |a| max(w).

    Args:
        activations: Largest magnitude per channel, float32, shape (channels,).
        weights: The same of the weights.

    Returns:
        Powers of two around 1, float32, shape (channels,).
    """
    a, w = activations.astype(np.float64), weights.astype(np.float64)
    live = (a > 0) & (w > 0)
    if not np.isfinite(a).all() or not np.isfinite(w).all() or not live.any():
        return None
    both = np.sqrt(a * w)
    before = a.max() * np.linalg.norm(w) + np.linalg.norm(a) * w.max()
    if before < _SEVERE * 2 * both.max() * np.linalg.norm(both):
        return None
    exponents = np.zeros(len(a))
    exponents[live] = np.log2(a[live] / w[live]) / 2
    exponents[live] -= np.median(exponents[live])
    powers: npt.NDArray[Any] = np.exp2(np.clip(np.rint(exponents), -30, 30)).astype(np.float32)
    return powers


def pairs(view: graphs.Graph) -> List[Pair]:
    """All pairs of layers that can be equalised, in the order of the graph."""
    layers = set(view.weighted())
    elsewhere = captured(view.model) | set(view.outputs)

    def alone(name: str) -> bool:
        """Whether a tensor is read once, and not by a caller or the body of an If, Loop or Scan."""
        return len(view.readers.get(name, [])) == 1 and name not in elsewhere

    found = []
    for index in sorted(layers):
        if not _channels_of_its_own(view, index) or not all(map(alone, _parameters(view, index))):
            continue
        tensor = str(view.nodes[index].output[0])
        if not _channels_second(view, index, tensor):
            continue
        while True:
            reader = view.readers[tensor][0] if alone(tensor) else None
            if reader is None or reader.slot != 0:
                break
            node = view.nodes[reader.node]
            given = reader.node in layers and _channels_second(view, reader.node, tensor)
            if given and _input_axis(view, reader.node) is not None and alone(node.input[1]):
                found.append(Pair(index, reader.node, tensor))
            if node.op_type not in _SCALES:
                break
            tensor = str(node.output[0])
    return found


def _channels_second(view: graphs.Graph, index: int, tensor: str) -> bool:
    """Whether the channels of what a layer reads or makes lie on axis 1: the last axis is a MatMul's."""
    return view.nodes[index].op_type != "MatMul" or len(view.shapes.get(tensor, ())) == 2


def _parameters(view: graphs.Graph, index: int) -> List[str]:
    """Weight and bias of a layer."""
    return [name for name in view.nodes[index].input[1:3] if name]


def _channels_of_its_own(view: graphs.Graph, index: int) -> bool:
    """Whether the channels of a layer's result are those of its weight and of a constant bias."""
    node, (weight, *bias) = view.nodes[index], _parameters(view, index)
    if node.op_type == "ConvTranspose" and graphs.attribute(node, "group", 1) != 1:
        return False
    channels = list(view.constants[weight].dims)[graphs.channel_axis(node)]
    return all(view.is_float(name) and list(view.constants[name].dims) == [channels] for name in bias)


def _input_axis(view: graphs.Graph, index: int) -> Optional[int]:
    """Axis of the input channels in a layer's weight; None where a group shares a channel's axis with others."""
    node = view.nodes[index]
    dims = list(view.constants[node.input[1]].dims)
    groups = graphs.attribute(node, "group", 1)
    if node.op_type == "Conv" and groups > 1:
        return 0 if groups == dims[0] and dims[1] == 1 else None
    if groups > 1:
        return None
    return 1 if node.op_type == "Conv" or graphs.attribute(node, "transB", 0) else 0


def _channel_peaks(
    onnx: Union[str, Path], tensors: List[str], batches: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> Dict[str, npt.NDArray[Any]]:
    """Largest magnitude per channel (axis 1) of tensors; NaN where one was met."""
    session = ranges.session_from(lambda: ranges.exposing(onnx, tensors))
    fixed = ranges.fixed_batch(session)
    found: Dict[str, npt.NDArray[Any]] = {}
    for feeds in batches:
        for name, value in zip(tensors, session.run(tensors, ranges.pad(feeds, fixed))):
            peaks = np.abs(value).max(axis=tuple(i for i in range(value.ndim) if i != 1))
            found[name] = np.maximum(found.get(name, peaks), peaks)
    release()
    return found


def _multiply(view: graphs.Graph, name: str, axis: int, by: npt.NDArray[Any]) -> None:
    from onnx import numpy_helper

    value = view.array(name)
    assert value is not None
    shape = [1] * value.ndim
    shape[axis] = -1
    scaled = np.asarray(value * by.reshape(shape), np.float32)
    view.constants[name].CopyFrom(numpy_helper.from_array(scaled, name))
