"""The energy pass: a real engine queried in a child, beside counters that move at a known power."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, List, Optional

import pytest

from bench import energy
from bench.telemetry.rails import Rail, rails
from engines.errors import IncompatibleError
from tests.bench.conftest import spec_of
from tests.bench.telemetry.test_rails import put_zone

WATTS = 40.0
NEAR = 0.4  # a busy machine reads late; the arithmetic is held to its digits in test_sampling.py


@pytest.fixture()
def counted(tmp_path: Path) -> List[Rail]:
    """A processor whose counter tells 40 W whenever it is read, and starts again soon."""
    counter = put_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (counter.parent / "max_energy_range_uj").write_text("50000000\n")  # in 1.25 s: a late reading misses no round
    (rail,) = rails(tmp_path, nvml=list)
    begun = time.monotonic()

    def read() -> Optional[float]:
        counter.write_text(f"{int(1e6 * WATTS * (time.monotonic() - begun)) % 50_000_000}\n")
        return rail.read()

    return [rail._replace(read=read)]


def test_each_batch_gets_its_energy(model: Path, counted: List[Rail]) -> None:
    found = energy.measure(spec_of(model), [1, 8], counted, warmup_s=0.05, seconds=0.5, idle_s=0.3)
    assert sorted(found) == [1, 8]
    for one in found.values():
        assert one["rail"] == "package-0" and one["watts"] == pytest.approx(WATTS, rel=NEAR)
        assert one["idle_watts"] == pytest.approx(WATTS, rel=NEAR)
        assert one["joules_per_image"] == pytest.approx(one["watts"] * one["seconds"] / one["images"])
        assert one["images_per_joule"] == pytest.approx(1 / one["joules_per_image"])
        assert one["joules_above_idle_per_image"] < 2 * NEAR * one["joules_per_image"]  # it draws the same all the time
        assert one["rails"] == {"package-0": one["watts"]}
    assert found[8]["images"] % 8 == 0


def test_a_rail_that_vanishes_leaves_the_energy_unknown(model: Path) -> None:
    answers = iter([5.0] * 8)  # enough for the look before and the idle time
    rail = Rail("VDD_IN", lambda: next(answers, None), True)
    found = energy.measure(spec_of(model), [1], [rail], warmup_s=0.0, seconds=0.2, idle_s=0.2, hz=20)
    assert found[1]["watts"] is None and found[1]["joules_per_image"] is None and found[1]["rails"] == {}


def test_no_sensor_is_told_before_anything_is_measured() -> None:
    with pytest.raises(IncompatibleError, match="no power sensor") as none:
        energy.require([])
    assert "--energy" in none.value.hint

    def nothing() -> Any:
        return None

    with pytest.raises(IncompatibleError, match="package-0 cannot be read") as refused:
        energy.require([Rail("package-0", nothing, True, True)])
    assert "chmod" in refused.value.hint
