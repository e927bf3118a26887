"""Where Q/DQ goes, per target and per form of ResNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Set

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calib import graph as graphs
from calib import ranges
from calib.placement import TARGETS, points
from engines.errors import UsageError
from tests.calib.architectures import Net

Build = Callable[..., Path]

LAYERS = ["stem", "b0_conv1", "b0_conv2", "b1_conv1", "b1_conv2", "b2_conv1", "b2_conv2", "head"]


def readers(path: Path, target: str, **options: Any) -> Dict[str, Set[str]]:
    """Per quantised tensor, who reads its DQ."""
    model = graphs.load(path)
    place = points(model, target, **options)
    nodes = model.graph.node
    return {tensor: {nodes[e.node].name for e in edges} for tensor, edges in place.activations.items()}


def test_tensorrt_quantises_inputs_of_layers_and_skips_alone(resnet: Build) -> None:
    assert readers(resnet(), "tensorrt") == {
        "to_nchw_out": {"stem"},
        "stem_relu_out": {"pool"},  # whose readers all read integers
        "pool_out": {"b0_conv1", "b0_add"},  # an identity skip reuses the DQ of conv1
        "b0_relu1_out": {"b0_conv2"},
        "b0_relu2_out": {"b1_conv1", "b1_short"},
        "b1_relu1_out": {"b1_conv2"},
        "b1_short_out": {"b1_add"},  # the shortcut's own pair
        "b1_relu2_out": {"b2_conv1", "b2_add"},
        "b2_relu1_out": {"b2_conv2"},
        "flat_out": {"head"},
    }


def test_pad_shortcuts_get_one_pair_on_their_output(resnet: Build) -> None:
    found = readers(resnet(shortcut="pad", layout="NCHW"), "tensorrt")
    assert found["b1_pad_out"] == {"b1_add"} and found["image"] == {"stem"}
    assert "b1_slice_out" not in found and found["b0_relu2_out"] == {"b1_conv1"}


def test_a_pad_shortcut_moves_integers_on_openvino(resnet: Build) -> None:
    path = resnet(shortcut="pad", layout="NCHW")
    found = readers(path, "openvino")
    assert found["b0_relu2_out"] == {"b1_conv1", "b1_slice"}
    assert found["b1_slice_out"] == {"b1_pad"} and found["b1_pad_out"] == {"b1_add"}
    place = points(graphs.load(path), "openvino")
    padded = {"b1_slice_out": "b0_relu2_out", "b1_pad_out": "b0_relu2_out"}
    assert place.scale_of == {"stem_relu_out": "pool_out", **padded, "flat_out": "gap_out"}


@pytest.mark.parametrize(
    ("what", "moved"),
    [
        ("zeros", True),
        ("ones", False),
        ("reflect", False),
        ("computed", False),
        ("computed sizes", True),
        ("read elsewhere", False),
    ],
)
def test_only_what_adds_zeros_for_an_addition_moves_integers(what: str, moved: bool, tmp_path: Path) -> None:
    net = Net(4)
    body = net.relu("image", "a", 3, 8)
    sizes = net.const("sizes", np.array([0, 4, 0, 0, 0, 4, 0, 0], np.int64))
    if what == "computed sizes":
        half = net.const("half", np.array([0, 4, 0, 0], np.int64))
        sizes = net.node("Concat", [net.node("Identity", [half], "begin"), half], "joined", axis=0)
    fill = {
        "ones": lambda: [net.const("one", np.float32(1))],
        "computed": lambda: [net.node("ReduceMax", ["image"], "top", keepdims=0)],
    }
    mode = "reflect" if what == "reflect" else "constant"
    padded = net.node("Pad", [body, sizes, *fill.get(what, lambda: [])()], "pad", mode=mode)
    y = net.node("Add", [net.conv(body, "b", 8, 16), padded], "sum")
    outputs = {y: ["N", 16, 16, 16], **({padded: ["N", 16, 16, 16]} if what == "read elsewhere" else {})}
    found = readers(net.save(tmp_path / "net.onnx", ["N", 3, 16, 16], outputs), "openvino")
    assert ("pad" in found["a_relu_out"]) is moved
    assert not {"joined_out", "begin_out"} & set(found)


def test_openvino_quantises_both_sides_of_an_addition(resnet: Build) -> None:
    tensorrt, openvino = readers(resnet(), "tensorrt"), readers(resnet(), "openvino")
    assert {k: v for k, v in openvino.items() if k not in tensorrt} == {
        **{f"b{n}_conv2_out": {f"b{n}_add"} for n in range(3)},
        "b2_relu2_out": {"gap"},
        "gap_out": {"flat"},  # written as integers by the mean itself; elsewhere a layer of its own quantises flat_out
    }
    assert all(openvino[name] == found for name, found in tensorrt.items() if name != "flat_out")
    assert "flat_out" not in openvino
    assert readers(resnet(), "openvino", keep_float=("flat",))["flat_out"] == {"head"}
    assert not {"gap_out", "flat_out"} & set(readers(resnet(), "openvino", keep_float=("head",)))


@pytest.mark.parametrize("other", ["mean", "flat"])
def test_a_mean_that_others_read_is_quantised_for_the_layer_alone(other: str, tmp_path: Path) -> None:
    net = Net(4)
    mean = net.node("GlobalAveragePool", [net.relu("image", "a", 3, 8)], "mean")
    flat = net.node("Flatten", [mean], "flat")
    net.node("Flatten", [net.node("Sigmoid", [{"mean": mean, "flat": flat}[other]], "other")], "also")
    y = net.node("MatMul", [flat, net.const("w", np.ones((8, 4), np.float32))], "head")
    path = net.save(tmp_path / "net.onnx", ["N", 3, 16, 16], {y: ["N", 4], "also_out": ["N", 8]})
    assert readers(path, "openvino")["flat_out"] == {"head"}


@pytest.mark.parametrize("what", ["Relu", "Add", "Sigmoid"])
def test_openvino_quantises_where_it_is_made_what_a_layer_reads_in_another_form(what: str, tmp_path: Path) -> None:
    net = Net(4)
    body = net.relu("image", "a", 3, 8)
    if what == "Add":
        body = net.node("Add", [body, net.conv(body, "b", 8, 8)], "sum")
    elif what == "Sigmoid":
        body = net.node(what, [body], "gate")
    wide = net.node("Unsqueeze", [net.node("Flatten", [body], "flat"), net.const("one", np.array([1]))], "wide")
    weight = net.const("w", np.ones((8 * 16 * 16, 4), np.float32))
    path = net.save(tmp_path / "net.onnx", ["N", 3, 16, 16], {net.node("MatMul", [wide, weight], "head"): ["N", 1, 4]})
    assert readers(path, "tensorrt")["wide_out"] == {"head"}
    found = readers(path, "openvino")
    assert "flat" in found[body] and not {"flat_out", "wide_out"} & set(found)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_mean_between_two_layers_reads_integers_on_openvino(op: str, ends: bool, tmp_path: Path) -> None:
    net = Net(4)
    attributes = {} if op.startswith("Global") else {"axes": [2, 3], "keepdims": 1}
    mean = net.node(op, [net.relu("image", "a", 3, 8)], "mean", **attributes)
    y = net.conv(mean, "b", 8, 4, 1)
    outputs = {y: ["N", 4, 1, 1], **({} if ends else {mean: ["N", 8, 1, 1]})}
    path = net.save(tmp_path / "net.onnx", ["N", 3, 16, 16], outputs)
    found = {target: readers(path, target).get("a_relu_out", set()) for target in ("openvino", "tensorrt")}
    assert found == {"openvino": {"mean"} if ends and op != "ReduceMax" else set(), "tensorrt": set()}


def test_onnxruntime_quantises_what_lies_between(resnet: Build) -> None:
    place = points(graphs.load(resnet()), "onnxruntime")
    found = readers(resnet(), "onnxruntime")
    assert not {"stem_out", "b0_conv1_out", "b0_add_out"} & set(found)  # nothing before a Relu
    assert found["b0_conv2_out"] == {"b0_add"} and found["b2_relu2_out"] == {"gap"}
    assert place.scale_of == {"pool_out": "stem_relu_out", "flat_out": "gap_out"}
    assert len(place.biases) == len(place.weights) == 9


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("head", ["gemm", "matmul"])
@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_every_layer_is_quantised_and_no_output(resnet: Build, target: str, head: str, shortcut: str) -> None:
    model = graphs.load(resnet(head=head, shortcut=shortcut))
    place = points(model, target)
    names = [model.graph.node[weight.edge.node].name for weight in place.weights]
    assert sorted(names) == sorted(LAYERS + (["b1_short"] if shortcut == "conv" else []))
    for tail in ("head_out", "head_add_out", "probabilities_out"):
        assert tail not in place.activations


@pytest.mark.parametrize("target", TARGETS)
def test_other_networks_keep_unknown_operators_float(mixed_cnn: Path, target: str) -> None:
    model = graphs.load(mixed_cnn)
    place = points(model, target)
    quantised = {model.graph.node[weight.edge.node].name for weight in place.weights}
    if target == "onnxruntime":  # no kernel for ConvTranspose, and a Conv that ends the graph has no float result
        assert quantised == {"stem", "depthwise", "gate"}
    else:
        assert quantised == {"stem", "depthwise", "gate", "up", "box"}


@pytest.mark.parametrize("target", TARGETS)
def test_kept_nodes_stay_float(resnet: Build, target: str) -> None:
    model = graphs.load(resnet())
    kept = {model.graph.node[w.edge.node].name for w in points(model, target, ("stem", "head", "b2_conv2")).weights}
    assert not {"stem", "head", "b2_conv2"} & kept


def test_mistakes_are_usage_errors(resnet: Build) -> None:
    with pytest.raises(UsageError, match="tflite"):
        points(graphs.load(resnet()), "tflite")
    with pytest.raises(UsageError, match="nope"):
        points(graphs.load(resnet()), "tensorrt", ("nope",))


@pytest.mark.parametrize(("clamp", "shared"), [(False, False), (True, True)])
@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_pooling_gives_its_range_only_to_what_has_no_negative_values(
    target: str, clamp: bool, shared: bool, tmp_path: Path
) -> None:
    net = Net(1)
    x = net.relu("image", "a", 3, 8) if clamp else net.conv("image", "a", 3, 8)
    pooled = net.node("MaxPool", [x], "pool", kernel_shape=[8, 8], strides=[1, 1])
    ends = [net.conv(pooled, "b", 8, 4), net.conv(x, "c", 8, 4)]  # who needs what the pool leaves out
    path = net.save(tmp_path / "net.onnx", ["N", 3, 16, 16], dict(zip(ends, (["N", 4, 9, 9], ["N", 4, 16, 16]))))
    assert (x in points(graphs.load(path), target).scale_of) is shared


GROW = ("conv", "conv", "relu", "max", "mean", "concat", "slice", "pad", "add")


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=12, deadline=None)
@example(steps=[("conv", 0, 0), ("concat", 0, 0), ("add", 0, 0), ("max", 0, 0)], seed=0)  # a pool behind what joins
@given(
    steps=st.lists(st.tuples(st.sampled_from(GROW), st.integers(0, 3), st.integers(0, 9)), min_size=4, max_size=10),
    seed=st.integers(0, 99),
)
def test_no_tensor_gets_a_range_that_its_values_leave(
    steps: Any, seed: int, target: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = grown(steps, seed, tmp_path_factory.mktemp("grown") / "net.onnx")
    place = points(graphs.load(path), target)
    images = np.random.default_rng(seed).normal(0, 1, (8, 3, 16, 16)).astype(np.float32)
    seen = ranges.collect(path, sorted({*place.activations, *place.measured()}), [{"image": images}])
    nodes = graphs.load(path).graph.node
    for tensor, edges in place.activations.items():
        if all(nodes[edge.node].op_type == "MaxPool" for edge in edges):
            continue  # clipped before or behind it: the same
        given = seen[place.scale_of.get(tensor, tensor)]
        assert seen[tensor].values.amax <= 1.001 * given.values.amax, tensor
        assert seen[tensor].nonnegative or not given.nonnegative, tensor


def grown(steps: Any, seed: int, path: Path) -> Path:
    """A network of random steps, each on one of the last four tensors; all ends meet in a last convolution."""
    net = Net(seed)
    tensors = [(net.conv("image", "first", 3, 8), 8)]
    read: Set[str] = set()
    for index, (what, back, other) in enumerate(steps):
        name = f"n{index}"
        x, width = tensors[-1 - back % len(tensors)]
        second, its = tensors[other % len(tensors)]
        if what == "conv":
            y, wide = net.conv(x, name, width, 8), 8
        elif what == "relu":
            y, wide = net.node("Relu", [x], name), width
        elif what in ("max", "mean"):
            op = {"max": "MaxPool", "mean": "AveragePool"}[what]
            y, wide = net.node(op, [x], name, kernel_shape=[3, 3], pads=[1] * 4), width
        elif what == "concat":
            y, wide = net.node("Concat", [x, second], name, axis=1), width + its
            read.add(second)
        elif what == "slice":
            ends = [net.const(f"{name}_{k}", np.array([v], np.int64)) for k, v in enumerate((0, width // 2, 1))]
            y, wide = net.node("Slice", [x, *ends], name), width // 2
        elif what == "pad":
            pads = net.const(f"{name}_pads", np.array([0, 1, 0, 0, 0, 2, 0, 0], np.int64))
            y, wide = net.node("Pad", [x, pads], name), width + 3
        elif its == width:
            y, wide = net.node("Add", [x, second], name), width
            read.add(second)
        else:
            continue
        read.add(x)
        tensors.append((y, wide))
    ends = [(y, wide) for y, wide in tensors if y not in read]
    y = net.node("Concat", [y for y, _ in ends], "ends", axis=1) if len(ends) > 1 else ends[0][0]
    return net.save(path, ["N", 3, 16, 16], {net.conv(y, "last", sum(wide for _, wide in ends), 4): ["N", 4, 16, 16]})
