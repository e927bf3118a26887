"""NVIDIA's real Python bindings of TensorRT, imported without TensorRT.

The wheels are downloaded into the cache of the tests, never kept in the repository: they are NVIDIA's. A small stub
(`stub/nvinfer.c`) answers for the libraries that the extension module wants, so that it imports on any x86-64 Linux.

This file and `surface.py` are also loaded by path from the double in child processes: standard library only.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, NamedTuple

HERE = Path(__file__).resolve().parent
_PACKAGE = "tensorrt_bindings"


class Wheel(NamedTuple):
    """One version of the bindings, as pip knows it."""

    requirement: str
    major: int
    pythons: range  # the minor versions of Python 3 that have a wheel


WHEELS: Dict[str, Wheel] = {
    "8.6.1": Wheel("tensorrt-bindings==8.6.1", 8, range(6, 12)),
    "10.3.0": Wheel("tensorrt-cu12-bindings==10.3.0", 10, range(8, 13)),
    "10.13": Wheel("tensorrt-cu13-bindings==10.13.*", 10, range(8, 14)),
    "10.16": Wheel("tensorrt-cu13-bindings==10.16.*", 10, range(8, 14)),
    "11.4": Wheel("tensorrt-cu13-bindings==11.4.*", 11, range(8, 15)),
}
"""By the name of the surface."""


class SetupError(Exception):
    """The double cannot be set up here; says why in one line."""


def cache() -> Path:
    """The folder of downloaded and built things, for this Python; it may not exist yet."""
    root = os.environ.get("OPTIMIZE_TEST_CACHE")
    base = (
        Path(root)
        if root
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optimize-trt-doubles"
    )
    return base / f"py{sys.version_info[0]}.{sys.version_info[1]}"


def site(version: str) -> Path:
    """The folder in which the bindings of a version are unpacked."""
    return cache() / "bindings" / version


def available(version: str) -> bool:
    """Whether the bindings of this version are unpacked and have their stub."""
    return version in WHEELS and (site(version) / "ready").is_file()


def exists(version: str) -> bool:
    """Whether there is a wheel of this version for the running Python and machine (x86-64 Linux)."""
    here = sys.platform == "linux" and platform.machine() == "x86_64"
    return here and version in WHEELS and sys.version_info[1] in WHEELS[version].pythons


def fetch(version: str) -> Path:
    """Download and unpack the bindings of a version and put the stub beside them, unless that is done already.

    Returns:
        The folder that holds the package.

    Raises:
        SetupError: No wheel for this Python, pip found none, or there is no C compiler.
    """
    if available(version):
        return site(version)
    if not exists(version):
        raise SetupError(
            f"NVIDIA has no wheel of the TensorRT {version} bindings for this machine's Python 3.{sys.version_info[1]}"
        )
    target = site(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "site"
        for wheel in _download(WHEELS[version].requirement, Path(scratch) / "wheels"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(made)
        _stub(made / _PACKAGE, WHEELS[version].major)
        (made / "ready").write_text(_own_version(made) + "\n", encoding="utf-8")
        if target.exists() and not available(version):
            shutil.rmtree(target)
        if not available(version):  # another process may have been faster
            made.rename(target)
    return target


def load(version: str) -> ModuleType:
    """Import the real bindings of a version, once per process: an extension module cannot be initialised twice.

    Raises:
        SetupError: They are not in the cache.
    """
    kept = f"_tensorrt_bindings_{re.sub('[^0-9]', '_', version)}"
    if kept in sys.modules:
        return sys.modules[kept]
    if not available(version):
        raise SetupError(f"the TensorRT {version} bindings are not set up: python -m tests.doubles.prepare")
    before = _take()
    _forget_in_pybind()
    sys.path.insert(0, str(site(version)))
    try:
        module = importlib.import_module(_PACKAGE)
    finally:
        sys.path.remove(str(site(version)))
        _take()
        sys.modules.update(before)
    sys.modules[kept] = module
    return module


def _take() -> Dict[str, ModuleType]:
    """Take another version out of `sys.modules`, so that this one can be imported beside it."""
    names = [name for name in sys.modules if name == _PACKAGE or name.startswith(_PACKAGE + ".")]
    return {name: sys.modules.pop(name) for name in names}


def _forget_in_pybind() -> None:
    """Empty pybind's own table of modules by name (from TensorRT 10.16 on): it would give one for another."""
    api = ctypes.pythonapi
    current = getattr(api, "PyInterpreterState_Get", None) or api._PyInterpreterState_Get  # the name in Python 3.8
    current.restype = ctypes.c_void_p
    state_of = api.PyInterpreterState_GetDict
    state_of.restype, state_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p]  # a borrowed reference: cast takes its own
    state: Any = ctypes.cast(state_of(current()), ctypes.py_object).value
    state.pop("__pybind11_module_cache", None)


def _download(requirement: str, folder: Path) -> List[Path]:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-d", str(folder), requirement]
    ran = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if ran.returncode or not wheels:
        why = (ran.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SetupError(f"pip could not download {requirement}: {why}")
    return wheels


def _stub(package: Path, major: int) -> None:
    """Compile the stub beside the extension module, whose search path starts there."""
    library = package / f"libnvinfer.so.{major}"
    compiler = os.environ.get("CC", "cc")
    try:
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "stub" / "nvinfer.c")]
        ran = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise SetupError(f"no C compiler: {compiler} cannot be run ({error.strerror})") from error
    if ran.returncode:
        raise SetupError(f"{compiler} failed on the stub library: {ran.stderr.strip().splitlines()[-1]}")
    for name in ("nvinfer_plugin", "nvonnxparser", "nvparsers"):
        (package / f"lib{name}.so.{major}").symlink_to(library.name)


def _own_version(folder: Path) -> str:
    """The version that the bindings give themselves, such as 10.13.3.9."""
    found = re.search(r'^__version__ = "([^"]+)"', (folder / _PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"the downloaded {_PACKAGE} has no __version__")
    return found.group(1)
