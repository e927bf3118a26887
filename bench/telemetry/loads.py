"""How busy a GPU says it is, and how much memory is taken: nodes of NVIDIA's boards, NVML on desktops.

The two shares are not how much of a GPU is used but how often: NVML's is the share of time in which at least one kernel
ran, so that a loop of single images may read 100% while most of the GPU waits.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from bench.telemetry import nvml, tegrastats
from bench.telemetry.rails import Rail
from engines import board
from engines.boardtext import meminfo_of, number

_NODES = ("sys/devices/*/load", "sys/devices/platform/*/load", "sys/devices/platform/bus@0/*/load")
_GPU = re.compile(r"gpu\.\d+|(?:.*\.)?(?:ga10b|gv11b|gp10b|gm20b|gpu)")
"""Folder of a GPU there: `gpu.0` up to JetPack 5, `17000000.ga10b`, since JetPack 6 `17000000.gpu`."""


class Load(NamedTuple):
    """What one GPU tells.

    Attributes:
        name: Of the GPU, and how it is asked: `GPU 0 by NVML`.
        gauges: By what is told: `gpu_utilisation` and `gpu_memory_utilisation` (shares of time, 0 to 1) and
            `gpu_used_bytes` (of all processes; on a board, whose memory is shared, of the whole system), and
            `gpu_limited`: 1 while power or heat holds its clocks down, else 0.
    """

    name: str
    gauges: Dict[str, Rail]


def loads(root: Path = Path("/"), gpus: Callable[[], List[nvml.Gpu]] = nvml.gpus) -> List[Load]:
    """The GPUs of this machine that tell how busy they are.

    Args:
        root: Stands for `/`.
        gpus: Gives the desktop GPUs.
    """
    found = _tegra(Path(root)) or _told(Path(root)) or [_nvml(gpu) for gpu in gpus()]
    return [load for load in found if load.gauges["gpu_utilisation"].read() is not None]


def _tegra(root: Path) -> List[Load]:
    """Boards have one GPU; the same node may be seen at several places."""
    nodes = [path for place in _NODES for path in sorted(root.glob(place)) if _GPU.fullmatch(path.parent.name)]
    return [
        Load(f"{path.parent.name}/load", {
            "gpu_utilisation": Rail("load", partial(_tenths_of_percent, path), False),
            "gpu_used_bytes": Rail("memory", partial(_taken, root / "proc/meminfo"), False),
        })
        for path in nodes[:1]
    ]  # fmt: skip


def _told(root: Path) -> List[Load]:
    """What `tegrastats` tells where there is no such node."""
    reader = tegrastats.reader(root)
    if reader is None or tegrastats.gpu_share(reader) is None:
        return []
    gauges = {
        "gpu_utilisation": Rail("load", partial(tegrastats.gpu_share, reader), False),
        "gpu_used_bytes": Rail("memory", partial(_taken, root / "proc/meminfo"), False),
    }
    return [Load("GR3D by tegrastats", gauges)]


def _tenths_of_percent(path: Path) -> Optional[float]:
    value = number(board.text(path))
    return None if value is None else value / 1000


def _taken(path: Path) -> Optional[float]:
    sizes = meminfo_of(board.text(path))
    return None if not {"MemTotal", "MemAvailable"} <= set(sizes) else sizes["MemTotal"] - sizes["MemAvailable"]


def _nvml(gpu: nvml.Gpu) -> Load:
    def told(question: str, field: str, unit: float) -> Optional[float]:
        answer: Any = gpu.ask(question)
        return None if answer is None else getattr(answer, field) * unit

    def limited() -> Optional[float]:
        limits = nvml.limits(gpu)
        return None if limits is None else float(bool(limits))

    rates, memory = "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo"
    return Load(
        f"{gpu.name} by NVML",
        {
            "gpu_utilisation": Rail("load", partial(told, rates, "gpu", 0.01), False),
            "gpu_memory_utilisation": Rail("memory load", partial(told, rates, "memory", 0.01), False),
            "gpu_used_bytes": Rail("memory", partial(told, memory, "used", 1), False),
            "gpu_limited": Rail("limited", limited, False),
        },
    )
