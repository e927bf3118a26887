"""Methods: how they are written, what each reads, and what keeps a scale positive."""

from __future__ import annotations

import numpy as np
import pytest

from calib.histogram import TensorRange
from calib.methods import METHODS, Method, momenta, parse_method, scale, threshold
from engines.errors import UsageError


def test_zeros_alone_have_no_width_and_a_positive_scale() -> None:
    seen = TensorRange()
    seen.add(np.zeros((4, 3), np.float32), 4)
    assert seen.values.width == 0 and seen.values.total == 12
    for method in METHODS:
        assert scale(seen, method) > 0


def test_a_nearly_dead_tensor_is_not_erased() -> None:
    values = np.zeros((10, 10_000), np.float32)
    values[0, 0] = 5.0
    seen = TensorRange()
    seen.add(values, 10)
    assert threshold(seen, Method("percentile", 99.9)) == 5.0


def test_peaks_are_per_image() -> None:
    seen = TensorRange()
    seen.add(np.array([[1, -2], [3, 0]], np.float32), 2)
    seen.add(np.array([[0, 8]], np.float32), 1)
    assert seen.peaks.total == 3 and seen.peaks.amax == 8
    assert threshold(seen, Method("peaks", 50.0)) == pytest.approx(3, abs=seen.peaks.width)
    assert threshold(seen, Method("minmax")) == 8
    assert not seen.nonnegative


@pytest.mark.parametrize("text", ["minmax", "percentile:99.9", "peaks:90", "average:0.9", "entropy", "mse"])
def test_methods_read_back_as_written(text: str) -> None:
    assert str(parse_method(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kl",
        "minmax:3",
        "entropy:1",
        "percentile:0",
        "percentile:x",
        "peaks:101",
        "peaks:nan",
        "average:1",
        "average:x",
    ],
)
def test_bad_methods_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="method"):
        parse_method(text)


def test_numbers_left_out() -> None:
    texts = ("percentile", "peaks", "average")
    assert [str(parse_method(text)) for text in texts] == ["percentile:99.9", "peaks:90", "average:0.99"]
    assert momenta([parse_method(text) for text in ("average:0.5", "average", "mse", "average:0.5")]) == (0.5, 0.99)


def test_the_average_follows_the_images() -> None:
    seen = TensorRange(averages={0.5: (0.0, 0.0)})
    for peak in (8.0, 2.0, 2.0):
        seen.add(np.array([[peak, 0.5]], np.float32), 1)
    assert threshold(seen, Method("average", momentum=0.5)) == pytest.approx((8 / 4 + 2 / 2 + 2) / (1 / 4 + 1 / 2 + 1))


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-30, 1e30])
def test_a_constant_tensor_keeps_its_value_by_every_method(value: float) -> None:
    seen = TensorRange()
    seen.add(np.full((6, 50), value, np.float32), 6)
    for method in METHODS:
        found = threshold(seen, method)
        assert found == pytest.approx(abs(value), rel=0.02), method
        assert scale(seen, method) > 0


def test_one_value_of_one_image() -> None:
    seen = TensorRange()
    seen.add(np.array([[7.0]], np.float32), 1)
    assert {round(threshold(seen, method), 3) for method in METHODS} == {7.0}
