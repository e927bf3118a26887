"""TensorRT's text calibration cache, and the sidecar that says what it belongs to.

The text is a header such as `TRT-8502-EntropyCalibration2`, then a line `tensor: hex` each: the scale as the hex digits
of a big-endian IEEE-754 float32, without leading zeros; the tensor's range is 127 x scale. Names hold spaces and
colons, so the last colon divides. TensorRT writes 0 for a tensor that it saw no value of.
Source: the INT8 sample of NVIDIA/TensorRT, and the reader of trtexec, which looks for the header of the entropy
calibrator only.
"""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, UsageError

SCHEMA = "optimize.calibration/1"

LIMIT = 32 << 20
"""Largest cache read, bytes: some hundred thousand tensors."""

ALGORITHMS: Dict[str, str] = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}
"""Name of ours -> word of the header."""

_READ = {**{word: name for name, word in ALGORITHMS.items()}, "EntropyCalibration": "entropy"}
"""Word of the header -> name; tables of the first entropy calibrator hold the same scales of other layers."""

_HEADER = re.compile(r"TRT-([0-9]{4,7})-([A-Za-z0-9]+)")

_DIGITS = re.compile(r"[0-9a-fA-F]{1,8}")

_OTHER = "give another file, or remove this one"


class Cache(NamedTuple):
    """A calibration cache.

    Attributes:
        version: Digits of TensorRT's version in the header, such as 8502.
        algorithm: One of `ALGORITHMS`.
        scales: By tensor, in the file's order, each the value of a float32; 0 where TensorRT saw no value.
    """

    version: str
    algorithm: str
    scales: Dict[str, float]


def tag(version: str) -> str:
    """The digits of a TensorRT version in the header: 8.5.2.2 is 8502, 10.3.0 is 100300.

    Source: NV_TENSORRT_VERSION in NvInferVersion.h.

    Raises:
        UsageError: Not a version of at least three numbers.
    """
    found = re.match(r"(\d{1,3})\.(\d{1,2})\.(\d{1,2})(?!\d)", version)
    if found is None:
        raise UsageError(f"{version!r} is no version of TensorRT", "for example 8.5.2")
    major, minor, patch = map(int, found.groups())
    return str(major * (1000 if major < 10 else 10000) + minor * 100 + patch)


def render(cache: Cache) -> bytes:
    """The text of a cache.

    Raises:
        ValueError: A name that the text cannot hold, or a scale that is negative, not finite or beyond a float32.
    """
    lines = [f"TRT-{cache.version}-{ALGORITHMS[cache.algorithm]}"]
    for name, scale in cache.scales.items():
        if not name or name != name.strip() or any(sign in name for sign in "\r\n"):
            raise ValueError(f"no tensor of the name {name!r} fits into a calibration cache")
        if not math.isfinite(scale) or math.copysign(1.0, scale) < 0:
            raise ValueError(f"tensor {name!r}: scale {scale} is not positive and finite")
        try:
            bits = struct.unpack(">I", struct.pack(">f", scale))[0]
        except OverflowError:
            raise ValueError(f"tensor {name!r}: scale {scale} is beyond a float32") from None
        lines.append(f"{name}: {bits:x}")
    return ("\n".join(lines) + "\n").encode("utf-8")


def parse(content: bytes, name: str = "calibration cache") -> Cache:
    """Read the text of a cache.

    Args:
        content: The file's bytes.
        name: Of the file, for errors.

    Raises:
        DamagedError: Names the line and what is wrong with it.
    """
    if len(content) > LIMIT:
        raise DamagedError(f"{name}: larger than {LIMIT >> 20} MiB, not a calibration cache", _OTHER)
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    head = _HEADER.fullmatch(_text(lines[0], name, 1)) if lines else None
    if head is None or head.group(2) not in _READ:
        shown = repr(lines[0][:60].decode("utf-8", "replace")) if lines else "an empty file"
        raise DamagedError(
            f"{name}, line 1: a header such as TRT-8502-EntropyCalibration2 is expected, not {shown}", _OTHER
        )
    scales: Dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        tensor, scale = _entry(_text(line, name, number), name, number)
        if tensor in scales:
            raise DamagedError(f"{name}, line {number}: tensor {tensor!r} stands there twice", _OTHER)
        scales[tensor] = scale
    if not scales:
        raise DamagedError(f"{name}: a header and no tensor", _OTHER)
    return Cache(head.group(1), _READ[head.group(2)], scales)


def _text(line: bytes, name: str, number: int) -> str:
    if line.endswith(b"\r"):
        raise DamagedError(
            f"{name}, line {number}: ends in CR LF, TensorRT writes LF", f"sed -i 's/\\r$//' {Path(name).name}"
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedError(f"{name}, line {number}: not UTF-8", _OTHER) from None
    if "\r" in text or "\0" in text:
        raise DamagedError(f"{name}, line {number}: a control character", _OTHER)
    return text


def _entry(line: str, name: str, number: int) -> Tuple[str, float]:
    tensor, colon, digits = line.rpartition(": ")
    if not colon or not tensor or tensor != tensor.strip() or not _DIGITS.fullmatch(digits):
        raise DamagedError(
            f"{name}, line {number}: 'tensor: hex' with up to 8 digits is expected, not {line[:60]!r}", _OTHER
        )
    scale = float(struct.unpack(">f", bytes.fromhex(digits.zfill(8)))[0])
    if not math.isfinite(scale) or math.copysign(1.0, scale) < 0:
        raise DamagedError(f"{name}, line {number}: scale {scale} of tensor {tensor!r}", _OTHER)
    return tensor, scale


def sidecar(cache: Path) -> Path:
    """The file that says what a calibration cache belongs to."""
    return cache.with_name(cache.name + ".json")


def read(path: Union[str, Path]) -> Cache:
    """Read a cache, whoever made it; see `about` for what it belongs to.

    Raises:
        UsageError: No such file.
        DamagedError: Not a calibration cache.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{file}: no such calibration cache", "optimize calibrate ONNX --data cifar10 -o CACHE")
    if os.stat(file).st_size > LIMIT:
        raise DamagedError(f"{file}: larger than {LIMIT >> 20} MiB, not a calibration cache", _OTHER)
    return parse(file.read_bytes(), str(file))


def about(path: Path) -> Optional[Dict[str, Any]]:
    """What the sidecar says of a cache, or None where there is none.

    Returns:
        `algorithm`, `tensorrt` (version), `sha256` (of the cache), `of` (what it was measured on, see `write`).

    Raises:
        DamagedError: A damaged sidecar, or the cache is not the one that it was written for.
    """
    file = sidecar(path)
    if not file.exists():
        return None
    found = jsonfile.read(file, SCHEMA)
    if not isinstance(found.get("of"), dict):
        raise DamagedError(f"{file}: it does not say what the cache was measured on", _OTHER)
    if jsonfile.sha256(path) != found.get("sha256"):
        raise DamagedError(f"{path}: it changed since it was written", _OTHER)
    return found


def require(path: Path, of: Mapping[str, Any], algorithm: str, version: str) -> Optional[bytes]:
    """The content of a cache that was measured for exactly this; None where there is none.

    Args:
        path: TensorRT's text; its sidecar must say the same.
        of: What it must have been measured on: model, data, preprocessing and so on, as given to `write`.
        algorithm: One of `ALGORITHMS`.
        version: Of TensorRT.

    Raises:
        IncompatibleError: It belongs to another model, data set, algorithm or TensorRT; names which.
        DamagedError: It is not what its sidecar says.
    """
    if not path.exists():
        return None
    found = about(path)
    if found is None:
        raise IncompatibleError(f"{path}: nothing says which model it was measured on ({sidecar(path).name})", _OTHER)
    for name, wanted in (("algorithm", algorithm), ("tensorrt", version)):
        if found.get(name) != wanted:
            raise IncompatibleError(f"{path}: calibrated for {name} {found.get(name)}", _OTHER)
    other = differences(found["of"], of)
    if other:
        raise IncompatibleError(f"{path}: calibrated for another {' and '.join(other)}", _OTHER)
    return path.read_bytes()


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[str]:
    """What differs between two descriptions of what a cache was measured on, in words."""
    return [name for name in dict.fromkeys([*wanted, *made]) if made.get(name) != wanted.get(name)]


def write(path: Path, content: bytes, of: Mapping[str, Any], algorithm: str, version: str) -> None:
    """Write a cache and its sidecar, each atomically, the sidecar last.

    Args:
        path: The cache.
        content: Its text.
        of: JSON values by name that tell what it was measured on: `model` and `data` (SHA-256), `preprocess`,
            `layout`, `method`, `samples`, `seed` where they are known.
        algorithm: One of `ALGORITHMS`.
        version: Of TensorRT.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sidecar(path).unlink(missing_ok=True)
    with jsonfile.replacing_file(path) as part:
        part.write_bytes(content)
    told = {"algorithm": algorithm, "tensorrt": version, "sha256": jsonfile.sha256(path), "of": dict(of)}
    jsonfile.write(sidecar(path), {"schema": SCHEMA, **told})
