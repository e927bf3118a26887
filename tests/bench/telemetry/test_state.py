"""The state of boards, by trees of their files: what is kept of it, and when two are unlike."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Sequence

import pytest

from bench.telemetry import nvml, proc, state
from engines import board
from tests.bench.telemetry.test_nvml import double

BOARDS = Path(__file__).resolve().parents[2] / "boards"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and /sys are Linux's")


def state_of(root: Path) -> Any:
    def run(words: Sequence[str]) -> str:
        return board.text(root / "commands" / words[0])

    return state.state(root, run=run, gpus=list)


@pytest.mark.parametrize(
    ("name", "mode", "clocks", "gpu_hz", "emc_hz"),
    [
        ("nano-jp4", "MAXN", "free", 921_600_000, None),
        ("xavier-nx-jp5", "MODE_20W_6CORE", "locked", 1_109_250_000, 1_866_000_000),
        ("orin-nano-jp5.1.2", "15W", "free", 624_750_000, 2_133_000_000),
        ("orin-nano-jp6.2", "25W", "locked", 918_000_000, 3_199_000_000),
        ("thor-jp7", "MAXN", "locked", 1_575_000_000, 4_266_000_000),
    ],
)
def test_boards_tell_their_mode_and_clocks(name: str, mode: str, clocks: str, gpu_hz: int, emc_hz: Any) -> None:
    found = state_of(BOARDS / name)
    assert (found["power_mode"], found["clocks"]) == (mode, clocks)
    assert found["device_clocks"]["gpu"]["max_hz"] == gpu_hz
    assert found["device_clocks"]["emc"]["max_hz"] == emc_hz
    assert ("clocks free" in state.flags(found, found)) is (clocks == "free")
    assert state.unlike(found, found) == [] and "clocks changed" not in state.flags(found, found)
    json.dumps(found, allow_nan=False)


def test_a_machine_without_nvidia_is_told_by_proc_alone(tmp_path: Path) -> None:
    assert state_of(tmp_path) == proc.state(tmp_path)


@pytest.fixture()
def orin(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BOARDS / "orin-nano-jp6.2", tmp_path / "orin"))


def test_a_limit_that_moves_during_a_run_is_flagged(orin: Path) -> None:
    before = state_of(orin)
    gpu = orin / "sys/class/devfreq/17000000.gpu/max_freq"
    gpu.write_text("912000000\n")  # another word for the same cap
    assert "clocks changed" not in state.flags(before, state_of(orin))
    gpu.write_text("612000000\n")
    after = state_of(orin)
    assert "clocks changed" in state.flags(before, after)
    assert state.unlike(before, after) == ["clocks: locked and free", "highest GPU clock: 918 and 612 MHz"]


def test_another_power_mode_is_another_state(orin: Path) -> None:
    before = state_of(orin)
    (orin / "var/lib/nvpmodel/status").write_text("pmode:0002\n")
    after = state_of(orin)
    assert state.unlike(before, after) == ["power mode: 25W and MAXN_SUPER"]
    assert "clocks changed" in state.flags(before, after)
    (orin / "var/lib/nvpmodel/status").write_text("pmode:0007\n")  # not in the board's table
    assert state_of(orin)["power_mode"] == "7"


def test_what_one_state_does_not_tell_is_not_compared() -> None:
    told = {"power_mode": "15W", "clocks": "locked", "governor": "performance", "turbo": False, "limit_mhz": 1500.0}
    assert state.unlike(told, {}) == state.unlike({}, told) == []
    assert state.unlike(told, {**told, "limit_mhz": 1510.0}) == []
    assert state.unlike(told, {**told, "limit_mhz": 1728.0}) == ["highest CPU clock: 1500 and 1728 MHz"]
    assert state.unlike(told, {**told, "turbo": True}) == ["turbo: False and True"]


@pytest.mark.parametrize(
    ("bits", "told", "flagged"),
    [
        (0x1, [], False),  # idle
        (0x2, [], False),  # clocks that somebody set
        (0x4, ["GPU 0: power cap"], True),
        (0x20 | 0x40, ["GPU 0: thermal slowdown", "GPU 0: hardware thermal slowdown"], True),
    ],
)
def test_a_gpu_that_power_or_heat_holds_down_is_flagged(
    bits: int, told: Any, flagged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [{"nvmlDeviceGetCurrentClocksThrottleReasons": bits}, {}]  # the second refuses
    monkeypatch.setitem(sys.modules, "pynvml", double(answers))
    found = state.state(BOARDS / "rtx-desktop", run=lambda words: "", gpus=nvml.gpus)
    assert found["gpu_limits"] == told
    free = {**found, "gpu_limits": []}
    assert state.flags(free, free).count("throttled") == 0
    for pair in ((found, free), (free, found), (found, found)):
        assert state.flags(*pair).count("throttled") == int(flagged)


def test_boards_whose_gpu_refuses_tell_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", double([{}]))  # as on Jetsons
    found = state.state(BOARDS / "orin-nano-jp6.2", run=lambda words: "", gpus=nvml.gpus)
    assert found["gpu_limits"] is None and "throttled" not in state.flags(found, found)
