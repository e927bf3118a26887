"""Kernels that reach beyond small maps, and those that do not."""

from __future__ import annotations

import tracemalloc
from typing import Any, List

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from optimize.exporters import graph
from optimize.exporters.graph.net import Net


def _kernels(net: Any) -> List[Any]:
    return [net.constants[node.input[1]].shape[2:] for node in net.nodes if node.op_type == "Conv"]


@pytest.mark.parametrize(
    "size, stride, pads, left",
    [
        ((1, 1), 1, [1, 1, 1, 1], (1, 1)),
        ((2, 2), 2, [0, 0, 1, 1], (2, 2)),
        ((2, 2), 2, [1, 1, 1, 1], (2, 2)),
        ((2, 2), 1, [1, 1, 1, 1], (3, 3)),
        ((1, 4), 1, [1, 1, 1, 1], (1, 3)),
    ],
)
def test_what_meets_nothing_but_padding_goes(
    size: Any, stride: int, pads: List[int], left: Any, sketch: Any, cleaned: Any
) -> None:
    s = sketch()
    y = s.conv("x", 3, 8, pads=pads, strides=[stride, stride])
    assert _kernels(cleaned(s.model(["batch", 3, *size], {y: None}))) == [left]


def test_maps_of_free_size_keep_their_kernels(sketch: Any) -> None:
    s = sketch()
    net = Net(s.model(["batch", 3, "h", 1], {s.conv("x", 3, 8): None}))
    graph.clean(net)
    assert _kernels(net) == [(3, 3)]


def test_a_long_map_takes_no_memory_of_its_length(sketch: Any) -> None:
    s = sketch()
    net = Net(s.model(["batch", 3, 1, 1 << 24], {s.conv("x", 3, 8, pads=[1] * 4): None}))
    tracemalloc.start()
    graph.clean(net)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert _kernels(net) == [(1, 3)] and peak < 1 << 24


def test_a_kernel_that_two_layers_share_is_cut_for_each(sketch: Any, cleaned: Any) -> None:
    s = sketch()
    weight = s.normal(3, 3, 3, 3)
    y = s.node("MaxPool", s.node("Conv", "x", weight, pads=[1] * 4), kernel_shape=[3, 3])
    y = s.node("Conv", y, weight, pads=[1] * 4)
    assert _kernels(cleaned(s.model(["batch", 3, 3, 3], {y: None}))) == [(3, 3), (1, 1)]


def test_the_mean_of_one_pixel_goes(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Flatten", s.node("GlobalAveragePool", s.conv("x", 3, 8, pads=[1] * 4)))
    assert ops(cleaned(s.model(["batch", 3, 1, 1], {y: None}))) == {"Conv": 1, "Flatten": 1}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
def test_nothing_changes_whatever_the_shapes(
    size: Any, kernel: Any, strides: Any, dilations: Any, pads: List[int], sketch: Any, cleaned: Any
) -> None:
    for n, k, d, begin, end in zip(size, kernel, dilations, pads, pads[2:]):
        assume(n + begin + end >= (k - 1) * d + 1)
    s = sketch()
    weight = s.normal(4, 3, *kernel)
    y = s.node("Conv", "x", weight, strides=list(strides), dilations=list(dilations), pads=pads)
    assert all(a <= b for a, b in zip(_kernels(cleaned(s.model(["batch", 3, *size], {y: None})))[0], kernel))
