"""Block maxima: the fit finds what maxima were made of."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tail import blocks


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_moments_find_the_parameters(shape: float) -> None:
    from scipy.stats import genextreme

    maxima = genextreme.rvs(-shape, loc=5, scale=2, size=20_000, random_state=np.random.default_rng(0))
    found = blocks.fit(maxima)
    assert (found.shape[0], found.location[0], found.scale[0]) == pytest.approx((shape, 5, 2), abs=0.06)
    value = float(blocks.exceeded_by(found, 1e-4, 1)[0])
    there = genextreme(-found.shape[0], loc=found.location[0], scale=found.scale[0])
    assert value == pytest.approx(there.isf(1e-4), rel=1e-6)


def test_estimates_are_per_value_and_not_per_block() -> None:
    rng = np.random.default_rng(1)
    found = blocks.opinion(1 + rng.exponential(1.0, 40_000), (1e-3, 1e-5), 1.0, 0.95)
    assert found["size"] == found["count"] == 200
    for one in found["estimates"]:
        assert one["low"] < 1 - np.log(one["p"]) < one["high"]


def test_the_extremal_index_stands_for_dependence() -> None:
    """Each value three times: a block of 200 holds 67 independent ones."""
    series = np.repeat(1 + np.random.default_rng(2).exponential(1.0, 20_000), 3)[:40_000]
    right = blocks.opinion(series, (1e-4,), 1 / 3, 0.95)["estimates"][0]
    wrong = blocks.opinion(series, (1e-4,), 1.0, 0.95)["estimates"][0]
    assert abs(right["value"] - (1 - np.log(1e-4))) < abs(wrong["value"] - (1 - np.log(1e-4)))


def test_short_and_constant_series_have_no_opinion() -> None:
    assert blocks.opinion(np.random.default_rng(0).random(300), (1e-3,), 1.0, 0.95) is None
    assert blocks.opinion(np.ones(10_000), (1e-3,), 1.0, 0.95) is None
