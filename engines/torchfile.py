"""What a PyTorch file holds, told without PyTorch and without running a pickle: members, opcodes and names only."""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional

from engines.errors import ModelError, UsageError

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of PyTorch before 1.6 begin: its magic number, pickled."""

LIMIT = 256 * 1024 * 1024
"""Largest pickle or nested archive read, bytes; weights lie beside the pickle, not in it."""

_SAFE = re.compile(
    r"collections (OrderedDict|Counter)|_codecs encode|builtins (set|bytearray|complex|dict|list|tuple|int|float|bool)|"
    r"torch (Size|Tensor|device|\w+Storage|b?float\d+\w*|u?int\d+|complex\d+|half|double|long|bool|q?u?int\w*)|"
    r"torch\._utils _rebuild_\w+|torch\.nn\.parameter (Parameter|Buffer)|torch\.serialization _get_layout|"
    r"torch\._tensor _rebuild_from_type_v2|torch\.storage (\w*Storage|_load_from_bytes)|torch\.\w+Storage|"
    r"numpy(\._?core)?(\.multiarray)? (dtype|scalar|_reconstruct|ndarray)"
)
"""`module name` of what a state_dict or checkpoint is made of; the names that `weights_only` knows, and NumPy's."""

_WEIGHTS_HINT = "in the training program: torch.save(model.state_dict(), FILE.pt), then give --factory FILE.py:NAME"


def kind(path: str, members: List[str]) -> str:
    """The kind of a zip archive by its members: torch-pt2, torchscript, torch-state-dict; empty for another's."""
    tails = {name.split("/", 1)[1] if "/" in name else name for name in members}
    if "archive_format" in tails or "serialized_exported_program.json" in tails:
        return "torch-pt2"
    if "constants.pkl" in tails and any(tail.startswith("code/") or tail == "data.pkl" for tail in tails):
        return "torchscript"
    return "torch-state-dict" if "data.pkl" in tails else ""


def check(path: str, what: str) -> None:
    """Refuse a file whose pickles name anything but tensors and containers. Nothing of it is executed.

    Args:
        path: A file of kind `what`.
        what: torch-pt2 or torch-state-dict; TorchScript's archives are read by a restricted reader of its own.

    Raises:
        ModelError: The file is damaged, a whole pickled module, or wants to run code.
    """
    try:
        if what == "torch-state-dict":
            for stream in _pickles(path):
                _refuse_code(path, stream)
        elif what == "torch-pt2":
            with zipfile.ZipFile(path) as archive:
                for name in _pickled_members(archive):
                    data = _read(archive, path, name)
                    if not zipfile.is_zipfile(io.BytesIO(data)):
                        raise ModelError(f"{path}: its member {name} is a bare pickle, which is not read")
                    with zipfile.ZipFile(io.BytesIO(data)) as inner:
                        for member in inner.namelist():
                            if member.endswith(".pkl"):
                                _refuse_code(path, io.BytesIO(_read(inner, path, member)))
    except (zipfile.BadZipFile, ValueError, EOFError, IndexError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path}: a damaged PyTorch file ({error})", "copy it again: it may be truncated") from None


def _read(archive: zipfile.ZipFile, path: str, name: str) -> bytes:
    if archive.getinfo(name).file_size > LIMIT:
        raise ModelError(f"{path}: its {name} is larger than {LIMIT >> 20} MiB")
    return archive.read(name)


def _pickles(path: str) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    yield io.BytesIO(_read(archive, path, name))
        return
    with open(path, "rb") as file:
        for _ in range(5):  # magic, protocol, machine, the object, the keys of its storages
            yield file


def _pickled_members(archive: zipfile.ZipFile) -> Iterator[str]:
    """Members that `torch.export.load` unpickles: nested .pt files, and payloads marked so in a configuration."""
    names = archive.namelist()
    yield from (name for name in names if name.endswith(".pt") and archive.getinfo(name).file_size)
    for name in names:
        if name.endswith("_config.json") and archive.getinfo(name).file_size < LIMIT:
            found = json.loads(archive.read(name))
            payloads: Dict[str, Any] = found.get("config", {}) if isinstance(found, dict) else {}
            for payload in payloads.values():
                if isinstance(payload, dict) and payload.get("use_pickle"):
                    yield name.rsplit("/", 1)[0] + "/" + str(payload.get("path_name"))


def names(stream: IO[bytes]) -> Iterator[str]:
    """`module name` of everything that the next pickle in a stream imports; `?` where that cannot be told."""
    memo: Dict[Any, Optional[str]] = {}
    strings: List[Optional[str]] = []
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument)
        elif name == "STACK_GLOBAL":
            parts = strings[-2:]
            yield f"{parts[0]} {parts[1]}" if len(parts) == 2 and None not in parts else "?"
        elif name.startswith("EXT"):
            yield "?"
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            memo[len(memo) if name == "MEMOIZE" else argument] = strings[-1] if strings else None
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            strings.append(memo.get(argument))
        else:
            strings.append(argument if isinstance(argument, str) and "UNICODE" in name else None)


def _refuse_code(path: str, stream: IO[bytes]) -> None:
    found = list(names(stream))
    odd = [name for name in found if not _SAFE.fullmatch(name)]
    if not odd:
        return
    file = Path(path).name
    if any(name.startswith("torch.nn.modules.") for name in odd):
        own = [n for n in odd if not n.startswith("torch.") and not n.startswith(("builtins ", "collections "))]
        what = f" of the class {own[0].split()[-1]}" if own else ""
        raise ModelError(f"{file} is a whole pickled module{what}, which would run code on loading", _WEIGHTS_HINT)
    asked = odd[0].replace(" ", ".")
    raise ModelError(f"{file} is a pickle that wants to run {asked}; it was not executed", _WEIGHTS_HINT)


LIBRARIES = ("torchvision", "timm")
"""Whose models are known by name, in the order in which they are asked."""


def needs_factory(path: str) -> UsageError:
    """The error for a state_dict without the function that makes its module."""
    return UsageError(
        f"{Path(path).name} holds weights (a state_dict) without the module",
        "name what makes it: --factory FILE.py:NAME, or a torchvision or timm model name",
    )
