"""Energy between two moments, from samples of power or of a counter."""

from __future__ import annotations

import time
from typing import Any, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.telemetry.rails import Rail
from bench.telemetry.sampling import Sampler, joules

POWER = Rail("VDD_IN", lambda: 5.0, True)
COUNTER = Rail("package-0", lambda: 0.0, True, True, 1000.0)


def test_constant_power_over_a_time() -> None:
    samples = [(float(t), 5.0) for t in np.arange(0, 3, 0.1)]
    assert joules(POWER, samples, 0.55, 2.05) == pytest.approx(7.5)


@given(st.floats(0, 20), st.floats(-3, 3), st.floats(0.05, 0.4), st.floats(0.0, 4.0), st.floats(0.1, 4.0))
def test_a_ramp_is_exact(base: float, slope: float, step: float, start: float, length: float) -> None:
    times = np.arange(0, 10, step)
    samples = [(float(t), base + slope * float(t)) for t in times]
    end = start + length
    exact = base * length + slope * (end**2 - start**2) / 2
    assert joules(POWER, samples, start, end) == pytest.approx(exact, abs=1e-9)


@given(st.floats(0, 999), st.floats(1, 50), st.floats(0.1, 3), st.floats(0.2, 5))
def test_a_counter_goes_on_where_it_starts_again(first: float, watts: float, start: float, length: float) -> None:
    samples = [(float(t), (first + watts * float(t)) % 1000.0) for t in np.arange(0, 9, 0.05)]
    assert joules(COUNTER, samples, start, start + length) == pytest.approx(watts * length, rel=1e-6)


@pytest.mark.parametrize(
    ("times", "start", "end"),
    [
        ([], 0.0, 1.0),
        ([0.0], 0.0, 1.0),
        ([0.2, 0.4, 1.2], 0.0, 1.0),  # it began too late
        ([0.0, 0.4, 0.9], 0.0, 1.0),  # it ended too early
        ([0.0, 0.3, 1.6, 1.8], 0.2, 1.7),  # a gap
        ([0.0, 0.5, 1.0], 0.8, 0.8),
    ],
)
def test_what_was_not_watched_is_not_known(times: List[float], start: float, end: float) -> None:
    assert joules(POWER, [(t, 5.0) for t in times], start, end) is None
    assert joules(COUNTER, [(t, 5.0 * t) for t in times], start, end) is None


def test_rails_are_read_while_the_block_runs() -> None:
    values = iter(range(10**6))
    flaky = Rail("flaky", lambda: 1.0 if next(values) % 2 else None, False)
    with Sampler([POWER, flaky], hz=200) as sampler:
        begun = time.monotonic()
        time.sleep(0.2)
        ended = time.monotonic()
    count = len(sampler.samples["VDD_IN"])
    assert count >= 3 and abs(len(sampler.samples["flaky"]) - count / 2) <= 1
    assert sampler.samples["VDD_IN"][-1][0] >= ended  # so that the end lies between two samples
    assert joules(POWER, sampler.samples["VDD_IN"], begun + 0.01, ended) == pytest.approx(5 * (ended - begun - 0.01))


def test_a_reading_that_had_to_wait_is_repeated() -> None:
    waits = [0.2, 0.0, 0.2, 0.2, 0.2, *[0.0] * 1000]
    read: List[float] = []

    def late() -> float:
        value = time.monotonic()
        time.sleep(waits[len(read)])
        read.append(value)
        return value

    with Sampler([Rail("late", late, False)], hz=5) as sampler:
        time.sleep(0.9)
    found = sampler.samples["late"]
    assert found[0][1] == read[1] and found[0][0] == pytest.approx(read[1], abs=0.05)
    assert found[1][1] in read[2:5]  # all three had to wait


def test_a_sensor_that_breaks_is_not_swallowed() -> None:
    def broken() -> Any:
        raise RuntimeError("sensor")

    with pytest.raises(RuntimeError, match="sensor"), Sampler([Rail("x", broken, True)], hz=100):
        time.sleep(0.05)
