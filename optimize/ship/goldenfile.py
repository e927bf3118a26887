"""Golden inputs and outputs on the disk: `golden.npz`, plain arrays of shapes and types that the manifest tells.

NumPy's own reader parses a header of any kind and believes its shape. This one takes the one header that it expects,
so that a hostile file is refused before memory is asked for.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from engines import jsonfile
from engines.errors import DamagedError
from engines.spec import TensorSpec

NAME = "golden.npz"

LIMIT = 256 << 20
"""Largest file read, bytes."""

_MEMBERS = 1024
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d{1,2})', 'fortran_order': False, 'shape': \((\d{1,12}(?:, ?\d{1,12}){0,15},?)\), \} *\n"
)
_AGAIN = "ship it again"

Arrays = List["npt.NDArray[Any]"]


def write(path: Path, inputs: Arrays, outputs: Dict[str, Arrays]) -> None:
    """Write golden arrays, each with the samples as its first axis.

    Args:
        path: The file.
        inputs: In the order of the manifest's.
        outputs: By whom they are of (`engine`, `float`), in the order of the manifest's.
    """
    arrays = {f"input.{number}": array for number, array in enumerate(inputs)}
    for whose, found in outputs.items():
        arrays.update({f"{whose}.{number}": array for number, array in enumerate(found)})
    with jsonfile.replacing_file(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def read(
    path: Path, n: int, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Tuple[Arrays, Optional[Arrays], Optional[Arrays]]:
    """Read golden arrays.

    Args:
        path: The file.
        n: Samples that each array must hold.
        inputs, outputs: What the manifest says of them.

    Returns:
        The inputs; the outputs of the engine and those of the float graph, None where they were not recorded.

    Raises:
        DamagedError: Not a file of these arrays.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError(f"larger than {LIMIT >> 20} MiB")
        content = path.read_bytes()  # an offset in it that no file has is an error of values then, and none of the disk
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS or len({one.filename for one in members}) != len(members):
                raise ValueError("too many members, or one twice")
            if sum(one.file_size for one in members) > len(content):
                raise ValueError("its members are larger than it is")
            found = {one.filename: _array(archive, one) for one in members}
        groups = [
            _group(found, whose, n, specs)
            for whose, specs in (("input", inputs), ("engine", outputs), ("float", outputs))
        ]
        if groups[0] is None:
            raise ValueError("it has no inputs")
        if len(found) != sum(len(group or ()) for group in groups):
            raise ValueError("it has members that nobody asked for")
    except (ValueError, EOFError, OverflowError, struct.error, RuntimeError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path}: not the golden arrays of this engine ({error})", _AGAIN) from None
    return groups[0], groups[1], groups[2]


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{member.filename} is compressed or encrypted")
    content = io.BytesIO(archive.read(member))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{member.filename} is not of NumPy's format 1.0")
    (length,) = struct.unpack("<H", content.read(2))
    header = _HEADER.fullmatch(content.read(length))
    if header is None:
        raise ValueError(f"{member.filename} has another header than a plain array")
    dtype = np.dtype(header.group(1).decode("ascii"))
    shape = tuple(int(word) for word in header.group(2).decode("ascii").split(",") if word.strip())
    body = content.read()
    count = 1
    for size in shape:
        count *= size
    if dtype.hasobject or count * dtype.itemsize != len(body):
        raise ValueError(f"{member.filename} does not hold what its header says")
    return np.frombuffer(body, dtype).reshape(shape)


def _group(
    found: Dict[str, npt.NDArray[Any]], whose: str, n: int, specs: Sequence[TensorSpec]
) -> Optional[List[npt.NDArray[Any]]]:
    """The arrays of one kind, held against what they must be; None where there are none at all."""
    names = [f"{whose}.{number}.npy" for number in range(len(specs))]
    if not any(name in found for name in names):
        return None
    group = []
    for name, spec in zip(names, specs):
        if name not in found:
            raise ValueError(f"{name} is missing")
        array, asked = found[name], (n, *spec.shape[1:])
        fits = array.ndim == len(asked) and all(a is None or a == b for a, b in zip(asked, array.shape))
        if not fits or array.dtype != np.dtype(spec.dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}, {spec.dtype} {asked} is expected")
        group.append(array)
    return group
