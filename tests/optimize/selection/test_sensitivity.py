from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.selection.sensitivity import Line, fastest, flips, thresholds

LINES = st.lists(
    st.tuples(st.integers(0, 10**9), st.floats(0.001, 1e4)).map(lambda pair: (float(pair[0]), pair[1])),
    min_size=1,
    max_size=6,
)


def named(pairs: List[tuple]) -> List[Line]:
    return [Line(f"m{number}", slope, start) for number, (slope, start) in enumerate(pairs)]


def test_a_small_slow_model_wins_where_the_link_is_slow() -> None:
    """100 MB and 10 s against 10 MB and 28 s: 90 MB more cost 18 s more at 40 Mbps."""
    big, small = Line("big", 100e6, 10.0), Line("small", 10e6, 28.0)
    (one,) = flips([big, small])
    assert (one["above"], one["below"]) == ("big", "small") and one["mbps"] == pytest.approx(40)
    assert fastest([big, small], 41).name == "big" and fastest([big, small], 39).name == "small"


def test_one_that_is_smaller_and_faster_is_chosen_at_any_bandwidth() -> None:
    assert flips([Line("a", 5.0, 1.0), Line("b", 6.0, 2.0)]) == []
    assert flips([Line("a", 5.0, 1.0)]) == []


def test_three_lines_through_one_point_make_one_change() -> None:
    x = 8e-6 / 10  # 10 Mbps
    lines = [Line(name, slope, 100 - slope * x) for name, slope in (("a", 3e7), ("b", 2e7), ("c", 1e7))]
    (one,) = flips(lines)
    assert (one["above"], one["below"]) == ("a", "c") and one["mbps"] == pytest.approx(10)


@given(LINES)
def test_between_the_changes_the_one_named_is_the_fastest(pairs: List[tuple]) -> None:
    lines = named(pairs)
    byname = {one.name: one for one in lines}
    changes = flips(lines)
    found = [one["mbps"] for one in changes]
    assert found == sorted(found, reverse=True)
    edges = [1e30, *found, 1e-30]
    chosen = [changes[0]["above"], *(one["below"] for one in changes)] if changes else [fastest(lines, 1e30).name]
    for name, high, low in zip(chosen, edges, edges[1:]):
        x = 8e-6 / (high * low) ** 0.5
        best = min(one.at(x) for one in lines)
        assert byname[name].at(x) == pytest.approx(best, rel=1e-6)
    for one in changes:
        x = 8e-6 / one["mbps"]
        assert byname[one["above"]].at(x) == pytest.approx(byname[one["below"]].at(x), rel=1e-6)


@given(LINES, st.floats(0.01, 0.9))
def test_at_a_threshold_exactly_that_much_is_saved(pairs: List[tuple], least: float) -> None:
    lines = named(pairs)
    baseline = Line("baseline", max(one.slope for one in lines) * 1.5 + 1, max(one.start for one in lines) * 1.5)
    for mbps in thresholds([*lines, baseline], baseline, least, flips([*lines, baseline])):
        x = 8e-6 / mbps
        best = min(one.at(x) for one in [*lines, baseline])
        assert 1 - best / baseline.at(x) == pytest.approx(least, abs=1e-6)


def test_the_verdict_turns_where_a_large_advanced_model_no_longer_saves_enough() -> None:
    baseline, fast = Line("baseline", 10e6, 100.0), Line("fast", 50e6, 10.0)
    (mbps,) = thresholds([fast], baseline, 0.2, [])
    x = 8e-6 / mbps
    assert 1 - fast.at(x) / baseline.at(x) == pytest.approx(0.2)
