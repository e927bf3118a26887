"""Bytes come no faster than asked."""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.ship.stores import flow


@given(st.lists(st.integers(0, 1 << 20), max_size=30), st.integers(1, 1 << 24))
def test_the_mean_is_never_above_the_limit(sizes: List[int], limit: int) -> None:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.MonkeyPatch.context() as patch:  # a clock that only sleeping moves
        patch.setattr(flow.time, "monotonic", lambda: now[0])
        patch.setattr(flow.time, "sleep", sleep)
        passed = sum(len(piece) for piece in flow.paced((b"x" * size for size in sizes), limit))
    assert passed == sum(sizes)
    assert now[0] - 100.0 == pytest.approx(passed / limit)


@pytest.mark.parametrize(("limit", "size"), [(0, 1 << 20), (1, 1 << 10), (800_000, 100_000), (1 << 30, 1 << 20)])
def test_progress_shows_some_times_a_second(limit: int, size: int) -> None:
    assert flow.block_size(limit) == size
