"""Real pycuda on the tests' own driver (tests/doubles/cuda), which knows nothing at the start of a test."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

from engines import cuda
from engines.cudaerrors import library

ROOT = Path(__file__).resolve().parents[3]
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
LEDGER = (
    "live_allocations",
    "live_host",
    "live_streams",
    "live_events",
    "live_graphs",
    "live_graph_executables",
    "live_contexts",
    "pushed_contexts",
    "faults",
)


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_build", ROOT / "tests" / "doubles" / "cuda" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fake:
    """The tests' driver: its own functions, and what a kernel on it does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lib = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self.lib.fakecuda_pending.restype = ctypes.c_longlong
        self.lib.fakecuda_set_oom.argtypes = [ctypes.c_longlong, ctypes.c_longlong]
        self.lib.fakecuda_device_range.argtypes = [ctypes.c_ulonglong, ctypes.c_size_t]
        self.lib.fakecuda_enqueue_host.argtypes = [ctypes.c_void_p, CALLBACK, ctypes.c_void_p]
        self._keep: List[Any] = []

    def left(self) -> List[str]:
        """What was not given back, by name."""
        return [name for name in LEDGER if getattr(self.lib, f"fakecuda_{name}")() != 0]

    def enqueue(self, stream: cuda.Stream, work: Callable[[], Any]) -> None:
        """Queue a Python function as a library queues a kernel."""
        callback = CALLBACK(lambda _: (work(), None)[1])
        self._keep.append(callback)
        assert self.lib.fakecuda_enqueue_host(stream.handle, callback, None) == 0

    def floats(self, buffer: cuda.Allocation) -> np.ndarray:
        """Device memory as a kernel sees it."""
        return np.ctypeslib.as_array((ctypes.c_float * (buffer.nbytes // 4)).from_address(buffer.address))

    def child(self, code: str, **environment: str) -> subprocess.CompletedProcess:
        """Run code in another process that finds this driver by the loader's path; a warning is an error there."""
        found = {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(self.path.parent)}
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", "from engines import cuda\n" + code],
            env={**os.environ, **found, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="session")
def driver() -> Fake:
    """Loaded before pycuda: whoever asks for libcuda.so.1 from here on gets it."""
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed here: make setup TRT=1")
    build = _build()
    try:
        fake = Fake(build.library())
    except build.CompileError as error:
        pytest.skip(str(error))
    if not hasattr(library(), "fakecuda_reset"):
        pytest.skip("a real driver is loaded in this process")
    return fake


@pytest.fixture
def fake(driver: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """At the end nothing may be left in it."""
    for name in [name for name in os.environ if name.startswith("FAKECUDA_")]:
        monkeypatch.delenv(name)
    driver.lib.fakecuda_reset()
    yield driver
    left = driver.left()
    driver.lib.fakecuda_reset()
    assert left == []


@pytest.fixture
def gpu(fake: Fake) -> Iterator[cuda.Context]:
    with cuda.Context(0) as context:
        yield context
