"""Padding that moves into the layer after it, and padding that must not."""

from __future__ import annotations

from typing import Any

import pytest


def test_zero_padding_joins_a_conv(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.conv(s.node("Pad", "x", s.ints(0, 0, 1, 2, 0, 0, 3, 0)), 3, 8, pads=[1, 0, 0, 1])
    net = cleaned(s.model(["batch", 3, 9, 9], {y: None}))
    assert ops(net) == {"Conv": 1}


@pytest.mark.parametrize("case", ["value", "mode", "channels", "same", "crop"])
def test_other_padding_stays(case: str, sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    pads = {"channels": (0, 1, 1, 1, 0, 0, 1, 1), "crop": (0, 0, -1, 1, 0, 0, 1, 1)}.get(case, (0, 0, 1, 1, 0, 0, 1, 1))
    value = [s.const(0.5)] if case == "value" else []
    y = s.node("Pad", "x", s.ints(*pads), *value, mode="reflect" if case == "mode" else "constant")
    extra = {"auto_pad": "SAME_UPPER"} if case == "same" else {"pads": [1] * 4}
    y = s.node("Conv", y, s.normal(8, 4 if case == "channels" else 3, 3, 3), **extra)
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Pad": 1, "Conv": 1}


def test_max_pooling_takes_zeros_only_where_nothing_is_negative(sketch: Any, cleaned: Any, ops: Any) -> None:
    pads = (0, 0, 1, 1, 0, 0, 1, 1)
    s = sketch()
    y = s.node("MaxPool", s.node("Pad", s.node("Relu", "x"), s.ints(*pads)), kernel_shape=[3, 3], strides=[2, 2])
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Relu": 1, "MaxPool": 1}
    s = sketch()
    y = s.node("MaxPool", s.node("Pad", "x", s.ints(*pads)), kernel_shape=[3, 3], strides=[2, 2])
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Pad": 1, "MaxPool": 1}


def test_max_pooling_takes_padding_with_the_lowest_number(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("Pad", "x", s.ints(0, 0, 1, 1, 0, 0, 1, 1), s.const(-3.4028235e38))
    y = s.node("MaxPool", y, kernel_shape=[3, 3])
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"MaxPool": 1}


def test_average_pooling_counts_the_zeros(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    y = s.node("AveragePool", s.node("Pad", "x", s.ints(0, 0, 1, 1, 0, 0, 1, 1)), kernel_shape=[3, 3])
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"AveragePool": 1}


def test_a_pad_with_two_readers(sketch: Any, cleaned: Any, ops: Any) -> None:
    s = sketch()
    pad = s.node("Pad", "x", s.ints(0, 0, 1, 1, 0, 0, 1, 1))
    y = s.node("Add", s.conv(pad, 3, 3, pads=[1] * 4), s.node("Sigmoid", pad))
    assert ops(cleaned(s.model(["batch", 3, 9, 9], {y: None}))) == {"Pad": 1, "Conv": 1, "Sigmoid": 1, "Add": 1}
