from __future__ import annotations

import json
import sys

import pytest

from bench.telemetry import proc

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and /sys are Linux's")


@pytest.fixture()
def tree(tmp_path):
    """A made-up machine of two CPUs."""
    put(tmp_path, "proc/stat", "cpu  100 0 50 800 10 5 5 30 7 0\ncpu0 50 0 25 400 5 3 2 15 3 0\nintr 1\n")
    put(tmp_path, "proc/self/stat", "42 (a (b) c) R " + " ".join(["0"] * 10) + " 20 10 5 5 " + "0 " * 30)
    put(tmp_path, "proc/loadavg", "0.50 0.40 0.30 1/100 42\n")
    put(tmp_path, "proc/meminfo", "MemTotal: 100 kB\nMemAvailable:   2048 kB\n")
    for cpu in (0, 1):
        at = f"sys/devices/system/cpu/cpu{cpu}"
        freq = {"scaling_governor": "schedutil", "scaling_min_freq": 800_000, "scaling_max_freq": 2_000_000}
        for name, value in {
            **freq,
            "scaling_cur_freq": 1_000_000 + cpu * 500_000,
            "cpuinfo_max_freq": 2_000_000,
        }.items():
            put(tmp_path, f"{at}/cpufreq/{name}", f"{value}\n")
        put(tmp_path, f"{at}/thermal_throttle/core_throttle_count", "3\n")
        put(tmp_path, f"{at}/thermal_throttle/core_throttle_total_time_ms", "999\n")
    put(tmp_path, "sys/devices/system/cpu/intel_pstate/no_turbo", "1\n")
    for number, (kind, temp) in enumerate([("cpu", 51_500), ("cpu", 48_000), ("off", -256_000)]):
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", str(temp))
    put(tmp_path, "sys/class/thermal/cooling_device0/type", "Processor")
    put(tmp_path, "sys/class/thermal/cooling_device0/cur_state", "0")
    put(tmp_path, "sys/class/thermal/cooling_device1/type", "pwm-fan")
    put(tmp_path, "sys/class/thermal/cooling_device1/cur_state", "3")
    return tmp_path


def put(root, path, value):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value)


def test_the_state_of_a_machine(tree):
    state = proc.state(tree)
    assert state["governor"] == "schedutil" and state["turbo"] is False and state["clocks"] == "free"
    assert (state["min_mhz"], state["max_mhz"], state["limit_mhz"]) == (800, 2000, 2000)
    assert state["cur_mhz"] == [1000, 1500]
    assert state["load"] == [0.5, 0.4, 0.3]
    assert state["memory_available_bytes"] == 2048 * 1024
    assert state["temperatures_c"] == {"cpu": 51.5}
    assert state["throttle_count"] == 6
    assert state["cooling"] == []
    ticks = {name: round(value * proc._TICKS) for name, value in state["cpu_seconds"].items()}
    assert ticks == {"total": 1000, "busy": 160, "steal": 30, "own": 40}
    json.dumps(state, allow_nan=False)


def test_clocks_are_locked_where_no_cpu_can_change(tree):
    for cpu in (0, 1):
        put(tree, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_min_freq", "2000000")
    assert proc.state(tree)["clocks"] == "locked"
    assert "clocks free" not in proc.flags(proc.state(tree), proc.state(tree))
    put(tree, "sys/devices/system/cpu/intel_pstate/no_turbo", "0")
    assert proc.state(tree)["clocks"] == "free"


def test_boost_of_other_drivers(tree):
    (tree / "sys/devices/system/cpu/intel_pstate/no_turbo").unlink()
    assert proc.state(tree)["turbo"] is None
    put(tree, "sys/devices/system/cpu/cpufreq/boost", "1")
    assert proc.state(tree)["turbo"] is True


def test_an_empty_machine_says_that_it_does_not_know(tmp_path):
    state = proc.state(tmp_path)
    assert state["clocks"] == "unknown"
    assert not any(state[name] for name in state if name != "clocks")
    assert proc.flags(state, state) == []
    assert proc.flags({}, {}) == []


def test_garbage_is_not_a_number(tree):
    put(tree, "proc/stat", "cpu  \xff\n")
    put(tree, "proc/loadavg", "")
    put(tree, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "<unknown>")
    state = proc.state(tree)
    assert state["cpu_seconds"] is None and state["load"] is None and state["cur_mhz"] == [1500, 1500]


def test_throttling(tree):
    before = proc.state(tree)
    assert "throttled" not in proc.flags(before, before)
    put(tree, "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "4")
    assert "throttled" in proc.flags(before, proc.state(tree))


def test_a_lowered_limit_is_throttling(tree):
    before = proc.state(tree)
    for cpu in (0, 1):
        put(tree, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_max_freq", "1500000")
    assert "throttled" in proc.flags(before, proc.state(tree))
    assert "throttled" not in proc.flags(proc.state(tree), before)


def test_a_slowed_processor_is_throttled_and_a_fan_is_not(tree):
    put(tree, "sys/class/thermal/cooling_device0/cur_state", "2")
    state = proc.state(tree)
    assert state["cooling"] == ["Processor"]
    assert "throttled" in proc.flags(state, state)


@pytest.mark.parametrize(
    ("stat", "own", "busy"),
    [
        ("cpu 1000 0 50 900 10 5 5 30", 900, False),  # we ourselves
        ("cpu 1000 0 50 900 10 5 5 30", 0, True),  # somebody else
        ("cpu 100 0 50 1700 10 5 5 330", 0, True),  # the hypervisor
        ("cpu 100 0 50 1800 10 5 5 30", 0, False),  # nobody
    ],
)
def test_busy_means_others(tree, stat, own, busy):
    before = proc.state(tree)
    put(tree, "proc/stat", stat + "\n")
    put(tree, "proc/self/stat", f"42 (x) R {'0 ' * 10} 20 10 5 {5 + own} " + "0 " * 30)
    assert ("busy" in proc.flags(before, proc.state(tree))) is busy


def test_this_machine():
    state = proc.state(sample_s=0.05)
    assert 0 <= state["others_share"] <= 1 and 0 <= state["steal_share"] <= 1
    assert state["memory_available_bytes"] > 0
    later = proc.state()
    assert later["cpu_seconds"]["own"] >= state["cpu_seconds"]["own"] > 0
    assert later["others_share"] is None
    assert set(proc.flags(state, later)) <= {"busy", "clocks free", "throttled"}


def test_elsewhere_nothing_is_known(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert proc.state() == {}
