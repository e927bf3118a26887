"""NVIDIA's `tegrastats`, asked where a board's own files do not tell; its lines as all releases write them.

It runs only while somebody asks, so that it disturbs nothing that is timed: it is ended after a second without a
question.
"""

from __future__ import annotations

import atexit
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

_INTERVAL_MS = 50
_FIRST_S = 3.0
"""Of waiting for the first line."""

_FRESH_S = 1.0
"""Age from which a line is no answer any more, and time without a question after which the program is ended."""

_OFF_C = -256.0
"""What a temperature sensor that is off is told as."""

_AT = r"(?:@(?:\[([\d,]+)\]|(\d+)))?"
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?" + _AT)
_EMC = re.compile(r"\bEMC_FREQ (?:(\d+)%)?" + _AT)
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPUS = re.compile(r"\bCPU \[([^\]]*)\]")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_HEAT = re.compile(r"\b([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C\b")
_POWER = re.compile(r"\b([A-Za-z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?=\s|$)")


class Reading(NamedTuple):
    """One line.

    Attributes:
        gpu_share, emc_share: Of the time that GPU and memory were busy, 0 to 1; None where it is not told.
        gpu_mhz: Clocks of the GPU's parts; empty where they are not told.
        emc_mhz: Clock of the memory.
        ram_bytes: Taken and total.
        cpus: Busy share and MHz of each core; None for one that is off.
        temperatures_c: By sensor, without those that are off.
        watts: By rail, at this moment; the average behind it is since the program's start, and is left out.
    """

    gpu_share: Optional[float]
    gpu_mhz: Tuple[int, ...]
    emc_share: Optional[float]
    emc_mhz: Optional[int]
    ram_bytes: Optional[Tuple[int, int]]
    cpus: Tuple[Optional[Tuple[float, Optional[int]]], ...]
    temperatures_c: Dict[str, float]
    watts: Dict[str, float]


def parse(line: str) -> Reading:
    """Read a line; what it does not hold, or holds in another way, is None or empty."""
    gpu_share, gpu_mhz = _unit(_GPU, line)
    emc_share, emc_mhz = _unit(_EMC, line)
    ram, cpus = _RAM.search(line), _CPUS.search(line)
    heat = {name: float(value) for name, value in _HEAT.findall(line)}
    return Reading(
        gpu_share,
        gpu_mhz,
        emc_share,
        emc_mhz[0] if emc_mhz else None,
        (int(ram.group(1)) << 20, int(ram.group(2)) << 20) if ram else None,
        tuple(_core(word) for word in cpus.group(1).split(",")) if cpus else (),
        {name: value for name, value in heat.items() if value > _OFF_C},
        {name: int(value) / 1e3 for name, value in _POWER.findall(line)},
    )


def _unit(pattern: re.Pattern[str], line: str) -> Tuple[Optional[float], Tuple[int, ...]]:
    """Share and clocks: `62%`, `62%@306`, `12%@[1300,1300]`, `@[1000,1000,1000]`."""
    found = pattern.search(line)
    if found is None:
        return None, ()
    share, several, one = found.groups()
    clocks = [word for word in (several or one or "").split(",") if word]
    return None if share is None else int(share) / 100, tuple(int(word) for word in clocks)


def _core(word: str) -> Optional[Tuple[float, Optional[int]]]:
    found = _CORE.fullmatch(word.strip())
    return None if found is None else (int(found.group(1)) / 100, int(found.group(2)) if found.group(2) else None)


class Reader:
    """Runs the program while its lines are asked for.

    Args:
        command: The program.
    """

    def __init__(self, command: Path) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[str]] = None
        self._last: Optional[Tuple[float, Reading]] = None
        self._asked, self._first, self._silent = 0.0, threading.Event(), False

    def latest(self) -> Optional[Reading]:
        """The newest line; None where the program does not run, or has fallen silent."""
        with self._lock:
            self._asked = time.monotonic()
            if self._process is None and not self._silent:
                self._start()
        if not self._first.wait(_FIRST_S):
            self._silent = True
            self.stop()
        last = self._last
        return last[1] if last and time.monotonic() - last[0] < _FRESH_S else None

    def _start(self) -> None:
        self._first.clear()
        try:
            self._process = subprocess.Popen(
                [str(self._command), "--interval", str(_INTERVAL_MS)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError:
            self._silent = True
            self._first.set()
            return
        atexit.register(self.stop)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._last = (time.monotonic(), parse(line))
            self._first.set()
            if time.monotonic() - self._asked > _FRESH_S:
                break
        else:
            self._silent = True  # it has ended by itself, and would again
            self._first.set()
        self.stop()

    def stop(self) -> None:
        """End the program, if it runs."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        atexit.unregister(self.stop)


_READERS: Dict[Path, Reader] = {}


def reader(root: Path = Path("/")) -> Optional[Reader]:
    """The reader of this board; None where there is no such program."""
    command = Path(root) / "usr/bin/tegrastats"
    if not os.access(command, os.X_OK):
        return None
    return _READERS.setdefault(command, Reader(command))


def watts(found: Reader, rail: str) -> Optional[float]:
    """Watts of a rail now."""
    reading = found.latest()
    return None if reading is None else reading.watts.get(rail)


def gpu_share(found: Reader) -> Optional[float]:
    """Share of the time that the GPU was busy."""
    reading = found.latest()
    return None if reading is None else reading.gpu_share


def names(found: Reader) -> List[str]:
    """The rails that the board tells."""
    reading = found.latest()
    return [] if reading is None else list(reading.watts)
