"""The NVIDIA driver, asked by ctypes: whether there is a GPU and which. Needs neither pycuda nor TensorRT."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

# CUdevice_attribute and CUresult of cuda.h; both are stable over all CUDA versions.
_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS = 75, 76, 18, 16
_SUCCESS = 0


class Gpu(NamedTuple):
    """One GPU as the driver tells it."""

    name: str
    compute_capability: str
    """Such as `8.7`."""
    integrated: bool
    """It shares the memory of the CPU, as on a Jetson."""
    driver: str
    """CUDA version of the driver, such as `11.4`."""
    multiprocessors: int = 0
    """Tells boards apart that have one chip: all of Jetson Orin are called Orin."""

    @property
    def model(self) -> str:
        """Name and size in one word, such as `Orin, 8 SM`."""
        return f"{self.name}, {self.multiprocessors} SM"


def on_the_bus(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether Linux sees an NVIDIA display controller (PCI vendor 10de, class 03xxxx), with or without its driver."""

    def word(device: Path, name: str) -> str:
        try:
            return (device / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    found = sorted(devices.glob("*")) if devices.is_dir() else []
    return any(word(one, "vendor") == "0x10de" and word(one, "class").startswith("0x03") for one in found)


@functools.lru_cache(maxsize=None)
def ask(index: int = 0) -> Tuple[Optional[Gpu], str]:
    """The GPU of that number, or None and why not in one line. Makes no context.

    Args:
        index: As CUDA counts, after CUDA_VISIBLE_DEVICES.
    """
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None, f"the NVIDIA driver's library {_LIBRARY} is not here"
    code = cuda.cuInit(0)
    if code != _SUCCESS:
        return None, f"the NVIDIA driver finds no GPU that it can use (cuInit gives {code})"
    count, handle, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if index >= count.value or cuda.cuDeviceGet(ctypes.byref(handle), index) != _SUCCESS:
        return None, f"there is no GPU {index}: the driver has {count.value}"
    cuda.cuDriverGetVersion(ctypes.byref(version))
    name = ctypes.create_string_buffer(256)
    if cuda.cuDeviceGetName(name, len(name), handle) != _SUCCESS:
        return None, f"the NVIDIA driver does not name GPU {index}"

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        return value.value if cuda.cuDeviceGetAttribute(ctypes.byref(value), number, handle) == _SUCCESS else 0

    return (
        Gpu(
            name.value.decode("utf-8", "replace"),
            f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
            bool(attribute(_INTEGRATED)),
            f"{version.value // 1000}.{version.value % 1000 // 10}",
            attribute(_MULTIPROCESSORS),
        ),
        "",
    )


def gpu(index: int = 0) -> Optional[Gpu]:
    """The GPU of that number, or None."""
    return ask(index)[0]
