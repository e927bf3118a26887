"""Lines of tegrastats as boards wrote them, lines made up in every way known, and a program that prints them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.telemetry import tegrastats
from bench.telemetry.loads import loads
from bench.telemetry.rails import rails, whole
from bench.telemetry.sampling import Sampler

NANO = (
    "RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [16%@204,9%@204,0%@204,0%@204]"
    " EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25 PLL@34C CPU@36.5C PMIC@100C"
    " POM_5V_IN 1022/1022 POM_5V_GPU 0/0 POM_5V_CPU 204/204"
)
ORIN = (
    "RAM 6334/15388MB (lfb 1770x4MB) SWAP 491/7694MB (cached 0MB) CPU [6%@729,4%@729,off,off] EMC_FREQ 0%@2133"
    " GR3D_FREQ 0%@611 VIC_FREQ 729 APE 174 CV0@45.812C CPU@47.937C GPU@45.875C tj@48.875C"
    " VDD_IN 5299mW/5299mW VDD_CPU_GPU_CV 773mW/773mW VDD_SOC 1424mW/1424mW"
)
R36 = (
    "09-21-2025 15:38:17 RAM 3645/7620MB (lfb 63x4MB) SWAP 236/3810MB (cached 0MB) CPU [1%@729,0%@729] EMC_FREQ 0%@204"
    " GR3D_FREQ 0%@[305] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@44.125C soc2@43.375C gpu@44.531C"
    " tj@44.531C VDD_IN 2957mW/2957mW"
)
R39 = "EMC_FREQ 5%@665 GR3D_FREQ 0%@[305] NVDEC0 off cpu@45.375C/45.812C VDD_IN 3462mW/3522mW/3582mW"


@pytest.mark.parametrize(
    ("line", "gpu", "emc", "ram_mb", "heat", "watts"),
    [
        (
            NANO,
            (0.0, (76,)),
            (0.0, 204),
            (534, 3964),
            {"PLL": 34.0, "CPU": 36.5, "PMIC": 100.0},
            {"POM_5V_IN": 1.022, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.204},
        ),
        (
            ORIN,
            (0.0, (611,)),
            (0.0, 2133),
            (6334, 15388),
            {"CV0": 45.812, "CPU": 47.937, "GPU": 45.875, "tj": 48.875},
            {"VDD_IN": 5.299, "VDD_CPU_GPU_CV": 0.773, "VDD_SOC": 1.424},
        ),
        (
            R36,
            (0.0, (305,)),
            (0.0, 204),
            (3645, 7620),
            {"cpu": 44.125, "soc2": 43.375, "gpu": 44.531, "tj": 44.531},
            {"VDD_IN": 2.957},
        ),
        (R39, (0.0, (305,)), (0.05, 665), None, {"cpu": 45.375}, {"VDD_IN": 3.462}),
        ("GR3D_FREQ 62%@306 APE 150 MTS fg 0% bg 0% AO@41.5C", (0.62, (306,)), (None, None), None, {"AO": 41.5}, {}),
        ("GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 CV0@-256C GPU@-256C", (0.0, (0,)), (None, None), None, {}, {}),
        ("GR3D_FREQ 0%@[0,0]", (0.0, (0, 0)), (None, None), None, {}, {}),
        ("GR3D_FREQ 0% cpu@42C", (0.0, ()), (None, None), None, {"cpu": 42.0}, {}),
        ("GR3D_FREQ @[1000,1000,1000]", (None, (1000, 1000, 1000)), (None, None), None, {}, {}),
        ("GR3D_FREQ 12%@[1300,1300]", (0.12, (1300, 1300)), (None, None), None, {}, {}),
        ("", (None, ()), (None, None), None, {}, {}),
    ],
)
def test_lines_of_boards(line: str, gpu: Any, emc: Any, ram_mb: Any, heat: Dict[str, float], watts: Any) -> None:
    found = tegrastats.parse(line)
    assert (found.gpu_share, found.gpu_mhz) == gpu and (found.emc_share, found.emc_mhz) == emc
    assert found.ram_bytes == (ram_mb and (ram_mb[0] << 20, ram_mb[1] << 20))
    assert found.temperatures_c == heat and found.watts == watts


def test_cores_that_are_off() -> None:
    assert tegrastats.parse(ORIN).cpus == ((0.06, 729), (0.04, 729), None, None)


@given(
    share=st.none() | st.integers(0, 100),
    clocks=st.lists(st.integers(0, 3000), max_size=3),
    bracket=st.booleans(),
    rails=st.dictionaries(
        st.sampled_from(["VDD_IN", "VDDQ_VDD2_1V8AO", "POM_5V_IN", "vin_sys_5v0"]),
        st.integers(0, 60_000),
    ),
    unit=st.sampled_from(["mW", ""]),
    numbers=st.integers(2, 3),
    stamp=st.sampled_from(["", "09-21-2025 15:38:17 "]),
    swap=st.sampled_from(["", "SWAP 5/1982MB (cached 1MB) "]),
    heat=st.dictionaries(st.sampled_from(["cpu", "CPU", "tj", "soc2"]), st.floats(-40, 110).map(lambda x: round(x, 3))),
)
def test_every_way_to_write_a_line(
    share: Optional[int],
    clocks: Any,
    bracket: bool,
    rails: Dict[str, int],
    unit: str,
    numbers: int,
    stamp: str,
    swap: str,
    heat: Dict[str, float],
) -> None:
    clocks = clocks if bracket else clocks[:1]
    at = "" if not clocks else f"@[{','.join(map(str, clocks))}]" if bracket else f"@{clocks[0]}"
    gpu = f"GR3D_FREQ {'' if share is None else f'{share}%'}{at} " if at or share is not None else ""
    power = " ".join(
        f"{name} " + "/".join([f"{mw}{unit}"] + [f"7{unit}"] * (numbers - 1)) for name, mw in rails.items()
    )
    hot = "".join(f"{name}@{value}C " for name, value in heat.items())
    found = tegrastats.parse(f"{stamp}RAM 534/3964MB (lfb 98x4MB) {swap}{gpu}NVDEC off APE 25 {hot}{power}")
    assert found.gpu_share == (None if share is None else share / 100)
    assert found.gpu_mhz == tuple(clocks)
    assert found.watts == {name: mw / 1e3 for name, mw in rails.items()}
    assert found.temperatures_c == heat and found.ram_bytes == (534 << 20, 3964 << 20)


@given(st.text(max_size=200) | st.text("RAMGR3D_FEQCPUVIN [@]%,/0123456789mWMB", max_size=200))
def test_no_text_is_an_error(line: str) -> None:
    tegrastats.parse(line)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the boards run Linux")


@pytest.fixture(autouse=True)
def no_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a test that passed may be another test's: its program is a new one."""
    monkeypatch.setattr(tegrastats, "_READERS", {})


@pytest.fixture()
def program(tmp_path: Path) -> Tuple[Path, Path]:
    """A board whose files tell nothing, its tegrastats, and where that writes its process id."""
    path, pid = tmp_path / "usr/bin/tegrastats", tmp_path / "pid"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"#!/bin/sh\necho $$ >> {pid}\nwhile :; do echo '{ORIN.replace('0%@611', '62%@611')}'; sleep 0.02; done\n"
    )
    path.chmod(0o755)
    return tmp_path, pid


def alive(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text().split()[-1]), 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_ended(pid: Path) -> None:
    end = time.monotonic() + 30
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


@linux
def test_it_stands_in_for_files_that_are_missing(program: Tuple[Path, Path]) -> None:
    root, pid = program
    found = rails(root, nvml=list)
    assert {rail.name: rail.read() for rail in found} == {"VDD_IN": 5.299, "VDD_CPU_GPU_CV": 0.773, "VDD_SOC": 1.424}
    assert [rail.name for rail in whole(found)] == ["VDD_IN"]
    (load,) = loads(root, gpus=list)
    assert load.name == "GR3D by tegrastats" and load.gauges["gpu_utilisation"].read() == 0.62
    with Sampler(found, 50) as sampler:
        time.sleep(0.3)
    assert {value for _, value in sampler.samples["VDD_IN"]} == {5.299}
    assert len(pid.read_text().split()) == 1  # one program for all questions
    reader = tegrastats.reader(root)
    assert reader is not None
    reader.stop()
    wait_until_ended(pid)


@linux
def test_it_ends_when_nobody_asks_and_starts_again(program: Tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root, pid = program
    monkeypatch.setattr(tegrastats, "_FRESH_S", 0.3)
    reader = tegrastats.Reader(root / "usr/bin/tegrastats")
    assert reader.latest() is not None and alive(pid)
    wait_until_ended(pid)
    assert reader.latest() is not None and len(pid.read_text().split()) == 2
    wait_until_ended(pid)


@linux
@pytest.mark.parametrize(("body", "wait"), [("exit 1", 30.0), ("echo", 30.0), ("exec sleep 60", 3.0)])
def test_a_program_that_tells_nothing_is_asked_once(
    body: str, wait: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tegrastats, "_FIRST_S", wait)
    path, pid = tmp_path / "usr/bin/tegrastats", tmp_path / "pid"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho $$ >> {pid}\n{body}\n")
    path.chmod(0o755)
    assert rails(tmp_path, nvml=list) == [] and loads(tmp_path, gpus=list) == []
    wait_until_ended(pid)
    assert len(pid.read_text().split()) == 1


@linux
def test_boards_with_files_never_start_it(program: Tuple[Path, Path]) -> None:
    root, pid = program
    shutil.copytree(Path(__file__).resolve().parents[2] / "boards/orin-nano-jp6.2", root, dirs_exist_ok=True)
    assert {rail.name: rail.read() for rail in rails(root, nvml=list)}["VDD_IN"] == 7.1424
    assert loads(root, gpus=list)[0].gauges["gpu_utilisation"].read() == 0.873
    assert not pid.exists()


@linux
def test_without_the_program_there_is_nothing(tmp_path: Path) -> None:
    assert tegrastats.reader(tmp_path) is None
    reader = tegrastats.Reader(tmp_path / "gone")
    assert reader.latest() is None and reader.latest() is None
