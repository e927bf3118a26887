"""The tensors of a PyTorch file of weights: names, shapes and dtypes, without PyTorch and without running its code."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, Callable, Dict, NamedTuple, Optional, Tuple

from engines import torchfile
from engines.errors import ModelError
from engines.torch import state_dict

_DTYPES: Dict[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}
"""The dtype of a storage by its class; that of an `UntypedStorage` stands beside it."""

_DTYPE_NAMES = {
    *_DTYPES.values(),
    "half",
    "double",
    "long",
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e5m2",
}

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of normalisation layers, which no training step changes."""


def read(path: str) -> Dict[str, Tensor]:
    """The tensors of a state_dict, or of the checkpoint around it, by name and in the file's order.

    Args:
        path: A file of the kind `torch-state-dict`.

    Raises:
        ModelError: The file is damaged, holds no state_dict, or wants to run code.
    """
    torchfile.check(path, "torch-state-dict")
    try:
        loaded = _unpickled(path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, TypeError, ValueError, AttributeError):
        raise ModelError(f"{path}: a damaged PyTorch file", "copy it again: it may be truncated") from None
    return state_dict(loaded, Path(path).name)


def parameters(tensors: Dict[str, Tensor]) -> int:
    """Numbers that training changes: those of all tensors but statistics; a tensor under two names counts once."""
    counted = {
        (one.storage, one.numbers) if one.storage else (name,): one.numbers
        for name, one in tensors.items()
        if not name.endswith(_STATISTICS)
    }
    return sum(counted.values())


def _unpickled(path: str) -> Any:
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            for _ in range(3):  # PyTorch's magic number, its protocol and facts of the machine
                _Reader(file).load()
            return _Reader(file).load()
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
        return _Reader(io.BytesIO(archive.read(member))).load()


def _tensor(storage: Any, offset: Any, size: Any, *rest: Any) -> Tensor:
    """PyTorch's `_rebuild_tensor_v2` and `_v3`; a dtype among what follows is that of an untyped storage."""
    dtype = next((one.name for one in rest if isinstance(one, _Dtype)), getattr(storage, "dtype", ""))
    return Tensor(_shape(size), dtype, f"{getattr(storage, 'key', '')}+{offset}")


def _without_storage(dtype: Any, size: Any, *_: Any) -> Tensor:
    return Tensor(_shape(size), getattr(dtype, "name", ""), "")


def _shape(size: Any) -> Tuple[int, ...]:
    if not isinstance(size, (tuple, list)) or not all(isinstance(n, int) and n >= 0 for n in size):
        raise ValueError("no shape")
    return tuple(size)


def _same(value: Any, *_: Any) -> Any:
    return value


def _of_type(make: Any, kind: Any, arguments: Any, state: Any) -> Any:
    return make(*arguments)


class Tensor(NamedTuple):
    """What a file tells of a tensor.

    Attributes:
        shape: Its dimensions.
        dtype: PyTorch's name of it; empty where the file does not say.
        storage: Tells tensors apart that share their numbers; empty where there are none.
    """

    shape: Tuple[int, ...]
    dtype: str
    storage: str

    @property
    def numbers(self) -> int:
        """Numbers in it."""
        total = 1
        for size in self.shape:
            total *= size
        return total


class _Storage(NamedTuple):
    dtype: str
    key: str


class _Dtype(NamedTuple):
    name: str


class _Inert:
    """Stands for whatever else a file names: it can be called and filled, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, *_: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """A list's, without keeping anything."""


_MAKERS: Dict[str, Callable[..., Any]] = {
    "collections OrderedDict": OrderedDict,
    "builtins dict": dict,
    "torch Size": tuple,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_qtensor": _tensor,
    "torch._utils _rebuild_meta_tensor_no_storage": _without_storage,
    "torch._utils _rebuild_parameter": _same,
    "torch._utils _rebuild_parameter_with_state": _same,
    "torch._tensor _rebuild_from_type_v2": _of_type,
}
"""All that is called while a file is read, by the name in the file; nothing is imported."""


class _Reader(pickle._Unpickler):  # the one in Python: its memo is no array, which a file could make huge
    """A pickle reader that knows no code but `_MAKERS`."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file."""
        if module == "torch" and name in _DTYPE_NAMES:
            return _Dtype(name)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _Storage(_DTYPES.get(name, ""), "")
        return _MAKERS.get(f"{module} {name}", _Inert)

    def persistent_load(self, pid: Any) -> Any:
        """A storage: only its dtype and its number in the file are kept."""
        kind: Optional[Any] = pid[1] if isinstance(pid, tuple) and len(pid) > 2 else None
        return _Storage(getattr(kind, "dtype", ""), str(pid[2]) if kind is not None else "")
