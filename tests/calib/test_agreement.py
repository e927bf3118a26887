"""The measure that chooses between calibration methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.agreement import Agreement, choose, compare, join, per_image
from calib.methods import Method

scores = hnp.arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=16))


@given(scores, scores)
def test_classes_are_counted_as_numpy_counts_them(a: Any, b: Any) -> None:
    labels = np.arange(6) % 4
    found = compare([a], [b], labels)
    assert found.agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert found.top1 == pytest.approx((b.argmax(1) == labels).mean())
    assert found.error == pytest.approx(np.abs(a.astype(float) - b).mean())


@given(scores)
def test_a_model_agrees_with_itself(a: Any) -> None:
    assert compare([a], [a]) == Agreement(1.0, 0.0, None)
    assert compare([a, a[:, :2]], [a, a[:, :2]], task="tensors").agreement == pytest.approx(1.0)


@given(scores, scores)
def test_cosines_lie_between_their_bounds(a: Any, b: Any) -> None:
    found = compare([a, b], [b, a], task="tensors")
    assert -1.000001 <= found.agreement <= 1.000001 and found.top1 is None


def test_scores_that_are_not_finite_are_the_worst() -> None:
    good = np.eye(3, dtype=np.float32)
    bad = np.full((3, 3), np.nan, np.float32)
    for task in ("classify", "tensors"):
        results = [
            (Method("minmax"), compare([good], [bad], task=task)),
            (Method("peaks", 9), compare([good], [good], task=task)),
        ]
        assert choose(results).name == "peaks"
        assert np.isfinite([results[0][1].agreement, results[0][1].error]).all()


@given(scores, scores, st.integers(1, 5), st.booleans())
def test_parts_joined_are_the_whole(a: Any, b: Any, cut: int, labelled: bool) -> None:
    labels = np.arange(6) % 4 if labelled else None
    whole = per_image([a], [b], labels)
    parts = [whole.part(0, cut), whole.part(cut)]
    assert [len(part) for part in parts] == [cut, 6 - cut]
    assert join(parts).mean() == whole.mean() == compare([a], [b], labels)
    alone = per_image([a[cut:]], [b[cut:]], None if labels is None else labels[cut:])
    np.testing.assert_array_equal(parts[1].error, alone.error)


def test_equal_agreement_is_decided_by_the_error_then_by_order() -> None:
    first, second, third = Method("minmax"), Method("percentile", 99.9), Method("peaks", 90.0)
    assert choose([(first, Agreement(0.9, 0.2, None)), (second, Agreement(0.9, 0.1, None))]) == second
    assert choose([(first, Agreement(0.9, 0.1, 0.1)), (third, Agreement(0.9, 0.1, 0.9))]) == first
    assert choose([(first, Agreement(0.91, 0.9, None)), (second, Agreement(0.9, 0.1, None))]) == first
