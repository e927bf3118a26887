"""The measure that chooses between calibration methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.agreement import Agreement, compare, join, per_image
from calib.choice import improves

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
        worst, best = compare([good], [bad], task=task), compare([good], [good], task=task)
        assert improves(best, worst, 3) and not improves(worst, best, 3)
        assert np.isfinite([worst.agreement, worst.error]).all()


@given(scores, scores, st.integers(1, 5), st.booleans())
def test_parts_joined_are_the_whole(a: Any, b: Any, cut: int, labelled: bool) -> None:
    labels = np.arange(6) % 4 if labelled else None
    whole = per_image([a], [b], labels)
    parts = [whole.part(0, cut), whole.part(cut)]
    assert [len(part) for part in parts] == [cut, 6 - cut]
    assert join(parts).mean() == whole.mean() == compare([a], [b], labels)
    alone = per_image([a[cut:]], [b[cut:]], None if labels is None else labels[cut:])
    np.testing.assert_array_equal(parts[1].error, alone.error)
