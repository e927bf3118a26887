"""NVIDIA's management library: a double for the GPUs that are not here, held against the names of the real module."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest

from bench.telemetry import nvml


class NVMLError(Exception):
    pass


def double(answers: List[Dict[str, Any]]) -> SimpleNamespace:
    """The module `pynvml` for GPUs that answer so; what is not among a GPU's answers is refused."""

    def question(name: str) -> Any:
        def ask(handle: int) -> Any:
            if name not in answers[handle]:
                raise NVMLError("Not Supported")
            return answers[handle][name]

        return ask

    names = {name for one in answers for name in one}
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(answers),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        **{name: question(name) for name in names},
    )


def busy_gpu(load: int = 87, reasons: Optional[int] = None, process: int = 0) -> Dict[str, Any]:
    return {
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=load, memory=12),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8 << 30, used=3 << 30, free=5 << 30),
        "nvmlDeviceGetComputeRunningProcesses": [
            SimpleNamespace(pid=process or os.getpid(), usedGpuMemory=512 << 20),
            SimpleNamespace(pid=1, usedGpuMemory=1 << 30),
        ],
        **({} if reasons is None else {"nvmlDeviceGetCurrentClocksEventReasons": reasons}),
    }


@pytest.fixture()
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *answers: monkeypatch.setitem(sys.modules, "pynvml", double(list(answers)))


def test_each_question_is_answered_or_refused(use: Any) -> None:
    use(busy_gpu(), {})
    one, other = nvml.gpus()
    assert (one.name, other.name) == ("GPU 0", "GPU 1")
    assert one.ask("nvmlDeviceGetUtilizationRates").gpu == 87 and other.ask("nvmlDeviceGetUtilizationRates") is None
    assert one.ask("nvmlNotInThisVersion") is None
    assert one.ask("nvmlNotInThisVersion", "nvmlDeviceGetMemoryInfo").used == 3 << 30


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, []),
        (0x1, []),  # idle
        (0x2, []),  # clocks that somebody set
        (0x1 | 0x2 | 0x10 | 0x100, []),
        (0x4, ["power cap"]),
        (0x20 | 0x40, ["thermal slowdown", "hardware thermal slowdown"]),
        (0x8 | 0x80, ["hardware slowdown", "power brake"]),
    ],
)
@pytest.mark.parametrize(
    "name", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_power_and_heat_are_limits_and_idling_is_not(use: Any, name: str, bits: int, words: List[str]) -> None:
    use({name: bits})
    assert [nvml.limits(gpu) for gpu in nvml.gpus()] == [words]


def test_a_gpu_that_refuses_tells_no_limits(use: Any) -> None:
    use({})
    assert [nvml.limits(gpu) for gpu in nvml.gpus()] == [None]


def test_the_memory_of_this_process_alone(use: Any) -> None:
    use(busy_gpu(), busy_gpu())
    assert nvml.own_bytes(nvml.gpus()) == 2 * (512 << 20)
    use(busy_gpu(process=2), {})
    assert nvml.own_bytes(nvml.gpus()) is None  # not listed: not the same as no memory
    assert nvml.own_bytes([]) is None


def test_the_real_library_knows_the_names_and_says_when_there_is_no_driver() -> None:
    real = pytest.importorskip("pynvml")
    asked = ["nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksThrottleReasons", *busy_gpu(reasons=0)]
    for name in [*vars(double([])), *asked]:
        assert hasattr(real, name), name
    words = {"power": "SwPowerCap PowerBrake", "thermal": "Thermal", "hardware slowdown": "HwSlowdown"}
    for bit, text in nvml.CAPS.items():
        names = [n for n, value in vars(real).items() if n.startswith("nvmlClocksThrottleReason") and value == bit]
        assert any(w in name for key, w_ in words.items() if key in text for w in w_.split() for name in names), text
    try:
        real.nvmlInit()
    except real.NVMLError_LibraryNotFound:
        assert nvml.gpus() == []
