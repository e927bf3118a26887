from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from engines import driver


@pytest.fixture(autouse=True)
def fresh():
    driver.ask.cache_clear()
    yield
    driver.ask.cache_clear()


class Library:
    """A driver's library as ctypes gives it: functions that return a code and write through pointers."""

    def __init__(self, code=0, count=1):
        self.code, self.count = code, count

    def cuInit(self, flags):
        return self.code

    def cuDeviceGetCount(self, out):
        out._obj.value = self.count
        return 0

    def cuDeviceGet(self, out, index):
        out._obj.value = index
        return 0

    def cuDriverGetVersion(self, out):
        out._obj.value = 11040
        return 0

    def cuDeviceGetName(self, buffer, size, device):
        buffer.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = {75: 8, 76: 7, 18: 1, 16: 8}[attribute]
        return 0


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    gpu, why = driver.ask()
    assert gpu is None and "is not here" in why


@pytest.mark.parametrize(("library", "why"), [(Library(code=100), "cuInit gives 100"), (Library(count=0), "has 0")])
def test_a_driver_without_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch, library, why):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    gpu, reason = driver.ask()
    assert gpu is None and why in reason


def test_the_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert driver.gpu() == driver.Gpu("Orin", "8.7", True, "11.4", 8)
    assert driver.Gpu("Orin", "8.7", True, "11.4", 8).model == "Orin, 8 SM"


def test_a_gpu_is_seen_on_the_bus_without_its_driver(tmp_path: Path):
    assert not driver.on_the_bus(tmp_path / "missing") and not driver.on_the_bus(tmp_path)
    for name, vendor, kind in (("0", "0x8086", "0x030000"), ("1", "0x10de", "0x040300")):  # its sound is no display
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    (tmp_path / "2").mkdir()  # unreadable
    assert not driver.on_the_bus(tmp_path)
    (tmp_path / "0" / "vendor").write_text("0x10de\n")
    assert driver.on_the_bus(tmp_path)
