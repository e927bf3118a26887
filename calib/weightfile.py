"""A graph whose weights lie in a second file: it is loaded without them, and they are read one at a time.

A model in one file takes twice its size to parse, and every copy of the graph another time; calibration makes several,
one after the other. Only calibration's own temporary files have this form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

_MARK = "optimize.weights"
"""Metadata of such a graph: the path of its weights. Set when it is read, so that no file can name another."""

_LEAST = 1024
"""Bytes from which an initializer goes to the second file; smaller ones may decide shapes."""


def write(model: Any, path: Union[str, Path]) -> None:
    """Write a model as `path` and `path` + `.weights`, into a folder of one's own; its own weights are gone afterwards.

    Args:
        model: ModelProto; its weights in itself, or in another such file.
        path: Of the graph.
    """
    path = Path(path)
    source = _source(model)
    with open(_beside(path), "wb") as weights:
        for item in model.graph.initializer:
            content = _content(item, source)
            if len(content) >= _LEAST:
                _point(item, _beside(path).name, weights.tell(), len(content))
                weights.write(content)
    _mark(model, "")
    path.write_bytes(model.SerializeToString())


def is_split(model: Any) -> bool:
    """Whether a model just parsed says that it is one of these."""
    return any(item.key == _MARK for item in model.metadata_props)


def attach(model: Any, path: Union[str, Path]) -> None:
    """Tell a model, parsed from `path` without its weights, where they are."""
    _mark(model, str(_beside(Path(path)).resolve()))


def fill(model: Any) -> None:
    """Read all weights into the model, in place, so that one file holds everything."""
    source = _source(model)
    if source:
        for item in model.graph.initializer:
            if item.external_data:
                item.raw_data = _content(item, source)
                item.ClearField("data_location")
                del item.external_data[:]
        _mark(model, None)


def array(model: Any, item: Any) -> npt.NDArray[Any]:
    """The value of an initializer, wherever it is."""
    from onnx import helper, numpy_helper

    if not item.external_data:
        return np.asarray(numpy_helper.to_array(item))
    dtype = helper.tensor_dtype_to_np_dtype(item.data_type)
    return np.frombuffer(_content(item, _source(model)), dtype).reshape(tuple(item.dims))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.weights")


def _source(model: Any) -> str:
    return next((str(item.value) for item in model.metadata_props if item.key == _MARK), "")


def _mark(model: Any, value: Union[str, None]) -> None:
    kept = [item for item in model.metadata_props if item.key != _MARK]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if value is not None:
        model.metadata_props.add(key=_MARK, value=value)


def _content(item: Any, source: str) -> bytes:
    """Raw bytes of an initializer; empty where it holds its values in another way."""
    if not item.external_data:
        return bytes(item.raw_data)
    place = {entry.key: entry.value for entry in item.external_data}
    with open(source, "rb") as weights:
        weights.seek(int(place["offset"]))
        return weights.read(int(place["length"]))


def _point(item: Any, location: str, offset: int, length: int) -> None:
    item.ClearField("raw_data")
    del item.external_data[:]
    item.data_location = type(item).EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        item.external_data.add(key=key, value=str(value))
