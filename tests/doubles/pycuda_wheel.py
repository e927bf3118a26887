"""Build pycuda once per Python and keep the wheel: no CUDA toolkit and no GPU needed, only a C++ compiler and pip.

The headers come from PyPI (NVIDIA's runtime wheels carry `cuda.h`); the driver to link against is the tests' own.
`python -m tests.doubles.pycuda_wheel` builds it for the Python that runs it and says where it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple

from tests.doubles.cuda import build


class Recipe(NamedTuple):
    """What one generation of pycuda is built from."""

    version: str
    headers: List[str]  # wheels that carry the headers
    include: str  # the folder above include/, inside those wheels
    tools: List[str]  # what the build itself wants


JETPACK_5 = Recipe(
    "2022.2.2",
    ["nvidia-cuda-runtime-cu11==11.8.89"],
    "nvidia/cuda_runtime",
    ["numpy==1.23.5", "setuptools<66", "wheel<0.45"],
)
"""Python 3.8: what JetPack 5 has, against the nearest headers there are for its CUDA 11.4."""

CURRENT = Recipe(
    "2026.1",
    ["nvidia-cuda-runtime>=13,<14", "nvidia-cuda-crt>=13,<14"],
    "nvidia/cu13",
    ["numpy>=1.24", "setuptools<80", "wheel"],
)

RUNTIME: Dict[str, List[str]] = {"2022.2.2": ["pytools==2022.1.14", "mako", "appdirs"], "2026.1": []}
"""What to install beside the wheel: the old one takes no newer pytools; the new one says itself what it needs."""

_PROFILER_HEADER = """#pragma once
#include <cuda.h>
typedef enum CUoutput_mode_enum { CU_OUT_KEY_VALUE_PAIR = 0, CU_OUT_CSV = 1 } CUoutput_mode;
#ifdef __cplusplus
extern "C" {
#endif
CUresult cuProfilerInitialize(const char *config_file, const char *output_file, CUoutput_mode mode);
CUresult cuProfilerStart(void);
CUresult cuProfilerStop(void);
#ifdef __cplusplus
}
#endif
"""
"""The one header that pycuda includes and that the wheels lack: one enum and three functions."""

Say = Callable[[str], None]


class WheelError(Exception):
    """pycuda cannot be built here; says why in one line."""


def recipe() -> Recipe:
    """What to build for the running Python."""
    return JETPACK_5 if sys.version_info[:2] == (3, 8) else CURRENT


def folder() -> Path:
    """Where the wheel of the running Python is kept."""
    return build.root() / "pycuda" / f"cp{sys.version_info[0]}{sys.version_info[1]}-{recipe().version}"


def cached() -> List[Path]:
    """The wheel that was built before; empty where none was."""
    return sorted(folder().glob("pycuda-*.whl"))


def _run(command: List[str], log: Path, cwd: Path) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    environment.pop("PYTHONPATH", None)
    with log.open("ab") as out:
        out.write(("$ " + " ".join(command) + "\n").encode())
        out.flush()
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=str(cwd), env=environment).returncode
    if code:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        wrong = [line.strip() for line in lines if "error" in line.lower()] or lines
        raise WheelError(
            f"building pycuda stopped at `{' '.join(command[:4])} ...`: {wrong[-1][:300]} (all of it: {log})"
        )


def _headers(chosen: Recipe, python: str, work: Path, log: Path) -> Path:
    """The folder that takes the place of a CUDA toolkit: include/ only."""
    _run(
        [python, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", "headers", *chosen.headers],
        log,
        work,
    )
    for wheel in sorted((work / "headers").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "toolkit")
    toolkit = work / "toolkit" / chosen.include
    if not (toolkit / "include" / "cuda.h").is_file():
        raise WheelError(f"no cuda.h in {', '.join(chosen.headers)}")
    profiler = toolkit / "include" / "cudaProfiler.h"
    if not profiler.exists():
        profiler.write_text(_PROFILER_HEADER, "utf-8")
    return toolkit


def _source(chosen: Recipe, python: str, work: Path, log: Path) -> Path:
    pip = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "--no-build-isolation"]
    _run([*pip, "-d", "source", f"pycuda=={chosen.version}"], log, work)
    packed = sorted((work / "source").glob("pycuda-*.tar.gz"))
    if not packed:
        raise WheelError(f"pip gave no source of pycuda {chosen.version}")
    with tarfile.open(packed[0]) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(work, **safe)
    return work / f"pycuda-{chosen.version}"


def wheel(say: Say = print) -> Path:
    """The wheel of pycuda for the running Python, built if it is not in the cache: about a minute and a half, one core.

    It goes by the machine's C++ compiler. Nothing is installed into the running environment: an environment of its own
    holds the tools. An interrupted build leaves nothing behind but its log.

    Args:
        say: Told what happens, in lines.

    Returns:
        The path of the wheel.

    Raises:
        WheelError: There is no C++ compiler, pip found nothing to download, or the build fails; names the log.
        CompileError: There is no C compiler for the driver that it is linked against.
    """
    found = cached()
    if found:
        return found[-1]
    if not any(name and shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++")):
        raise WheelError("no C++ compiler: on Debian and Ubuntu, sudo apt install build-essential")
    chosen, target, driver = recipe(), folder(), build.library()
    target.mkdir(parents=True, exist_ok=True)
    log = target / "build.log"
    log.write_bytes(b"")
    say(f"building pycuda {chosen.version} for Python {sys.version_info[0]}.{sys.version_info[1]}: a minute or two")
    with tempfile.TemporaryDirectory(dir=str(target)) as name:
        work = Path(name)
        venv.create(str(work / "tools"), with_pip=True, symlinks=True)
        python = str(work / "tools" / "bin" / "python")
        _run([python, "-m", "pip", "install", "-q", *chosen.tools], log, work)
        toolkit = _headers(chosen, python, work, log)
        source = _source(chosen, python, work, log)
        configure = [python, "configure.py", f"--cuda-root={toolkit}", "--no-cuda-enable-curand"]
        _run([*configure, f"--cudadrv-lib-dir={driver.parent}"], log, source)
        pip = [python, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
        _run([*pip, "-w", str(work / "made"), "."], log, source)
        made = sorted((work / "made").glob("pycuda-*.whl"))
        if not made:
            raise WheelError(f"pip made no wheel of pycuda (all of it: {log})")
        os.replace(str(made[0]), str(target / made[0].name))
    return target / made[0].name


def installed() -> str:
    """The version of pycuda in the running environment; empty where there is none."""
    from importlib import metadata

    try:
        return metadata.version("pycuda")
    except metadata.PackageNotFoundError:
        return ""


def install(say: Say = print) -> str:
    """Put pycuda into the running environment, unless this version of it is there.

    Returns:
        The version.

    Raises:
        WheelError: See `wheel`; or pip cannot install it.
    """
    chosen = recipe()
    if installed() == chosen.version:
        return chosen.version
    made = wheel(say)
    log = folder() / "install.log"
    log.write_bytes(b"")
    say(f"installing {made.name}")
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    if RUNTIME[chosen.version]:
        _run([*pip, *RUNTIME[chosen.version]], log, folder())
        pip.append("--no-deps")
    _run([*pip, str(made)], log, folder())
    return chosen.version


if __name__ == "__main__":
    try:
        print(wheel())
    except (WheelError, build.CompileError) as error:
        sys.exit(f"error: {error}")
