"""What goes wrong with CUDA, in the project's own errors, and pycuda itself, loaded on first use."""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any, Tuple

from engines.errors import IncompatibleError, OptimizeError

HINT = "optimize doctor"
"""The command that tells what is missing for CUDA."""

_LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY = 2
NO_CONTEXT = (
    "in this thread its context is not current; use `with gpu.current():` in every thread but the one that opened it"
)


class CudaError(OptimizeError):
    """CUDA refused or failed, or something was used after it was freed."""


class CudaMemoryError(CudaError):
    """The memory of the GPU, or page-locked memory, does not suffice."""


def pycuda() -> Any:
    """The module `pycuda.driver`, initialised.

    Raises:
        IncompatibleError: There is no pycuda, no driver or no GPU; says which.
    """
    why, driver = _load()
    if driver is None:
        raise IncompatibleError(why, HINT)
    return driver


def unavailable() -> str:
    """Why CUDA cannot be used here, in one line; empty where it can. Makes no context and never raises."""
    return _load()[0]


def _load() -> Tuple[str, Any]:
    """Why not, and the initialised module or None."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "pycuda":
            return "the Python package pycuda is not installed", None
        return f"the Python package pycuda does not load: {_line(error)}", None
    except (ImportError, OSError) as error:
        if "libcuda" in str(error):
            return f"the NVIDIA driver's library {_LIBRARY} is not here ({_line(error)})", None
        return f"the Python package pycuda does not load: {_line(error)}", None
    try:
        driver.init()
        count = int(driver.Device.count())
    except driver.Error as error:
        return f"the NVIDIA driver finds no GPU that it can use ({_line(error)})", None
    return ("", driver) if count else ("the NVIDIA driver finds no GPU", None)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def out_of_memory(doing: str, detail: str) -> CudaMemoryError:
    """The error of an allocation that failed."""
    return CudaMemoryError(
        f"out of memory while {doing} ({detail})",
        "use a smaller --batch or --workspace, or close other programs that use the GPU",
    )


def translated(error: BaseException, doing: str) -> CudaError:
    """The project's error for one of pycuda's.

    Args:
        error: A `pycuda.driver.Error`; its text names the call and the reason.
        doing: What was being done, such as "waiting for a stream".
    """
    text = _line(error)
    if type(error).__name__ == "MemoryError":
        return out_of_memory(doing, text)
    if "no currently active context" in text or "invalid device context" in text:
        return CudaError(f"CUDA failed while {doing}: {NO_CONTEXT}", HINT)
    if "not ready" in text:
        return CudaError(f"CUDA failed while {doing}: what it asks for has not happened yet; synchronize first", HINT)
    return CudaError(f"CUDA failed while {doing}: {text}", HINT)


@functools.lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """The driver itself, for the calls that pycuda lacks: the very library that pycuda has loaded.

    Raises:
        IncompatibleError: It is not here.
    """
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise IncompatibleError(f"the NVIDIA driver's library {_LIBRARY} is not here ({_line(error)})", HINT) from error


def check(code: int, doing: str) -> None:
    """Raise the project's error for a result of the driver that is not 0.

    Args:
        code: What a function of `library()` gave.
        doing: What was being done.

    Raises:
        CudaMemoryError: It was out of memory.
        CudaError: Anything else.
    """
    if code == 0:
        return
    text = ctypes.c_char_p()
    library().cuGetErrorString(code, ctypes.byref(text))
    detail = (text.value or b"unknown error").decode("utf-8", "replace")
    if code == _OUT_OF_MEMORY:
        raise out_of_memory(doing, detail)
    raise CudaError(f"CUDA failed while {doing}: {detail} (error {code})", HINT)
