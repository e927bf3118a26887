"""Small graphs with the blocks of known networks, random weights, for 3x16x16 images: how each joins its branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np


class Net:
    """Collects nodes and initializers."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: List[Any] = []
        self.weights: List[Any] = []

    def const(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: List[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(
        self, x: str, name: str, i: int, o: int, kernel: int = 3, stride: int = 1, group: int = 1, dilation: int = 1
    ) -> str:
        shape = (o, i // group, kernel, kernel)
        weight = self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        w = self.const(f"{name}_w", weight)
        b = self.const(f"{name}_b", self.rng.normal(0, 0.1, o).astype(np.float32))
        pad, more = dilation * (kernel // 2), {"dilations": [dilation] * 2} if dilation > 1 else {}
        return self.node("Conv", [x, w, b], name, strides=[stride] * 2, pads=[pad] * 4, group=group, **more)

    def relu(self, x: str, name: str, i: int, o: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> str:
        """A convolution and its activation."""
        return self.node("Relu", [self.conv(x, name, i, o, kernel, stride, 1, dilation)], f"{name}_relu")

    def save(self, path: Path, inputs: Any, outputs: Dict[str, Any], opset: int = 17) -> Path:
        import onnx
        from onnx import TensorProto, helper

        ins = [helper.make_tensor_value_info("image", TensorProto.FLOAT, inputs)]
        outs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()]
        graph = helper.make_graph(self.nodes, "net", ins, outs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
        return path


def _head(net: Net, x: str, i: int) -> Dict[str, Any]:
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "gap")], "flat")
    w = net.const("head_w", net.rng.normal(0, 1, (i, 10)).astype(np.float32))
    return {net.node("Gemm", [x, w, net.const("head_b", np.zeros(10, np.float32))], "head"): ["N", 10]}


def densenet(net: Net) -> Dict[str, Any]:
    """Every layer reads all before it; normalisation stands before the convolution and cannot be folded."""
    x, width = net.node("MaxPool", [net.relu("image", "stem", 3, 16)], "pool", kernel_shape=[2, 2], strides=[2, 2]), 16
    for n in range(3):
        values = [net.rng.normal(1, 0.2, width), net.rng.normal(0, 0.2, width), np.zeros(width), np.ones(width)]
        names = [net.const(f"d{n}_bn{k}", v.astype(np.float32)) for k, v in enumerate(values)]
        y = net.node("Relu", [net.node("BatchNormalization", [x, *names], f"d{n}_bn")], f"d{n}_relu")
        y = net.conv(net.relu(y, f"d{n}_conv1", width, 16, 1), f"d{n}_conv2", 16, 8)
        x, width = net.node("Concat", [x, y], f"d{n}_concat", axis=1), width + 8
    x = net.relu(x, "transition", width, 16, 1)
    return _head(net, net.node("AveragePool", [x], "halve", kernel_shape=[2, 2], strides=[2, 2]), 16)


def inception(net: Net) -> Dict[str, Any]:
    """Branches of convolutions and of pooling, joined, then read by the convolutions of the next block's branches."""
    x, width = net.relu("image", "stem", 3, 16), 16
    for n in range(2):
        branches = [net.relu(x, f"i{n}_a", width, 8, 1)]
        branches.append(net.relu(net.relu(x, f"i{n}_b1", width, 8, 1), f"i{n}_b2", 8, 8))
        deep = net.relu(net.relu(x, f"i{n}_c1", width, 8, 1), f"i{n}_c2", 8, 8)
        branches.append(net.relu(deep, f"i{n}_c3", 8, 8))
        pool = net.node("AveragePool", [x], f"i{n}_pool", kernel_shape=[3, 3], pads=[1] * 4)
        branches.append(net.relu(pool, f"i{n}_d", width, 8, 1))
        x, width = net.node("Concat", branches, f"i{n}_concat", axis=1), 32
    pool = net.node("MaxPool", [x], "r_pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.node("Concat", [net.relu(x, "r_conv", width, 16, 3, 2), pool], "r_concat", axis=1)
    return _head(net, net.relu(x, "last", 48, 16, 1), 16)


def mobilenet(net: Net) -> Dict[str, Any]:
    """Inverted residuals: a depthwise convolution between two of 1x1, clipped at 6, additions of linear results."""
    low, high = net.const("low", np.float32(0)), net.const("high", np.float32(6))

    def clipped(x: str, name: str) -> str:
        return net.node("Clip", [x, low, high], f"{name}_clip")

    x = clipped(net.conv("image", "stem", 3, 8), "stem")
    for n in range(2):
        y = clipped(net.conv(x, f"m{n}_expand", 8, 24, 1), f"m{n}_expand")
        y = clipped(net.conv(y, f"m{n}_depth", 24, 24, group=24), f"m{n}_depth")
        x = net.node("Add", [x, net.conv(y, f"m{n}_project", 24, 8, 1)], f"m{n}_add")
    return _head(net, clipped(net.conv(x, "last", 8, 16, 1), "last"), 16)


def squeeze_excite(net: Net) -> Dict[str, Any]:
    """Residual blocks whose channels are weighed by two convolutions of their means."""
    x = net.relu("image", "stem", 3, 16)
    for n in range(2):
        y = net.conv(net.relu(x, f"s{n}_conv1", 16, 16), f"s{n}_conv2", 16, 16)
        gate = net.relu(net.node("GlobalAveragePool", [y], f"s{n}_squeeze"), f"s{n}_down", 16, 8, 1)
        gate = net.node("Sigmoid", [net.conv(gate, f"s{n}_up", 8, 16, 1)], f"s{n}_gate")
        y = net.node("Mul", [y, gate], f"s{n}_excite")
        x = net.node("Relu", [net.node("Add", [y, x], f"s{n}_add")], f"s{n}_relu")
    return _head(net, x, 16)


def ssd(net: Net) -> Dict[str, Any]:
    """Heads on maps of two sizes, brought to one shape and joined into boxes and scores."""
    x = net.relu("image", "stem", 3, 16)
    maps = [net.relu(x, "c1", 16, 16, 3, 2)]
    maps.append(net.relu(maps[0], "c2", 16, 16, 3, 2))
    outputs = {}
    for what, count in (("boxes", 4), ("scores", 3)):
        shape, parts = net.const(f"{what}_shape", np.array([0, -1, count], np.int64)), []
        for n, found in enumerate(maps):
            y = net.node("Transpose", [net.conv(found, f"{what}{n}", 16, 2 * count)], f"{what}{n}_t", perm=[0, 2, 3, 1])
            parts.append(net.node("Reshape", [y, shape], f"{what}{n}_r"))
        outputs[net.node("Concat", parts, what, axis=1)] = ["N", 160, count]
    return outputs


def deeplab(net: Net) -> Dict[str, Any]:
    """Dilated branches and the image's mean, enlarged, joined; the result enlarged to the image's size."""
    x = net.relu(net.relu("image", "stem", 3, 16), "c1", 16, 16, 3, 2)
    branches = [net.relu(x, "a0", 16, 8, 1), *(net.relu(x, f"a{d}", 16, 8, dilation=d) for d in (2, 3))]
    mean = net.relu(net.node("GlobalAveragePool", [x], "mean"), "a_mean", 16, 8, 1)
    roi = ""
    for name, tensor, scale in (("spread", mean, 8.0), ("enlarge", "", 2.0)):
        scales = net.const(f"{name}_scales", np.array([1, 1, scale, scale], np.float32))
        if name == "spread":
            branches.append(net.node("Resize", [tensor, roi, scales], name, mode="nearest"))
            x = net.relu(net.node("Concat", branches, "joined", axis=1), "project", 32, 16, 1)
        else:
            x = net.node("Resize", [net.conv(x, "classes", 16, 5, 1), roi, scales], name, mode="linear")
    return {x: ["N", 5, 16, 16]}


def yolo(net: Net) -> Dict[str, Any]:
    """Swish, halves of which one goes around, repeated pooling, an enlarged map joined with a finer one, two heads."""

    def swish(x: str, name: str, i: int, o: int, kernel: int = 3, stride: int = 1) -> str:
        y = net.conv(x, name, i, o, kernel, stride)
        return net.node("Mul", [y, net.node("Sigmoid", [y], f"{name}_sigmoid")], f"{name}_swish")

    fine = swish(swish("image", "stem", 3, 16), "down1", 16, 16, 3, 2)
    split = net.const("halves", np.array([8, 8], np.int64))
    from onnx import helper

    net.nodes.append(helper.make_node("Split", [fine, split], ["left", "right"], name="csp_split", axis=1))
    inner = net.node("Add", ["right", swish(swish("right", "csp1", 8, 8), "csp2", 8, 8)], "csp_add")
    fine = swish(net.node("Concat", ["left", "right", inner], "csp_concat", axis=1), "csp_out", 24, 16, 1)
    x = swish(fine, "down2", 16, 16, 3, 2)
    pools = [x]
    for n in range(2):
        pools.append(net.node("MaxPool", [pools[-1]], f"spp{n}", kernel_shape=[3, 3], pads=[1] * 4))
    coarse = swish(net.node("Concat", pools, "spp_concat", axis=1), "spp_out", 48, 16, 1)
    scales = net.const("scales", np.array([1, 1, 2, 2], np.float32))
    joined = net.node("Concat", [net.node("Resize", [coarse, "", scales], "up", mode="nearest"), fine], "fpn", axis=1)
    fine = swish(joined, "fpn_out", 32, 16, 1)
    outputs = {}
    for name, x, size in (("fine", fine, 8), ("coarse", coarse, 4)):
        outputs[net.conv(x, name, 16, 9, 1)] = ["N", 9, size, size]
    return outputs


ALL: Dict[str, Callable[[Net], Dict[str, Any]]] = {
    "densenet": densenet,
    "inception": inception,
    "mobilenet": mobilenet,
    "squeeze_excite": squeeze_excite,
    "ssd": ssd,
    "deeplab": deeplab,
    "yolo": yolo,
}


def write(name: str, path: Path) -> Path:
    """Write the graph `name` of `ALL`: NCHW, free batch, opset 17."""
    net = Net(3)
    outputs = ALL[name](net)
    return net.save(path, ["N", 3, 16, 16], outputs)
