"""Small real ONNX graphs: ResNets of a few channels with random weights, in the forms that exporters write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional

import numpy as np
import pytest

from tests.calib.architectures import Net

Build = Callable[..., Path]


def _shortcut(net: Net, x: str, name: str, kind: str, i: int, o: int) -> str:
    if kind == "conv":
        return net.conv(x, f"{name}_short", i, o, 1, 2)
    ends = net.const(f"{name}_ends", np.array([2**31 - 1] * 2, np.int64))
    starts = net.const(f"{name}_starts", np.zeros(2, np.int64))
    axes, steps = (
        net.const(f"{name}_{k}", np.array([2, 3] if k == "axes" else [2, 2], np.int64)) for k in ("axes", "st")
    )
    x = net.node("Slice", [x, starts, ends, axes, steps], f"{name}_slice")
    extra = (o - i) // 2
    pads = net.const(f"{name}_pads", np.array([0, extra, 0, 0, 0, o - i - extra, 0, 0], np.int64))
    return net.node("Pad", [x, pads], f"{name}_pad")


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`resnet(shortcut=, head=, layout=, softmax=, batch=, opset=)` writes a three-block ResNet for 16x16 images."""
    folder = tmp_path_factory.mktemp("resnets")
    made: Dict[Any, Path] = {}

    def build(
        shortcut: str = "conv",
        head: str = "gemm",
        layout: str = "NHWC",
        softmax: bool = True,
        batch: Optional[int] = None,
        opset: int = 17,
    ) -> Path:
        key = (shortcut, head, layout, softmax, batch, opset)
        if key in made:
            return made[key]
        net, width = Net(7), 8
        x = "image"
        if layout == "NHWC":
            x = net.node("Transpose", [x], "to_nchw", perm=[0, 3, 1, 2])
        x = net.node("Relu", [net.conv(x, "stem", 3, width)], "stem_relu")
        x = net.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for n, (i, o) in enumerate([(width, width), (width, 2 * width), (2 * width, 2 * width)]):
            name, stride = f"b{n}", 1 if i == o else 2
            y = net.node("Relu", [net.conv(x, f"{name}_conv1", i, o, 3, stride)], f"{name}_relu1")
            y = net.conv(y, f"{name}_conv2", o, o)
            skip = x if i == o else _shortcut(net, x, name, shortcut, i, o)
            x = net.node("Relu", [net.node("Add", [y, skip], f"{name}_add")], f"{name}_relu2")
        x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "gap")], "flat")
        weight = net.rng.normal(0, 1, (2 * width, 10)).astype(np.float32)
        bias = net.const("head_b", net.rng.normal(0, 0.1, 10).astype(np.float32))
        if head == "gemm":
            x = net.node("Gemm", [x, net.const("head_w", weight.T.copy()), bias], "head", transB=1)
        else:
            x = net.node("MatMul", [x, net.const("head_w", weight)], "head")
            x = net.node("Add", [x, bias], "head_add")
        if softmax:
            x = net.node("Softmax", [x], "probabilities", axis=1)
        shape = [batch or "N", 3, 16, 16] if layout == "NCHW" else [batch or "N", 16, 16, 3]
        made[key] = net.save(folder / f"{len(made)}.onnx", shape, {x: [batch or "N", 10]}, opset)
        return made[key]

    return build


@pytest.fixture(scope="session")
def mixed_cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depthwise and transposed convolutions, a gate by multiplication, an operator that nobody quantises, two heads."""
    net = Net(3)
    x = net.node("Relu", [net.conv("image", "stem", 3, 8)], "relu")
    x = net.node("HardSwish", [net.conv(x, "depthwise", 8, 8, group=8)], "swish")
    gate = net.node("Sigmoid", [net.conv(net.node("GlobalAveragePool", [x], "squeeze"), "gate", 8, 8, 1)], "sigmoid")
    x = net.node("Mul", [x, gate], "excite")
    w = net.const("up_w", net.rng.normal(0, 0.2, (8, 4, 2, 2)).astype(np.float32))
    mask = net.node("ConvTranspose", [x, w], "up", strides=[2, 2])
    box = net.conv(x, "box", 8, 4, 1)
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    return net.save(path, ["N", 3, 16, 16], {mask: ["N", 4, 32, 32], box: ["N", 4, 16, 16]})


@pytest.fixture(scope="session")
def images() -> np.ndarray[Any, Any]:
    """48 smooth random images, float32 NHWC in 0..1, shape (48, 16, 16, 3)."""
    rng = np.random.default_rng(11)
    coarse = rng.random((48, 4, 4, 3)).astype(np.float32)
    return np.ascontiguousarray(coarse.repeat(4, 1).repeat(4, 2))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of CIFAR-10's binary form: 240 training and 40 test images of smooth noise."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    for name, count in (("data_batch_1.bin", 240), ("test_batch.bin", 40)):
        coarse = rng.integers(0, 256, (count, 3, 4, 4), np.uint8)
        rows = coarse.repeat(8, 2).repeat(8, 3).reshape(count, -1)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([labels[:, None], rows], axis=1).tobytes())
    return str(folder)


@pytest.fixture(scope="session")
def spread_cnn(resnet: Build, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ResNet with one channel 3,000 times as large as the others between the convolutions of its first block.

    The function stays, since the next convolution divides by the same factor; one scale for the tensor ruins it. The
    last bias is set so that all classes are given.
    """
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    model = onnx.load(str(resnet()))
    factor = np.float32(3000)
    for item in model.graph.initializer:
        if item.name in ("b0_conv1_w", "b0_conv1_b", "b0_conv2_w"):
            value = numpy_helper.to_array(item).copy()
            if item.name == "b0_conv2_w":
                value[:, 2] /= factor
            else:
                value[2] *= factor
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    rows = np.fromfile(f"{data}/data_batch_1.bin", np.uint8).reshape(-1, 3073)[:, 1:].reshape(-1, 3, 32, 32)
    inputs = np.ascontiguousarray(rows[:, :, ::2, ::2].transpose(0, 2, 3, 1)).astype(np.float32) / 255
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = np.log(session.run(None, {"image": inputs})[0])
    for item in model.graph.initializer:
        if item.name == "head_b":
            value = numpy_helper.to_array(item) - logits.mean(axis=0)
            item.CopyFrom(numpy_helper.from_array(value.astype(np.float32), item.name))
    path = tmp_path_factory.mktemp("spread") / "spread.onnx"
    onnx.save(model, str(path))
    return path
