"""What the tail estimates promise, on fewer seeds than `python -m bench.tail.coverage` takes."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import pytest

from bench.tail import coverage


def done(kind: str, name: str, seeds: int) -> List[Dict[str, Any]]:
    return [coverage.one(kind, name, seed, 20_000) for seed in range(seeds)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_the_band_holds_the_truth_and_is_no_wider_than_it_must(shape: float) -> None:
    found = done("known", f"GPD, shape {shape:g}", 40)
    assert sum(bool(one["covered"]) for one in found) >= 32  # 38 are expected; 34 of 40 would be 85%
    assert np.median([one["upper"] for one in found if one["upper"]]) <= (3 if shape > 0 else 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", coverage.UNSOUND)
def test_what_is_not_sound_is_refused_or_declustered(name: str) -> None:
    found = done("unsound", name, 10)
    assert sum(one["declustered"] or one["refused"] is not None for one in found) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("name", coverage.SOUND)
def test_what_is_sound_is_seldom_refused(name: str) -> None:
    found = done("sound", name, 15)
    assert sum(one["refused"] is not None and "fits" not in one["refused"] for one in found) <= 4


def test_one_series_of_each_kind() -> None:
    (known,) = done("known", "GPD, shape 0", 1)
    assert known["covered"] in (True, False) and known["upper"] > 0
    (unsound,) = done("unsound", "drift of one sigma", 1)
    assert unsound["refused"] and unsound["covered"] is None
    assert "covered 100.0%" in coverage._line("known", "x", [{**known, "covered": True}])


@pytest.mark.journey
def test_known_tails_are_what_they_say() -> None:
    for make, true in coverage.KNOWN.values():
        values = make(np.random.default_rng(0), 2_000_000)
        assert 5 <= np.count_nonzero(values > true) <= 40  # 20 of two million are expected
