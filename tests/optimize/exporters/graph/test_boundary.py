"""Names, batch, size and layout at the boundary; readable names inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.errors import ModelError, UsageError
from optimize.exporters import graph
from optimize.exporters.graph import boundary, names
from optimize.exporters.graph.net import Net


def shapes(items: Any) -> Any:
    return [[d.dim_param or d.dim_value for d in item.type.tensor_type.shape.dim] for item in items]


def test_the_free_batch_is_called_batch(sketch: Any) -> None:
    s = sketch()
    y = s.node("Flatten", s.node("GlobalAveragePool", s.conv("x", 3, 8)))
    net = Net(s.model(["N", 3, None, None], {y: None}))
    boundary.set_batch(net, "dynamic", "m", (3, 6, 6))
    graph.clean(net)
    boundary.settle_outputs(net, "dynamic", "m")
    made = graph.finish(net, "m")
    assert shapes(made.graph.input) == [["batch", 3, 6, 6]] and shapes(made.graph.output) == [["batch", 8]]
    assert made.ir_version <= 8 and [(o.domain, o.version) for o in made.opset_import] == [("", 17)]


def test_a_batch_can_be_fixed_but_not_freed(sketch: Any) -> None:
    s = sketch()
    y = s.conv("x", 3, 8)
    net = Net(s.model(["N", 3, 6, 6], {y: None}))
    boundary.set_batch(net, 4, "m")
    boundary.settle_outputs(net, 4, "m")
    assert shapes(net.graph.input)[0][0] == 4 and shapes(net.graph.output)[0] == [4, 8, 6, 6]
    with pytest.raises(ModelError, match="'x' is fixed to batch 4, a free batch was asked for") as caught:
        boundary.set_batch(net, "dynamic", "m")
    assert "--batch 4" in caught.value.hint
    with pytest.raises(ModelError, match="fixed to batch 4, batch 8"):
        boundary.set_batch(net, 8, "m")


def test_a_batch_that_is_fixed_inside(sketch: Any) -> None:
    s = sketch()
    y = s.node("Reshape", "x", s.ints(2, 12))
    net = Net(s.model(["N", 3, 4], {y: None}))
    boundary.set_batch(net, "dynamic", "m")
    with pytest.raises(ModelError, match="fixed batch 2"):
        boundary.settle_outputs(net, "dynamic", "m")


@pytest.mark.parametrize("sizes", [None, (3, 10**9, 10**9)])
def test_a_sample_that_nothing_holds_is_refused_by_its_size(sketch: Any, sizes: Any) -> None:
    """Given by the graph, or by the user."""
    s = sketch()
    free = [10**9, 10**9] if sizes is None else [None, None]
    net = Net(s.model(["N", 3, *free], {s.conv("x", 3, 8): None}))
    with pytest.raises(ModelError, match=r"one sample of the input 'x' is 3x1000000000x1000000000, 1\.2e"):
        boundary.set_batch(net, "dynamic", "m", sizes)


def test_a_sample_just_below_the_limit_is_taken_and_one_at_it_is_not() -> None:
    boundary.check_size((2**29 - 1,), "m")
    with pytest.raises(ModelError, match=r"2\.15e\+09 bytes"):
        boundary.check_size((512, None, 2**20), "m")


def test_a_free_size_must_be_given(sketch: Any) -> None:
    s = sketch()
    model = s.model(["N", 3, None, None], {s.conv("x", 3, 8): None})
    with pytest.raises(UsageError, match=r"takes 3x.x.: its size is free") as caught:
        boundary.set_batch(Net(model), "dynamic", "m")
    assert "--input-shape" in caught.value.hint
    with pytest.raises(UsageError, match="4x6x6 does not fit"):
        boundary.set_batch(Net(model), "dynamic", "m", (4, 6, 6))


def test_renaming_swaps_names_and_moves_inner_ones_away(sketch: Any, onnx_run: Any) -> None:
    s = sketch()
    a = s.node("Relu", "x")
    b = s.node("Neg", a)
    model = s.model(["batch", 3], {b: None, a: None})
    net = Net(model)
    boundary.rename(net, ["image"], [a, b])
    made = graph.finish(net, "m")
    assert [o.name for o in made.graph.output] == [a, b]
    x = np.ones((2, 3), np.float32)
    first, second = onnx_run(made, {"image": x})
    assert (first == -x).all() and (second == x).all()
    net = Net(s.model(["batch", 3], {b: None}))
    boundary.rename(net, ["image"], [a])  # an inner tensor is called so
    assert onnx_run(graph.finish(net, "m"), {"image": x})[0][0, 0] == -1
    with pytest.raises(ModelError, match="1 outputs"):
        boundary.rename(net, ["image"], ["a", "b"])


@pytest.mark.parametrize(("have", "want"), [("NCHW", "NHWC"), ("NHWC", "NCHW")])
def test_the_layout_of_images_can_change(have: str, want: str, sketch: Any, onnx_run: Any, ops: Any) -> None:
    s = sketch()
    x = "x" if have == "NCHW" else s.node("Transpose", "x", perm=[0, 3, 1, 2])
    model = s.model(["batch", 3, 5, 6] if have == "NCHW" else ["batch", 5, 6, 3], {s.conv(x, 3, 4): None})
    net = Net(model)
    assert boundary.set_layout(net, have, want) and not boundary.set_layout(net, want, want)
    graph.clean(net)
    assert ops(net).get("Transpose", 0) == (1 if want == "NHWC" else 0)
    image = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    turned = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    before = onnx_run(model, {"x": image if have == "NCHW" else turned})
    after = onnx_run(graph.finish(net, "m"), {"x": turned if want == "NHWC" else image})
    np.testing.assert_allclose(before[0], after[0], atol=1e-5)


def test_names_are_those_of_layers(sketch: Any) -> None:
    s = sketch()
    y = s.conv(s.node("Transpose", "x", perm=[0, 3, 1, 2]), 3, 4)
    y = s.node("Relu", s.bn(y, 4))
    y = s.node("Sigmoid", y)
    s.nodes[1].name, s.nodes[2].name = "StatefulPartitionedCall/net/stage/conv2d/Conv2D__17", "net/bn__3"
    s.nodes[3].name, s.nodes[4].name = "/layer1/layer1.0/Relu", ""
    net = Net(s.model(["batch", 5, 6, 3], {y: None}))
    graph.clean(net)
    names.tidy(net)
    assert [n.name for n in net.nodes] == [
        "x/to_channels_first",
        "net/stage/conv2d/Conv2D",
        "layer1/layer1.0/Relu",
        "Sigmoid_3",
    ]
    assert sorted(net.constants) == ["net/stage/conv2d/Conv2D/bias", "net/stage/conv2d/Conv2D/weight"]
    assert net.nodes[2].input[0] == "net/stage/conv2d/Conv2D" and net.outputs == [y]


def test_equal_names_are_told_apart(sketch: Any) -> None:
    s = sketch()
    y = s.node("Neg", s.node("Relu", "x"))
    s.nodes[0].name = s.nodes[1].name = "act__1"
    net = Net(s.model(["batch", 3], {y: None}))
    names.tidy(net)
    assert [n.name for n in net.nodes] == ["act", "act_2"]
