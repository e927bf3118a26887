"""Pytest's side of the TensorRT double: the marker, `--surface`, and the fixtures `surface`, `trt` and `cuda_ledger`.

    pytest -m tensorrt                       all surfaces that are set up for this Python
    pytest -m tensorrt --surface 10.3.0      one of them

Without `python -m tests.doubles.prepare` these tests skip with the reason.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List

import pytest

from tests.doubles import bindings, prepare, surface
from tests.doubles.cuda import build

FOLDER = Path(__file__).resolve().parent / "tensorrt_double"
"""Goes on PYTHONPATH, so that `import tensorrt` gives the double."""

SURFACES = (surface.DERIVED, *bindings.WHEELS)

_LEDGER = {
    "fakecuda_live_allocations": "device buffers not freed",
    "fakecuda_live_host": "page-locked buffers not freed",
    "fakecuda_live_streams": "streams not destroyed",
    "fakecuda_live_events": "events not destroyed",
    "fakecuda_live_graph_executables": "graphs not freed",
    "fakecuda_pushed_contexts": "contexts not popped",
    "fakecuda_faults": "writes past the end of a buffer",
}
"""What is to be zero when a test ends."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--surface`."""
    parser.addoption("--surface", action="append", choices=SURFACES, help="only this version of the TensorRT double")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "tensorrt: needs the TensorRT double: python -m tests.doubles.prepare")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `surface` (or `trt`) once for each surface."""
    if "surface" in metafunc.fixturenames:
        metafunc.parametrize("surface", _surfaces(metafunc.config), indirect=False)


def _surfaces(config: pytest.Config) -> List[Any]:
    wanted = config.getoption("--surface") or list(SURFACES)
    told = prepare.ready()
    if not told:
        why = "the TensorRT double is not set up: python -m tests.doubles.prepare (make setup TRT=1)"
        return [pytest.param("", marks=pytest.mark.skip(reason=why))]
    return [
        name if not (why := _why_not(name, told)) else pytest.param(name, marks=pytest.mark.skip(reason=why))
        for name in wanted
    ]


def _why_not(name: str, told: Dict[str, Any]) -> str:
    """Why a surface is not set up, or ""."""
    there = surface.shared_file() is not None if name == surface.DERIVED else bindings.available(name)
    if name in told["surfaces"] and there:
        return ""
    return f"TensorRT {name}: " + told["missing"].get(name, "not set up: python -m tests.doubles.prepare")


@pytest.fixture
def cuda_ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The CUDA driver for tests, loaded where pycuda finds it; nothing of it may be left over when the test ends."""
    pytest.importorskip("pycuda", reason="pycuda is not set up: python -m tests.doubles.prepare")
    path = build.library()
    driver = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(filter(None, [str(path.parent), before])))
    yield driver
    gc.collect()
    left = {words: int(getattr(driver, name)()) for name, words in _LEDGER.items()}
    driver.fakecuda_reset()
    found = [f"{count} {words}" for words, count in left.items() if count]
    assert not found, f"left over on the device: {', '.join(found)}"


@pytest.fixture
def trt(surface: str, cuda_ledger: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The double of one version, as `import tensorrt` in this process and in its children."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER), before])))
    monkeypatch.setenv("OPTIMIZE_DOUBLE_SURFACE", surface)
    monkeypatch.syspath_prepend(str(FOLDER))
    forgotten = _forget()
    yield importlib.import_module("tensorrt")
    _forget()
    sys.modules.update(forgotten)


def _forget() -> Dict[str, ModuleType]:
    """Take `tensorrt` out of this process, so that the next import is another version's."""
    names = [name for name in sys.modules if name == "tensorrt" or name.startswith("tensorrt.")]
    return {name: sys.modules.pop(name) for name in names}
