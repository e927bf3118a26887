from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.telemetry import nvml
from bench.telemetry.loads import loads
from tests.bench.telemetry.test_nvml import busy_gpu, double

BOARDS = Path(__file__).resolve().parents[2] / "boards"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/sys is Linux's")


@pytest.mark.parametrize(
    ("board", "name", "share"),
    [
        ("nano-jp4", "gpu.0/load", 0.0),
        ("orin-nano-jp5.1.2", "17000000.ga10b/load", 0.0),
        ("orin-nano-jp6.2", "17000000.gpu/load", 0.873),
    ],
)
def test_boards_tell_how_busy_their_gpu_is(board: str, name: str, share: float) -> None:
    (load,) = loads(BOARDS / board, gpus=list)
    assert load.name == name and load.gauges["gpu_utilisation"].read() == pytest.approx(share)
    used = load.gauges["gpu_used_bytes"].read()
    assert used is not None and 0 < used < 8 << 30  # shared with the CPU


def test_one_gpu_seen_at_two_places_is_one(tmp_path: Path) -> None:
    for place in ("gpu.0", "platform/17000000.ga10b"):
        (tmp_path / "sys/devices" / place).mkdir(parents=True)
        (tmp_path / "sys/devices" / place / "load").write_text("500\n")
    (tmp_path / "sys/devices/platform/15340000.vic").mkdir()
    (tmp_path / "sys/devices/platform/15340000.vic/load").write_text("900\n")  # not a GPU
    (load,) = loads(tmp_path, gpus=list)
    assert load.name == "gpu.0/load" and load.gauges["gpu_utilisation"].read() == 0.5
    assert load.gauges["gpu_used_bytes"].read() is None


def test_a_node_that_may_not_be_read_is_no_gauge(tmp_path: Path) -> None:
    tree = Path(shutil.copytree(BOARDS / "orin-nano-jp6.2", tmp_path / "orin"))
    (tree / "sys/devices/platform/17000000.gpu/load").write_text("Input/output error\n")
    assert loads(tree, gpus=list) == []


def test_desktop_gpus_are_asked_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", double([busy_gpu(87, reasons=0x4), {}]))
    (load,) = loads(tmp_path)  # the second refuses, as on Jetson boards
    told: Any = {name: gauge.read() for name, gauge in load.gauges.items()}
    assert load.name == "GPU 0 by NVML"
    assert told == {
        "gpu_utilisation": pytest.approx(0.87),
        "gpu_memory_utilisation": pytest.approx(0.12),
        "gpu_used_bytes": 3 << 30,
        "gpu_limited": 1.0,
    }
    assert nvml.gpus()[1].name == "GPU 1"


def test_machines_without_a_gpu_have_none(tmp_path: Path) -> None:
    assert loads(tmp_path, gpus=list) == []
