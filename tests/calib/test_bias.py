"""Mean errors per channel against plain convolutions in float64, and biases that take them off."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest

from calib import bias, graph, ranges
from calib.methods import Method, scale
from calib.placement import points
from calib.quantize import quant, quantise_weight, weight_scales

Build = Callable[..., Path]


def convolve(x: Any, w: Any, stride: int) -> Any:
    """Zero padding of half the kernel on each side, NCHW, float64."""
    k = w.shape[2]
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    height, width = ((n - k) // stride + 1 for n in x.shape[2:])
    out = np.zeros((len(x), w.shape[0], height, width))
    for i in range(k):
        for j in range(k):
            part = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            out += np.einsum("nchw,oc->nohw", part[:, :, :height, :width], w[:, :, i, j])
    return out


def rounded(x: Any, step: float, nonnegative: bool, target: str) -> Any:
    q = quant(step, nonnegative, target)
    low, high = (-128, 127) if q.signed else (0, 255)
    return (np.clip(np.rint(x / np.float32(q.scale)) + q.zero, low, high) - q.zero) * q.scale, (
        (low - q.zero) * q.scale,
        (high - q.zero) * q.scale,
    )


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
@pytest.mark.parametrize("batch", [None, 12])
def test_mean_errors_are_those_of_all_values(resnet: Build, images: Any, target: str, batch: Any) -> None:
    source = resnet(batch=batch)
    model = graph.load(source)
    view, place = graph.Graph(model), points(model, target)
    feeds = [{"image": images[k : k + 12]} for k in range(0, 48, 12)]
    seen = ranges.collect(source, place.measured(), feeds)
    scales = {name: scale(found, Method("percentile", 99.0)) for name, found in seen.items()}
    nonnegative = [name for name, found in seen.items() if found.nonnegative]
    means = bias.mean_inputs(source, place, scales, nonnegative, feeds)
    found = bias.mean_errors(model, place, means, 8)
    assert set(found) == {view.nodes[weight.edge.node].name for weight in place.weights}
    for name, stride in (("b1_conv1", 2), ("b1_conv2", 1), ("b1_short", 2)):
        node = next(node for node in view.nodes if node.name == name)
        x = activations(source, node.input[0], images)
        tensor = place.scale_of.get(node.input[0], node.input[0])
        q, (low, high) = rounded(x, scales[tensor], tensor in nonnegative, target)
        w = view.array(node.input[1])
        steps = weight_scales(w, 0)
        wq = quantise_weight(w, steps, 0).astype(np.float64) * steps.reshape(-1, 1, 1, 1)
        error = convolve(q, wq, stride) - convolve(np.clip(x, low, high), w, stride)
        np.testing.assert_allclose(found[name], error.mean(axis=(0, 2, 3)), atol=2e-5)


def activations(source: Path, tensor: str, images: Any) -> Any:
    import onnx

    model = graph.load(source)
    model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = ranges.session(model.SerializeToString())
    step = ranges.fixed_batch(session) or 48
    return np.concatenate([session.run([tensor], {"image": images[k : k + step]})[0] for k in range(0, 48, step)])


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
@pytest.mark.parametrize("head", ["gemm", "matmul"])
def test_a_correction_shifts_each_channel(resnet: Build, images: Any, tmp_path: Path, target: str, head: str) -> None:
    model = graph.load(resnet(head=head, softmax=False))
    bare = next(node for node in model.graph.node if node.name == "b2_conv1")
    del bare.input[2:]  # as exporters write a convolution without a bias
    bare_path = tmp_path / "bare.onnx"
    bare_path.write_bytes(model.SerializeToString())
    errors: Dict[str, Any] = {"b2_conv1": np.linspace(-1, 1, 16), "head": np.arange(10.0)}
    before = activations(bare_path, "b2_conv1_out", images)
    bias.correct(model, errors)
    assert len(points(model, target).weights) == len(points(graph.load(bare_path), target).weights)
    bare_path.write_bytes(model.SerializeToString())
    after = activations(bare_path, "b2_conv1_out", images)
    expected = before - np.linspace(-1, 1, 16).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    names = {item.name for item in model.graph.initializer}
    assert {"b2_conv1_corrected_bias", "head_corrected_bias"} <= names


def test_a_padded_batch_does_not_count(resnet: Build, images: Any) -> None:
    source = resnet(batch=12)
    place = points(graph.load(source), "openvino")
    scales = dict.fromkeys(place.measured(), 0.02)
    whole = bias.mean_inputs(source, place, scales, (), [{"image": images[:12]}])
    tail = bias.mean_inputs(source, place, scales, (), [{"image": images[:12]}, {"image": images[12:15]}])
    for name in whole:
        np.testing.assert_array_equal(whole[name], tail[name])
    assert bias.mean_inputs(source, place, scales, (), []) == {}
    assert bias.mean_errors(graph.load(source), place, {}, 8) == {}
