from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.report import cells
from bench.report.html import curves, distributions, draw, lines, thin
from tests.bench.report import made

SAMPLES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=300)


@given(SAMPLES, st.integers(2, 60), st.integers(0, 1000))
def test_a_thinned_series_keeps_the_extremes_and_the_order(samples, points, first):
    kept = thin.series(samples, points, first)
    assert len(kept) <= max(points, 2) and kept == sorted(kept)
    assert all(samples[int(i) - first] == value for i, value in kept)
    assert {min(samples), max(samples)} <= {value for _, value in kept}


@given(SAMPLES, st.integers(2, 60))
def test_a_thinned_distribution_has_only_true_points(samples, points):
    kept = thin.distribution(samples, points)
    assert len(kept) <= points
    assert (kept[0][0], kept[-1]) == (min(samples), (max(samples), 1.0))
    ordered = sorted(samples)
    assert all(ordered[round(share * len(samples)) - 1] == value for value, share in kept)


@given(SAMPLES)
def test_a_histogram_counts_every_sample(samples):
    bins = thin.histogram(samples)
    assert sum(count for *_, count in bins) == len(samples) and len(bins) <= 41
    assert (bins[0][0], bins[-1][1]) == (min(samples), max(samples))
    assert all(a[1] == b[0] for a, b in zip(bins, bins[1:]))


@given(st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_every_value_stands_within_the_picture(values, log, zero):
    scale = draw.spread(values, 50, 400, log=log, zero=zero)
    assert all(50 <= scale(value) <= 400 for value in values)
    ticks = scale.ticks()
    assert len(ticks) <= 8 and ticks == sorted(set(ticks))
    assert all(49.9 <= scale(tick) <= 400.1 for tick in ticks)


@pytest.mark.parametrize("values", [(0.7, 90.0), (1.0, 64.0), (1.2, 1.3), (5.0, 5.0), (3.0, 4e9)])
@pytest.mark.parametrize("log", [True, False])
def test_an_axis_has_numbers(values, log):
    assert 1 < len(draw.spread(values, 0, 100, log=log).ticks()) < 8


@given(st.lists(st.floats(20, 210), min_size=1, max_size=16))
def test_labels_do_not_lie_upon_each_other(heights):
    found = draw.apart(heights)
    assert all(b - a >= 11.9 for a, b in zip(sorted(found), sorted(found)[1:]))
    assert max(found) <= draw.HEIGHT - draw.BOTTOM + 0.1
    assume(len(set(heights)) == len(heights))
    assert np.argsort(found).tolist() == np.argsort(heights).tolist()


def test_two_hundred_lines_are_told_apart_without_colour():
    looks = {re.sub(r'class="[^"]*"', "", draw.legend([(n, "")])).replace(f"<b>{n + 1}</b>", "") for n in range(30)}
    assert len(looks) == 30
    whole = {draw.legend([(n, "")]).replace(f"<b>{n + 1}</b>", "") for n in range(210)}
    assert len(whole) == 210


def test_the_front_holds_what_nothing_beats():
    points = [(1.0, 60.0), (2.0, 65.0), (3.0, 64.0), (0.5, 50.0), (2.0, 65.0), (9.0, 66.0), (9.5, 66.0)]
    assert curves.front(points) == [3, 0, 1, 5]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_not_beaten(points):
    best = curves.front(points)

    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    assert not any(beats(point, points[i]) for point in points for i in best)
    assert {p for p in points if not any(beats(q, p) for q in points)} == {points[i] for i in best}


def test_a_target_has_one_number_on_all_charts():
    run = made.run()
    numbers = lines.numbered(run)
    assert sorted(numbers.values()) == list(range(5))
    assert lines.told(list(numbers), numbers)[0] == (0, "int8")
    assert all(lines.key(row) in numbers for row in run["rows"])


@pytest.mark.parametrize(
    ("batches", "threads", "charts"), [((1,), (None,), (0, 0)), ((1, 8), (None,), (2, 0)), ((1, 2), (1, 2), (4, 4))]
)
def test_curves_are_drawn_where_there_are_several(batches, threads, charts):
    run = made.run(batches=batches, threads=threads)
    assert (curves.by_batch(run).count("<figure>"), curves.by_threads(run).count("<figure>")) == charts


def test_a_warm_up_is_seen_in_the_table_of_rounds():
    run = made.run(batches=(1,), threads=(None,), rounds=1, samples=100)
    row = run["rows"][0]
    row["samples_ms"][:10] = row["rounds"][0]["samples_ms"][:10] = [50.0] * 10
    shown = distributions.section({**run, "rows": [row]})
    (line,) = re.findall(r"<tr>((?:<td[^>]*>[^<]*</td>){7})</tr>", shown)
    found = re.findall(r">([^<]+)</td>", line)
    median = float(np.median(row["samples_ms"]))
    assert found[2:5] == ["100", cells.number(median), "50.00"]
