"""Feeds are checked against the specs, and results get stable names however they are nested."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import tensors
from engines.errors import UsageError
from engines.spec import TensorSpec

INPUT = TensorSpec("image", (None, 4, 4, 3))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((None, 32, 32, 3), "NHWC"),
        ((None, 3, 32, 32), "NCHW"),
        ((1, 1, 28, 28), "NCHW"),
        ((None, 3, 3, 3), "default"),
        ((None, 16, 16, 16), "default"),
        ((None, 10), ""),
    ],
)
def test_the_layout_is_where_the_channels_are(shape, expected):
    assert tensors.layout(shape, "default") == expected


def test_good_feeds_come_back_as_they_are():
    array = np.zeros((2, 4, 4, 3), np.float32)
    assert tensors.checked([INPUT], {"image": array})[0] is array


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "takes image; nothing"),
        ({"x": np.zeros((1, 4, 4, 3), np.float32)}, "takes image; x"),
        ({"image": np.zeros((1, 3, 4, 4), np.float32)}, r"\?x4x4x3; 1x3x4x4"),
        ({"image": np.zeros((4, 4, 3), np.float32)}, "4x4x3 was given"),
        ({"image": np.zeros((1, 4, 4, 3))}, "float64 was given"),
        ({"image": np.zeros((1, 4, 3, 4), np.float32).transpose(0, 1, 3, 2)}, "C-contiguous"),
    ],
)
def test_bad_feeds_are_usage_errors(feeds, said):
    with pytest.raises(UsageError, match=said):
        tensors.checked([INPUT], feeds)


def test_batches_must_be_alike():
    two = [TensorSpec("a", (None, 1)), TensorSpec("b", (None, 1))]
    with pytest.raises(UsageError, match=r"\[1, 2\]"):
        tensors.checked(two, {"a": np.zeros((1, 1), np.float32), "b": np.zeros((2, 1), np.float32)})


Pair = namedtuple("Pair", "boxes scores")


@pytest.mark.parametrize(
    ("value", "names", "expected"),
    [
        (1, (), ["output"]),
        (1, ("dense",), ["dense"]),
        ([1, 2], ("a", "b"), ["a", "b"]),
        ((1, 2), ("a", "a"), ["output_0", "output_1"]),
        ((1, None, 2), (), ["output_0", "output_2"]),
        (OrderedDict(out=1, aux=2), ("a", "b"), ["out", "aux"]),
        (Pair(1, 2), (), ["boxes", "scores"]),
        ({"levels": [1, 2], "mask": 3}, (), ["levels.0", "levels.1", "mask"]),
        ([(1, 2), 3], (), ["output_0.0", "output_0.1", "output_1"]),
    ],
)
def test_results_get_stable_names(value, names, expected):
    assert list(tensors.named(value, names)) == expected


_nested = st.recursive(
    st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)


@given(_nested)
def test_no_tensor_is_lost_and_no_name_is_there_twice(value):
    def leaves(item):
        if isinstance(item, dict):
            return [x for part in item.values() for x in leaves(part)]
        return [x for part in item for x in leaves(part)] if isinstance(item, list) else [item]

    assert list(tensors.named(value).values()) == leaves(value)
    assert [tensor for _, tensor in tensors.flat(value)] == leaves(value)
