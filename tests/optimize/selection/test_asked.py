from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import UsageError
from optimize.selection import asked
from optimize.selection.asked import Drop


def test_points_and_shares_of_the_accuracy_are_told_apart() -> None:
    assert asked.drop("--max-drop", "10") == asked.drop("--max-drop", 10) == Drop(10, False)
    assert asked.drop("--max-drop", "10 points") == Drop(10, False)
    assert asked.drop("--max-drop", "10%") == Drop(0.1, True)
    assert Drop(10, False).words == "10 points" and Drop(0.1, True).words == "10% of the baseline's accuracy"


def test_imagenets_resnet18_passes_in_points_and_fails_relative() -> None:
    """69.76% against 78.31%: 8.55 points are 10.9% of the baseline's accuracy."""
    best, top1 = 0.7831, 0.6976
    assert asked.drop("", "10").allows(best, top1) and not asked.drop("", "10%").allows(best, top1)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 100))
def test_a_limit_allows_what_is_no_worse(best: float, top1: float, limit: float) -> None:
    for one in (Drop(limit, False), Drop(limit / 100, True)):
        assert one.allows(best, best)
        assert one.allows(best, top1) or top1 < best


@pytest.mark.parametrize(
    ("text", "bits"),
    [("10Mbps", 1e7), ("1 Gbps", 1e9), ("64kbps", 64e3), ("5MB/s", 4e7), (".5mbps", 5e5)],
)
def test_bandwidths_are_bits_a_second(text: str, bits: float) -> None:
    assert asked.bandwidth("--bandwidth", text) == bits


def test_sizes_delays_and_shares() -> None:
    assert (asked.size("", "2GiB"), asked.size("", "512 MB"), asked.size("", "1b")) == (2**31, 512_000_000, 1)
    assert (asked.delay("", "20ms"), asked.delay("", "1.5 s"), asked.delay("", "0")) == (0.02, 1.5, 0.0)
    assert (asked.share("", "20%"), asked.share("", "0.2"), asked.share("", 0.2)) == (0.2, 0.2, 0.2)


@pytest.mark.parametrize("text", ["", "fast", "10", "0Mbps", "-1Mbps", "10Mb", "1e3Mbps", "Mbps", "10Mbps!", "9" * 400])
def test_what_is_no_bandwidth_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(UsageError, match="--bandwidth"):
        asked.bandwidth("--bandwidth", text)


@pytest.mark.parametrize("text", ["", "-1", "101", "10 apples", "10%%", "nan", "1/0"])
def test_what_is_no_drop_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        asked.drop("--max-drop", text)


@pytest.mark.parametrize("text", ["", "20", "-1%", "120%", "much", "20 points"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--min-saving"):
        asked.share("--min-saving", text)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (asked.drop, asked.share, asked.bandwidth, asked.size, asked.delay):
        try:
            read("--option", text)
        except UsageError as error:
            assert "--option" in error.message
