"""A pickle reader that makes plain containers and NumPy arrays of numbers, and runs nothing that the file names.

Not even NumPy's own classes are handed to the unpickler: their `__setstate__` believes sizes and flags in the file.
Stand-ins without attributes take their place, and arrays are made from checked bytes at the end.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
import numpy.typing as npt

from engines.errors import DataError

LIMIT = 256 * 1024 * 1024
"""Largest file read, bytes: a batch of CIFAR-10 has 31 MB."""

_CODES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def load(path: Path) -> Dict[Any, Any]:
    """Read a pickled dictionary of Python 2 or 3; text of Python 2 comes as bytes.

    Raises:
        DataError: It asks for anything but arrays and plain containers (nothing was run), is damaged, too large, or no
            dictionary.
    """
    if path.stat().st_size > LIMIT:
        raise DataError(f"{path}: larger than {LIMIT >> 20} MiB, not a batch of CIFAR-10")
    try:
        with open(path, "rb") as file:
            value = _Restricted(file, encoding="bytes").load()
    # A damaged pickle makes the unpickler raise nearly anything, MemoryError for a length that cannot be true as well:
    # the file is the cause in every case.
    except Exception as error:
        why = str(error) or type(error).__name__
        raise DataError(
            f"{path}: not a pickle of CIFAR-10 that is safe to read ({why})", "use the binary format: --data cifar10"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: a pickled dictionary is expected")
    return {key: item.made() if isinstance(item, _Array) else item for key, item in value.items()}


class _Type:
    """A dtype of numbers, little-endian unless its state says otherwise."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        if state[1] in (">", b">"):
            self.order = ">"
        elif state[1] not in ("<", b"<", "|", b"|"):
            raise pickle.UnpicklingError("a byte order that is none")


class _Array:
    """An array that is not made yet."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Optional[npt.NDArray[Any]] = None

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array of something else than numbers")
        flat = np.frombuffer(raw, kind.order + kind.code)
        self.value = flat.reshape(tuple(int(n) for n in shape), order="F" if fortran else "C")

    def made(self) -> npt.NDArray[Any]:
        if self.value is None:
            raise DataError("an array without content in a pickle")
        return np.ascontiguousarray(self.value, self.value.dtype.newbyteorder("="))


class _MakeArray:
    """Stands for `_reconstruct(ndarray, (0,), b'b')`."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Array:
        return _Array()


class _MakeType:
    """Stands for `numpy.dtype(code, align, copy)`."""

    __slots__ = ()

    def __call__(self, code: Any, *arguments: Any) -> _Type:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in _CODES:
            raise pickle.UnpicklingError(f"an array of {text!r}")
        return _Type(text)


class _Encode:
    """Stands for `_codecs.encode(text, 'latin1')`, as protocol 2 spells bytes; no other codec."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("only latin1 text is encoded")
        return text.encode("latin1")


class _Nothing:
    """Stands for the class `numpy.ndarray` where it is only named."""

    __slots__ = ()


_GLOBALS: Dict[Tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy", "ndarray"): _Nothing(),
    ("numpy", "dtype"): _MakeType(),
    ("_codecs", "encode"): _Encode(),
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")
