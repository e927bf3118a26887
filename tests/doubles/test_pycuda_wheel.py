"""What is built for which Python, and what a failing step says; nothing is downloaded or compiled here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("OPTIMIZE_TEST_CACHE", str(tmp_path))
    return importlib.import_module("tests.doubles.pycuda_wheel")


def test_each_python_has_its_recipe(wheels: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version, pycuda in (((3, 8, 18), "2022.2.2"), ((3, 10, 13), "2026.1"), ((3, 13, 0), "2026.1")):
        monkeypatch.setattr(sys, "version_info", version)
        assert wheels.recipe().version == pycuda
        assert wheels.folder() == tmp_path / "pycuda" / f"cp3{version[1]}-{pycuda}"
        assert wheels.recipe().version in wheels.RUNTIME


def test_a_wheel_in_the_cache_is_taken_as_it_is(wheels: ModuleType) -> None:
    kept = wheels.folder() / f"pycuda-{wheels.recipe().version}-cp-any.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    said: list = []
    assert wheels.wheel(said.append) == kept
    assert said == []


def test_a_step_that_fails_names_its_error_and_the_log(wheels: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    code = "import sys; print('cc: a warning'); print('fatal error: cuda.h: No such file'); print('bye'); sys.exit(1)"
    with pytest.raises(wheels.WheelError, match=r"fatal error: cuda.h: No such file \(all of it: .*build.log\)"):
        wheels._run([sys.executable, "-c", code], log, tmp_path)
    assert log.read_text("utf-8").startswith("$ ")


def test_without_a_compiler_it_says_what_to_install(wheels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(wheels.WheelError, match="build-essential"):
        wheels.wheel()
    with pytest.raises(wheels.build.CompileError, match="build-essential"):
        wheels.build.library()
