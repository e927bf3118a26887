"""OpenVINO's two files, `model.xml` and `model.bin`: written whole, or not at all.

OpenVINO 2024 says nothing when a disk is full and leaves what fitted; later ones say `iostream error` and no more.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator
from xml.etree import ElementTree

from engines import onnxfile
from engines.errors import BuildError

FILES = ("model.xml", "model.bin")

_BLOCK = 1 << 20

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What a document cannot hold, escaped or not (https://www.w3.org/TR/xml/#charsets)."""


def save(model: Any, out: Path, compress_to_fp16: bool, size: int) -> None:
    """Write a model into a folder.

    Args:
        model: An `openvino.Model`.
        out: The folder.
        compress_to_fp16: Store weights as float16.
        size: About how many bytes that takes, to find out what is wrong with a disk that did not take them.

    Raises:
        OSError: The disk is full, a quota or limit is reached, or it fails; neither file is left.
        BuildError: They could not be written for another reason, such as a name that XML has no characters for;
            neither is left.
    """
    import openvino as ov

    xml, weights = (out / name for name in FILES)
    why = ""
    try:
        ov.save_model(model, str(xml), compress_to_fp16=compress_to_fp16)
    except RuntimeError as error:
        why = onnxfile.first_line(error)
    if not why and is_whole(xml, weights):
        return
    for file in (xml, weights):
        file.unlink(missing_ok=True)
    _try_to_write(out / "probe", size)
    wrong = next((name for name in _names(model) if _NO_XML.search(name)), None)
    if wrong is not None:
        raise BuildError(
            f"{out}: the name {wrong!r} holds a control character, which OpenVINO's XML cannot",
            "rename it in the model",
        )
    raise BuildError(f"{out}: the engine could not be written whole ({why or 'a part is missing'})", "try once more")


def _names(model: Any) -> Iterator[str]:
    """Of the operators, and of what they give."""
    for operator in model.get_ops():
        yield operator.get_friendly_name()
        for output in operator.outputs():
            yield from output.get_names()


def is_whole(xml: Path, weights: Path) -> bool:
    """Whether the graph is a whole document, and the weights reach as far as it says."""
    try:
        layers = ElementTree.parse(xml).getroot().iter("layer")  # noqa: S314  (it was written here and just now)
        data = [layer.find("data") for layer in layers if layer.get("type") == "Const"]
        end = max((int(d.attrib["offset"]) + int(d.attrib["size"]) for d in data if d is not None), default=0)
        return weights.stat().st_size >= end
    except (ElementTree.ParseError, FileNotFoundError):
        return False


def _try_to_write(file: Path, size: int) -> None:
    """Write as much and remove it, for the error that the system has for it."""
    try:
        with open(file, "wb") as handle:
            for _ in range(0, size, _BLOCK):
                handle.write(bytes(_BLOCK))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.parent)) from None
    finally:
        file.unlink(missing_ok=True)
