"""What this Python interpreter sees of TensorRT, pycuda and TensorFlow. None of them is imported in this process."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Match, NamedTuple, Optional

from engines.device import tensorrt_version, version_of
from engines.errors import OptimizeError

_LIBRARIES = ("tensorrt-libs", "tensorrt-cu11-libs", "tensorrt-cu12-libs", "tensorrt-cu13-libs")
"""Distributions that bring libnvinfer themselves, so that the system's does not matter."""

_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws")


class Interpreter(NamedTuple):
    """One Python and what it can import.

    Attributes:
        python: Such as `3.8`.
        venv: A virtual environment.
        sees_system: Packages of the system's Python are on its path.
        tensorrt, tensorrt_why: Version of the bindings; empty and why where they are missing or do not load.
        tensorrt_found: They are there, whether they load or not.
        tensorrt_libraries: pip brought libnvinfer with them.
        pycuda, pycuda_why: Version of pycuda; and why it does not load.
        tensorflow: Version of TensorFlow.
        tensorflow_cuda: CUDA that it was built for; empty for a build without, None where it does not say.
    """

    python: str
    venv: bool = False
    sees_system: bool = True
    tensorrt: str = ""
    tensorrt_why: str = ""
    tensorrt_found: bool = False
    tensorrt_libraries: bool = False
    pycuda: str = ""
    pycuda_why: str = ""
    tensorflow: str = ""
    tensorflow_cuda: Optional[str] = None


def look() -> Interpreter:
    """This interpreter. TensorRT and pycuda are tried in child processes: a broken library may end a process."""
    bindings, why = tensorrt_version()
    broken = _does_not_load("tensorrt") if bindings else ""  # the version may be known without any import
    if broken:
        bindings, why = "", broken
    pycuda = version_of("pycuda")
    venv = sys.prefix != sys.base_prefix
    return Interpreter(
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        venv=venv,
        sees_system=sees_system(Path(sys.prefix, "pyvenv.cfg")) if venv else sys.base_prefix == "/usr",
        tensorrt=bindings,
        tensorrt_why=why,
        tensorrt_found=importlib.util.find_spec("tensorrt") is not None,
        tensorrt_libraries=any(version_of(name) for name in _LIBRARIES),
        pycuda=pycuda,
        pycuda_why=_does_not_load("pycuda.driver") if pycuda else "",
        tensorflow=version_of("tensorflow"),
        tensorflow_cuda=_tensorflow_cuda(),
    )


def sees_system(config: Path) -> bool:
    """Whether the virtual environment of this pyvenv.cfg was made with --system-site-packages."""
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^include-system-site-packages\s*=\s*true\s*$", text, re.MULTILINE | re.IGNORECASE) is not None


def cuda_of_tensorflow(build_info: str) -> Optional[str]:
    """CUDA version in the text of TensorFlow's build_info.py; empty for a build without, None where it does not say."""
    is_cuda = re.search(r"""['"]is_cuda_build['"]\s*[,:]\s*(True|False)""", build_info)
    if not is_cuda:
        return None
    version = re.search(r"""['"]cuda_version['"]\s*[,:]\s*['"]([\d.]+)['"]""", build_info)
    return "" if is_cuda.group(1) == "False" else version.group(1) if version else None


def own_pip(command: str, prefix: str = sys.prefix, executable: str = sys.executable) -> str:
    """A command whose `pip` is that of this environment, held to the versions that install-jetson.sh wrote into it.

    Where the environment is not activated, a bare `pip` is another Python's.

    Args:
        command: As `optimize doctor` has it, such as `pip install onnxruntime`.
        prefix, executable: The environment and its Python.
    """
    held, pip = Path(prefix, "constraints.txt"), shutil.which("pip")
    ours = pip is not None and Path(pip).parent == Path(executable).parent
    python = executable if os.path.relpath(executable).startswith("..") else os.path.relpath(executable)

    def words(match: Match[str]) -> str:
        pins = f" -c {shlex.quote(str(held))}" if match.group(2) == "install" and held.is_file() else ""
        return f"{match.group(1)}{'pip' if ours else f'{shlex.quote(python)} -m pip'} {match.group(2)}{pins}"

    return re.sub(r"^((?:\w+=\S+ )*)pip (install|uninstall)\b", words, command)


def import_module(name: str, progress: Any = None) -> None:
    """Import a module: for a child process."""
    importlib.import_module(name)


def _does_not_load(module: str) -> str:
    """Why a module does not load; empty where it does."""
    from engines import child

    try:
        child.call("optimize.doctor.interpreter:import_module", {"name": module})
    except OptimizeError as error:
        return error.message
    return ""


def _tensorflow_cuda() -> Optional[str]:
    for name in _TENSORFLOW:
        try:
            distribution = importlib.metadata.distribution(name)
            path = Path(str(distribution.locate_file("tensorflow/python/platform/build_info.py")))
            return cuda_of_tensorflow(path.read_text(encoding="utf-8", errors="replace"))
        except (importlib.metadata.PackageNotFoundError, OSError):
            continue
    return None
