"""Compile the driver for tests (`libcuda.so.1`) into the cache.

`python -m tests.doubles.cuda.build` prints where it is. Standard library only, so that it runs in any
environment; needs a C compiler.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List

HERE = Path(__file__).resolve().parent
NAME = "libcuda.so.1"
FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]


class CompileError(Exception):
    """The driver for tests cannot be compiled here; says why in one line."""


def root() -> Path:
    """The folder of everything that the tests download and build, whatever the Python; it may not exist yet."""
    given = os.environ.get("OPTIMIZE_TEST_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "optimize-trt-doubles"


def compiler() -> str:
    """The C compiler: `$CC`, or the first of cc, gcc, clang.

    Raises:
        CompileError: There is none.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise CompileError("no C compiler: on Debian and Ubuntu, sudo apt install build-essential")


def _sources() -> List[Path]:
    return sorted(HERE.glob("*.c"))


def path() -> Path:
    """Where the library is, or will be: the folder is named after the sources, so that a change makes another."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for source in [*_sources(), HERE / "fake.h"]:
        digest.update(source.read_bytes())
    return root() / "cuda" / digest.hexdigest()[:12] / NAME


def library() -> Path:
    """The compiled driver, made if it is missing; beside it `libcuda.so`, for a linker.

    Returns:
        The path of `libcuda.so.1`. Its folder goes to `LD_LIBRARY_PATH` of child processes; in this process, load it
        by `ctypes.CDLL(path, ctypes.RTLD_GLOBAL)` before pycuda: whoever asks for `libcuda.so.1` then gets this one.

    Raises:
        CompileError: There is no C compiler, or it fails.
    """
    target = path()
    if target.is_file() and (target.parent / "libcuda.so").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(target.parent)) as folder:
        made = Path(folder) / NAME
        command = [compiler(), *FLAGS, f"-Wl,-soname,{NAME}", "-Wl,-z,defs", "-o", str(made), *map(str, _sources())]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            raise CompileError(f"{command[0]} could not compile the driver for tests: {run.stdout.strip()[-2000:]}")
        link = Path(folder) / "libcuda.so"
        link.symlink_to(NAME)
        os.replace(str(made), str(target))
        os.replace(str(link), str(target.parent / "libcuda.so"))
    return target


if __name__ == "__main__":
    print(library())
