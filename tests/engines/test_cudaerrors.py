"""Without a driver: every reason for which CUDA cannot be used is one line. Needs no double."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from engines import cuda, cudaerrors
from engines.errors import IncompatibleError


def _raises(error: BaseException) -> Any:
    def load(name: str) -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'pycuda'", name="pycuda"), "pycuda is not installed"),
        (
            ModuleNotFoundError("No module named 'pytools'", name="pytools"),
            "pycuda does not load: No module named 'pytools'",
        ),
        (ImportError("libcuda.so.1: cannot open shared object file"), "library libcuda.so.1 is not here"),
        (ImportError("libboost.so:\n  undefined symbol"), "pycuda does not load: libboost.so: undefined symbol"),
    ],
)
def test_what_is_missing_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    monkeypatch.setattr(cudaerrors.importlib, "import_module", _raises(error))
    why = cuda.unavailable()
    assert reason in why
    assert "\n" not in why
    with pytest.raises(IncompatibleError, match=r"pycuda|libcuda") as raised, cuda.Context(0):
        pass
    assert (raised.value.exit_code, raised.value.hint) == (4, "optimize doctor")


class Failure(Exception):
    pass


def _driver(count: int, error: str = "") -> ModuleType:
    def init() -> None:
        if error:
            raise Failure(error)

    module = ModuleType("pycuda.driver")
    vars(module).update(Error=Failure, init=init, Device=type("Device", (), {"count": staticmethod(lambda: count)}))
    return module


@pytest.mark.parametrize(
    ("count", "error", "reason"),
    [
        (1, "", ""),
        (0, "", "finds no GPU"),
        (0, "cuInit failed: no CUDA-capable device is detected", "no CUDA-capable device"),
    ],
)
def test_a_driver_is_asked_for_its_gpus(monkeypatch: pytest.MonkeyPatch, count: int, error: str, reason: str) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", _driver(count, error))
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    why = cuda.unavailable()
    assert (reason in why) if reason else (why == "")


MemoryFailure = type("MemoryError", (Failure,), {})


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryFailure("cuMemAlloc failed: out of memory"), cuda.CudaMemoryError, "out of memory while copying"),
        (
            Failure("cuStreamCreate failed: invalid device context - no currently active context?"),
            cuda.CudaError,
            "current()",
        ),
        (Failure("cuEventElapsedTime failed: device not ready"), cuda.CudaError, "synchronize first"),
        (
            Failure("cuCtxSynchronize failed:\n unknown error"),
            cuda.CudaError,
            "while copying: cuCtxSynchronize failed: unknown",
        ),
    ],
)
def test_the_words_of_pycuda_become_ours(error: Exception, kind: Any, says: str) -> None:
    ours = cudaerrors.translated(error, "copying")
    assert type(ours) is kind
    assert says in ours.message
    assert ours.hint


def test_no_driver_means_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudaerrors, "_LIBRARY", "libnothing-of-that-name.so")
    cudaerrors.library.cache_clear()
    try:
        with pytest.raises(IncompatibleError, match="is not here"):
            cudaerrors.library()
    finally:
        cudaerrors.library.cache_clear()


def test_a_machine_without_a_driver_says_so() -> None:
    """In another process, as it is: whether pycuda is here or not."""
    code = "from engines import cuda, driver; print(driver.ask()[1]); print(cuda.unavailable())"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    driver, why = run.stdout.splitlines()
    if not driver:
        pytest.skip("this machine has a GPU")
    assert "pycuda is not installed" in why or "libcuda.so.1" in why or "no GPU" in why
