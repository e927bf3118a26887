"""Plans: a header that ties them to a version and a device, a description, and the model."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, Dict, NamedTuple, Optional, Tuple

from tensorrt._check import checked
from tensorrt._real import NUMBERS, REAL

_MAGIC = b"ftrt"
_HEADER = struct.Struct("<4s3H2HIIII")  # magic, version, compute capability, serialization, sizes of both parts, check


class Plan(NamedTuple):
    """What a plan holds."""

    version: Tuple[int, int, int]
    capability: Tuple[int, int]
    facts: Dict[str, Any]
    model: bytes


def pack(facts: Dict[str, Any], model: bytes, capability: Tuple[int, int]) -> bytes:
    """The bytes of a plan of this version for a device."""
    text = json.dumps(facts, sort_keys=True).encode()
    body = text + model
    head = _HEADER.pack(_MAGIC, *NUMBERS, *capability, tag(NUMBERS), len(text), len(model), zlib.crc32(body))
    return head + body


def tag(version: Tuple[int, ...]) -> int:
    """The number of the format, another for each version."""
    return version[0] * 23 + version[1] * 3 + version[2]


def unpack(content: bytes) -> Optional[Plan]:
    """A plan from its bytes, or None where they are cut short, changed, or no plan."""
    if len(content) < _HEADER.size:
        return None
    magic, major, minor, patch, high, low, _, text, model, check = _HEADER.unpack_from(content)
    body = content[_HEADER.size :]
    if magic != _MAGIC or len(body) != text + model or zlib.crc32(body) != check:
        return None
    return Plan((major, minor, patch), (high, low), json.loads(body[:text]), bytes(body[text:]))


@checked()
class IHostMemory(bytes):
    """Bytes that the library made: a buffer, and nothing that bytes can do besides."""

    @classmethod
    def _make(cls, content: bytes) -> Any:
        return bytes.__new__(cls, content)

    def __new__(cls, *args: Any) -> Any:
        raise TypeError("tensorrt.tensorrt.IHostMemory: No constructor defined!")

    nbytes = property(lambda self: bytes.__len__(self))
    dtype = property(lambda self: REAL["DataType"].INT8)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name not in ("nbytes", "dtype"):
            raise AttributeError(f"'IHostMemory' object has no attribute {name!r}")
        return bytes.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"'IHostMemory' object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<tensorrt.tensorrt.IHostMemory object at {id(self):#x}>"

    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


def _not_there(operation: str) -> Any:
    def raises(self: Any, *args: Any) -> Any:
        raise TypeError(f"'IHostMemory' object does not do {operation}")

    return raises


for _operation in ("__len__", "__getitem__", "__iter__", "__contains__", "__add__", "__mul__", "__mod__"):
    setattr(IHostMemory, _operation, _not_there(_operation))
