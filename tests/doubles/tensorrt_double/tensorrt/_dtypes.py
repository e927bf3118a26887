"""Data types between TensorRT, ONNX and NumPy."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tensorrt._real import MAJOR, REAL

_NUMPY: Dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}

_ONNX: Dict[int, str] = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8"}

WORDS: Dict[str, str] = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8", "INT32": "Int32", "INT64": "Int64"}
"""As the engine inspector of TensorRT 8 and 10 spells them in a format."""

SHORT: Dict[str, str] = {"FLOAT": "Float", "HALF": "Half", "INT8": "Int8", "INT32": "Int32", "INT64": "Int64"}
"""As it spells a data type by itself."""


def of_onnx(element: int) -> str:
    """The name of TensorRT's data type of an ONNX tensor, or "" where this version has none.

    TensorRT 8 has no 64-bit integers: the parser takes them as 32-bit ones.
    """
    name = _ONNX.get(element, "")
    return "INT32" if name == "INT64" and MAJOR < 10 else name


def member(name: str) -> Any:
    """TensorRT's own value of a data type's name."""
    return getattr(REAL["DataType"], name)


def numpy_of(name: str) -> Any:
    """NumPy's type of a data type's name."""
    return np.dtype(_NUMPY[name])
