"""Power sensors of boards and processors: what they tell, which of them are the whole draw, and what goes missing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest

from bench.telemetry.rails import Rail, gpus, rails, whole

BOARDS = Path(__file__).resolve().parents[2] / "boards"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/sys is Linux's")


def of(root: Path) -> List[Rail]:
    return rails(root, nvml=list)


def told(found: List[Rail]) -> Dict[str, Any]:
    return {rail.name: rail.read() for rail in found}


@pytest.mark.parametrize(
    ("name", "watts", "all_of_it"),
    [
        ("nano-jp4", {"POM_5V_IN": 1.022, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.204}, ["POM_5V_IN"]),
        ("xavier-nx-jp5", {"VDD_IN": 4.0704, "VDD_CPU_GPU_CV": 0.732672, "VDD_SOC": 1.343232}, ["VDD_IN"]),
        ("orin-nano-jp5.1.2", {"VDD_IN": 4.179328, "VDD_CPU_GPU_CV": 0.689792, "VDD_SOC": 1.379584}, ["VDD_IN"]),
        ("orin-nano-jp6.2", {"VDD_IN": 7.1424, "VDD_CPU_GPU_CV": 2.060032, "VDD_SOC": 1.5872}, ["VDD_IN"]),
        (
            "agx-orin-jp6.1",
            {"VDD_GPU_SOC": 2.38176, "VDD_CPU_CV": 0.952704, "VIN_SYS_5V0": 4.027776, "VDDQ_VDD2_1V8AO": 0.59232},
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
        ),
        ("thor-jp7", {}, []),
        ("rtx-desktop", {}, []),
    ],
)
def test_boards_tell_their_watts(name: str, watts: Dict[str, float], all_of_it: List[str]) -> None:
    found = of(BOARDS / name)
    assert told(found) == pytest.approx(watts)
    assert [rail.name for rail in whole(found)] == all_of_it
    assert not any(rail.counts for rail in found)


@pytest.fixture()
def orin(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BOARDS / "orin-nano-jp6.2", tmp_path / "orin"))


def test_a_rail_that_vanishes_tells_nothing(orin: Path) -> None:
    found = of(orin)
    current = orin / "sys/class/hwmon/hwmon1/curr1_input"
    current.write_text("Input/output error\n")
    assert told(found)["VDD_IN"] is None and whole(found) == []
    shutil.rmtree(current.parent)
    assert set(told(found).values()) == {None}


def put_zone(root: Path, zone: str, name: str, microjoules: int) -> Path:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_processors_count_joules(tmp_path: Path) -> None:
    put_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    put_zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    put_zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    found = of(tmp_path)
    assert told(found) == {"package-0": 5.0, "package-0 core": 3.0, "package-1": 7.0}
    assert all(rail.counts and rail.range_j == pytest.approx(262143.32885) for rail in found)
    assert [rail.name for rail in whole(found)] == ["package-0", "package-1"]
    put_zone(tmp_path, "intel-rapl:2", "psys", 30_000_000)
    assert [rail.name for rail in whole(of(tmp_path))] == ["psys"]


def test_a_counter_that_only_root_may_read_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    found = of(tmp_path)

    def refused(*a: Any, **k: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    assert told(found) == {"package-0": None} and whole(found) == []


class NVMLError(Exception):
    pass


def library(watts: Dict[int, Any]) -> SimpleNamespace:
    def power(handle: int) -> int:
        if watts[handle] is None:
            raise NVMLError("Not Supported")
        return int(1000 * watts[handle])

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(watts),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetPowerUsage=power,
    )


def test_desktop_gpus_answer_or_refuse_each_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library({0: 31.5, 1: None}))
    assert told(gpus()) == {"GPU 0": 31.5, "GPU 1": None}
    assert [rail.name for rail in whole(gpus())] == ["GPU 0"]
    refusing = library({})

    def nothing() -> None:
        raise NVMLError("Driver Not Loaded")

    refusing.nvmlInit = nothing
    monkeypatch.setitem(sys.modules, "pynvml", refusing)
    assert gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert gpus() == []
