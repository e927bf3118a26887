from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.telemetry import cores
from tests.bench.telemetry.test_proc import put

STAT = """cpu  300 0 150 1500 20 10 20 0 7 0
cpu0 100 0 50 800 10 5 5 30 7 0
cpu2 200 0 100 700 10 5 15
intr 99
ctxt 4000
"""
INTERRUPTS = """           CPU0       CPU2
  1:         10          0   IO-APIC   1-edge      i8042
 26:        100        300     GICv3  30 Level     arch_timer
NMI:          2          3   Non-maskable interrupts
ERR:          7
MIS:          0
"""


def tree(root: Path, stat: str = STAT, interrupts: str = INTERRUPTS) -> Path:
    put(root, "proc/stat", stat)
    put(root, "proc/interrupts", interrupts)
    return root


def test_counters_of_every_core_that_is_online(tmp_path: Path) -> None:
    found = cores.read(tree(tmp_path))
    assert found is not None and sorted(found.seconds) == [0, 2] and found.switches == 4000
    assert found.seconds[0] == tuple(value / cores._TICKS for value in (100, 0, 50, 800, 10, 5, 5, 30))
    assert found.seconds[2][-1] == 0  # an old kernel tells fewer columns
    assert found.interrupts == {0: 112, 2: 303}
    assert cores.read(tmp_path / "nowhere") is None


def test_shares_and_rates_between_two_readings() -> None:
    spent = (0.5, 0.0, 0.1, 1.2, 0.1, 0.05, 0.05, 0.0)
    first = cores.Reading(10.0, {0: (1.0,) * 8, 1: (0.0,) * 8}, {0: 5, 1: 6}, 100)
    after = tuple(1.0 + value for value in spent)
    last = cores.Reading(12.0, {0: after, 1: (0.0,) * 8, 2: (9.0,) * 8}, {0: 45, 1: 6, 2: 1}, 700)
    found = cores.between(first, last)
    assert found is not None and [core["core"] for core in found["cores"]] == [0, 1]  # core 2 came later
    one = found["cores"][0]
    assert one["user"] == pytest.approx(0.25) and one["iowait"] == pytest.approx(0.05)
    assert one["busy"] == pytest.approx(0.7 / 2) and one["interrupts_per_s"] == 20
    assert found["cores"][1]["busy"] == 0.0
    assert found["interrupts_per_s"] == 20 and found["switches_per_s"] == 300
    assert cores.between(None, last) is None and cores.between(last, first) is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_of_the_kernel_is_an_error(tmp_path_factory: pytest.TempPathFactory, stat: str, more: str) -> None:
    root = tmp_path_factory.mktemp("cores")
    put(root, "proc/stat", "")
    (root / "proc/stat").write_bytes(stat.encode("utf-8", "replace"))
    (root / "proc/interrupts").write_bytes((INTERRUPTS + more).encode("utf-8", "replace"))
    found = cores.read(root)
    assert found is not None and found.interrupts[0] >= 112


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_this_machine_tells_its_cores() -> None:
    first = cores.read()
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
    found = cores.between(first, cores.read())
    assert found is not None and found["cores"] and max(core["busy"] for core in found["cores"]) > 0.2
    for core in found["cores"]:
        shares = [core[name] for name in cores.COLUMNS if name != "idle"]
        assert all(0 <= share <= 1 for share in [core["busy"], *shares]) and sum(shares) <= 1.001
