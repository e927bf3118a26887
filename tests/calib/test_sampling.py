from __future__ import annotations

from typing import List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.sampling import FEW, balanced, too_few
from engines.errors import UsageError

KEPT = [93, 66, 94, 182, 190, 51, 165, 99, 188, 67, 103, 46]
"""Of 200 images of 10 classes, seed 7."""

labels_lists = st.lists(st.integers(-2, 5), min_size=1, max_size=80)


@settings(deadline=None)
@given(labels_lists, st.integers(0, 100), st.integers(0, 3))
def test_every_class_gets_as_many_as_it_can(labels: List[int], n: int, seed: int) -> None:
    chosen = balanced(labels, n, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(n, len(labels))
    taken = {label: sum(labels[i] == label for i in chosen) for label in set(labels)}
    most = max(taken.values())
    for label, count in taken.items():
        assert count >= most - 1 or count == labels.count(label)


@settings(deadline=None)
@given(labels_lists, st.integers(0, 40), st.integers(0, 40), st.integers(0, 3))
def test_excluded_are_not_chosen_and_less_is_a_beginning(labels: List[int], n: int, m: int, seed: int) -> None:
    first = balanced(labels, n, seed)
    second = balanced(labels, m, seed, exclude=first.tolist())
    assert not set(first.tolist()) & set(second.tolist())
    assert len(second) == min(m, len(labels) - len(first))
    np.testing.assert_array_equal(balanced(labels, n // 2, seed), first[: n // 2])


def test_the_choice_is_the_same_everywhere() -> None:
    labels = np.arange(200) % 10
    chosen = balanced(labels, 12, 7)
    assert chosen.tolist() == KEPT
    assert chosen.dtype == np.int64
    assert balanced(labels, 12, 8).tolist() != KEPT
    np.testing.assert_array_equal(balanced(labels.astype(np.uint8), 12, 7), chosen)


def test_odd_requests() -> None:
    assert balanced([], 5).tolist() == []
    assert balanced([1, 1], 0).tolist() == []
    with pytest.raises(UsageError, match="-1 samples"):
        balanced([1], -1)


def test_few_images_are_warned_of():
    assert too_few(FEW) == [] and too_few(1)[0].startswith("1 image calibrate")
