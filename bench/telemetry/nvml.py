"""NVIDIA's management library (`nvidia-ml-py`, its module is `pynvml`), asked one question at a time.

It is optional. On Jetson boards its start succeeds and most questions are refused, so each answer may be missing.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional


class Gpu(NamedTuple):
    """One GPU.

    Attributes:
        name: `GPU 0`, as nvidia-smi numbers them.
        library: The module `pynvml`, or what stands in for it.
        handle: Of the GPU, for the library.
    """

    name: str
    library: Any
    handle: Any

    def ask(self, *questions: str) -> Any:
        """The answer to the first of some questions (names of functions) that this library and this GPU answer."""
        for question in questions:
            answer = _ask(self.library, question, self.handle)
            if answer is not None:
                return answer
        return None


def gpus() -> List[Gpu]:
    """The GPUs; none where the library is missing or refuses."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    found = []
    for index in range(_ask(pynvml, "nvmlDeviceGetCount") or 0):
        handle = _ask(pynvml, "nvmlDeviceGetHandleByIndex", index)
        if handle is not None:
            found.append(Gpu(f"GPU {index}", pynvml, handle))
    return found


def _ask(library: Any, question: str, *about: Any) -> Any:
    """None where the library is too old for the question, or the GPU refuses it."""
    try:
        return partial(getattr(library, question), *about)()
    except (AttributeError, library.NVMLError):
        return None


CAPS: Dict[int, str] = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits that say that power or heat holds the clocks down. Source: NVML's `nvmlClocksEventReasons`, which were called
`nvmlClocksThrottleReasons` before; left out are those of an idle GPU and of clocks that somebody set."""


def limits(gpu: Gpu) -> Optional[List[str]]:
    """What holds the clocks of a GPU down at this moment, in words; None where it does not tell."""
    bits = gpu.ask("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    return None if bits is None else [words for bit, words in CAPS.items() if bits & bit]


def own_bytes(found: List[Gpu]) -> Optional[int]:
    """GPU memory of this process; None where no GPU lists it (in a container it may have another number)."""
    sizes = [
        process.usedGpuMemory
        for gpu in found
        for process in gpu.ask("nvmlDeviceGetComputeRunningProcesses") or ()
        if process.pid == os.getpid() and process.usedGpuMemory is not None
    ]
    return sum(sizes) if sizes else None
