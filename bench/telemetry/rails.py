"""What tells how much power is drawn: sensors of NVIDIA's boards, counters of Intel and AMD processors, NVIDIA's GPUs.

Found once, then read again and again. A sensor that vanishes, or that only root may read, gives None.
Source of the paths: the kernel's documentation of hwmon, iio and powercap, and boards' own trees.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence

from bench.telemetry import nvml, tegrastats
from bench.telemetry.nvml import Gpu
from engines import board
from engines.boardtext import number


class Rail(NamedTuple):
    """One source of power or energy.

    Attributes:
        name: As the sensor says: `VDD_IN`, `package-0`, `GPU 0`.
        read: Watts drawn now, or joules counted so far where `counts`; None where it does not tell.
        whole: All that the board, the processor package or the GPU draws; others are parts of such a one.
        counts: Joules since some moment, rather than watts.
        range_j: Joules at which the counter starts from 0 again; 0 where it never does.
    """

    name: str
    read: Callable[[], Optional[float]]
    whole: bool
    counts: bool = False
    range_j: float = 0.0


_WHOLE = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
"""Rails that together are all that a board draws: its input, or the three that AGX modules have in its place."""


def rails(root: Path = Path("/"), nvml: Callable[[], List[Rail]] = lambda: gpus()) -> List[Rail]:
    """All rails that this machine has, whether or not they may be read.

    Args:
        root: Stands for `/`.
        nvml: Gives the rails of desktop GPUs.
    """
    root = Path(root)
    found = list(_hwmon(root)) or list(_iio(root)) or list(_told(root))
    names = {rail.name for rail in found}
    inputs = next((group for group in _WHOLE if names.issuperset(group)), ())
    found = [rail._replace(whole=rail.name in inputs) for rail in found]
    return found + list(_rapl(root)) + nvml()


def whole(found: Sequence[Rail]) -> List[Rail]:
    """The rails that together are what the machine draws, as far as it tells; those that do not answer are left out."""
    return [rail for rail in found if rail.whole and rail.read() is not None]


def _hwmon(root: Path) -> Iterator[Rail]:
    """INA3221 monitors since JetPack 5: volts in mV times current in mA."""
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if board.text(folder / "name").strip() != "ina3221":
            continue
        for channel in (1, 2, 3):
            name = board.text(folder / f"in{channel}_label").strip()
            if name and name != "NC":
                paths = (folder / f"in{channel}_input", folder / f"curr{channel}_input")
                yield Rail(name, partial(_product, *paths), False)


def _iio(root: Path) -> Iterator[Rail]:
    """The same monitors up to JetPack 4: power in mW."""
    for folder in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio*device*")):
        for channel in range(3):
            name = board.text(folder / f"rail_name_{channel}").strip()
            if name and name != "NC":
                path = folder / f"in_power{channel}_input"
                yield Rail(name, partial(_scaled, path, 1e-3), False)


def _told(root: Path) -> Iterator[Rail]:
    """What `tegrastats` tells where the monitors' files are not there, or not for this user."""
    reader = tegrastats.reader(root)
    if reader is not None:
        for name in tegrastats.names(reader):
            yield Rail(name, partial(tegrastats.watts, reader, name), False)


def _rapl(root: Path) -> Iterator[Rail]:
    """Energy counters of processors, in microjoules: the packages, or the whole system where it is counted."""
    zones = {folder.name: folder for folder in sorted(root.glob("sys/class/powercap/intel-rapl:*"))}
    names = {zone: board.text(folder / "name").strip() for zone, folder in zones.items()}
    system = "psys" in names.values()
    for zone, folder in zones.items():
        top = zone.count(":") == 1
        range_j = (_scaled(folder / "max_energy_range_uj", 1e-6)) or 0.0
        yield Rail(
            names[zone] if top else f"{names.get(zone.rpartition(':')[0], '')} {names[zone]}".strip(),
            partial(_scaled, folder / "energy_uj", 1e-6),
            names[zone] == "psys" if system else top,
            True,
            range_j,
        )


def gpus() -> List[Rail]:
    """Desktop GPUs by NVIDIA's management library (`nvidia-ml-py`); none where it is missing, or refuses.

    On Jetson boards its start succeeds and every question is refused: their rails are the board's.
    """

    def watts(gpu: Gpu) -> Optional[float]:
        drawn = gpu.ask("nvmlDeviceGetPowerUsage")
        return None if drawn is None else float(drawn) / 1e3

    return [Rail(gpu.name, partial(watts, gpu), True) for gpu in nvml.gpus()]


def _product(volts: Path, current: Path) -> Optional[float]:
    millivolts, milliamperes = (number(board.text(path)) for path in (volts, current))
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _scaled(path: Path, unit: float) -> Optional[float]:
    value = number(board.text(path))
    return None if value is None else value * unit
