"""The shares of a served query, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bench import served
from bench.report.cells import notes
from engines.served import DURATIONS


def counted(requests, executions, inferences, *milliseconds):
    return {
        "requests": requests,
        "failed": 0,
        "executions": executions,
        "inferences": inferences,
        **{key: int(requests * ms * 1e6) for key, ms in zip(DURATIONS, milliseconds)},
    }


class Counting:
    """A runner whose server tells its counters."""

    def __init__(self, *readings):
        self.readings = list(readings)

    def statistics(self):
        return self.readings.pop(0)


ZERO = counted(0, 0, 0, 0, 0, 0, 0, 0)


def test_the_shares_are_those_between_two_readings():
    before = counted(10, 10, 10, 9, 9, 9, 9, 9)
    after = {key: value + counted(4, 2, 32, 3.0, 1.0, 0.2, 1.5, 0.1)[key] for key, value in before.items()}
    found = served.shares(before, after, 5e6)
    assert found is not None
    assert found == pytest.approx(
        {
            "wall_ms": 5.0,
            "network_ms": 2.0,
            "queue_ms": 1.0,
            "compute_ms": 1.5,
            "input_ms": 0.2,
            "output_ms": 0.1,
            "requests": 4,
            "batch": 16,
        }
    )


def test_a_server_that_was_started_anew_tells_nothing():
    assert served.shares(counted(10, 10, 10, 1, 1, 1, 1, 1), ZERO, 1e6) is None


def test_counters_are_read_outside_the_timed_queries():
    calls = []

    class Watched(Counting):
        def statistics(self):
            calls.append("asked")
            return super().statistics()

    watch = served.Watch(Watched(ZERO, counted(2, 2, 2, 1, 0, 0, 1, 0)))
    mark = watch.noting(lambda: calls.append("marked"))
    mark()
    mark()
    assert calls == ["asked", "marked", "marked", "asked"]
    cell = watch.cell(np.array([2_000_000, 2_000_000]))
    assert cell["served"]["network_ms"] == pytest.approx(1.0) and "flags" not in cell


def test_requests_of_others_are_flagged():
    watch = served.Watch(Counting(ZERO, counted(3, 3, 3, 1, 0, 0, 1, 0)))
    watch.look()
    watch.look()
    assert watch.cell(np.array([2_000_000, 2_000_000]))["flags"] == [served.SHARED]


def test_without_a_server_or_its_counters_there_is_nothing():
    watch = served.Watch(object())
    mark = watch.noting(lambda: None)
    mark()
    assert watch.cell(np.array([1])) == {}
    silent = served.Watch(Counting(None, None))
    silent.look()
    silent.look()
    assert silent.cell(np.array([1])) == {}


def test_a_row_weighs_its_rounds_by_their_requests_and_tells_them_in_a_line():
    one = {**dict.fromkeys(("wall_ms", *served.SHARES, "batch"), 1.0), "requests": 1}
    two = {**dict.fromkeys(("wall_ms", *served.SHARES, "batch"), 4.0), "requests": 2}
    row = served.of_row([{"served": one}, {"served": two}, {}])
    assert row is not None and row["requests"] == 3 and row["queue_ms"] == pytest.approx(3.0)
    assert served.of_row([{}]) is None
    told = {"target": "m", "role": "engine", "form": "", "batch": 1, "served": row, "device": None, "usage": None}
    (line,) = [text for text in notes([{**told, "energy": None, "speedup": None}]) if text.startswith("m: of")]
    assert line == (
        "m: of 3.000 ms (mean): network 3.000, queue 3.000, compute 3.000, copies in 3.000, copies out 3.000; "
        "3.00 images ran at once"
    )
