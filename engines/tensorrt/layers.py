"""What a plan consists of, by the engine inspector, and the time of each layer, by the profiler."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from engines.errors import OptimizeError
from engines.spec import LayerTimes

_WORDS = (
    ("BFLOAT16", "bf16"),
    ("BF16", "bf16"),
    ("FP16", "f16"),
    ("HALF", "f16"),
    ("INT8", "int8"),
    ("FP8", "fp8"),
    ("INT32", "i32"),
    ("INT64", "i64"),
    ("BOOL", "bool"),
    ("FP32", "f32"),
    ("FLOAT", "f32"),
)
"""Words of a tensor's format or type -> the precision; the first that is found counts."""

_MOVES = ("reformat", "shuffle", "noop", "constant", "slice", "concat", "reshape", "signal", "wait")
"""Layer types that move data; a layer of these has no precision of its own to count."""

_WHOLE = ("i32", "i64", "bool", "")

_ONNX = "[ONNX Layer: "
_OF_PROFILE = re.compile(r" \[profile \d+\]$")
_JOINED = re.compile(r" \+ | \|\| ")


def inspect(trt: Any, engine: Any) -> Dict[str, Any]:
    """Layers of an engine built with detailed verbosity, as they are in its first profile.

    The JSON of 8.5 to 10 gives a tensor's `Format/Datatype` in one text, 11 gives `Format` and `DataType`.

    Returns:
        `layers` ({name, type, precision, tactic, names}, those that compute; `names` are those of the ONNX nodes that
        were fused into one, as far as it is told), `reformats` and `qdq` (how many layers only
        change a tensor's format, or quantise and dequantise).

    Raises:
        OptimizeError: The inspector says nothing.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise OptimizeError("TensorRT gave no engine inspector")
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return read(text)


def read(text: str) -> Dict[str, Any]:
    """See `inspect`: from the inspector's JSON."""
    try:
        told = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        told = None
    if not isinstance(told, list):
        raise OptimizeError("the engine inspector's answer is no JSON with layers")
    layers, reformats, qdq = [], 0, 0
    for one in told:
        if not isinstance(one, Mapping):  # built without detailed verbosity: a name alone
            if " [profile " not in str(one):
                layers.append(
                    {"name": str(one), "type": "", "precision": "", "tactic": "", "names": _names(str(one), "")}
                )
            continue
        kind, origin = str(one.get("LayerType", "")), str(one.get("Origin", ""))
        name = str(one.get("Name", ""))
        if " [profile " in name:  # the same layer, for another profile
            continue
        if origin == "QDQ" or "quantize" in kind.lower():
            qdq += 1
        elif origin == "REFORMAT" or "reformat" in kind.lower() or name.startswith("Reformatting"):
            reformats += 1
        elif not any(word in kind.lower() for word in _MOVES):
            precision = _precision(one)
            if precision not in _WHOLE:
                told_names = _names(name, str(one.get("Metadata") or ""))
                found = {"name": name, "type": kind, "precision": precision, "tactic": str(_tactic(one))}
                layers.append({**found, "names": told_names})
    return {"layers": layers, "reformats": reformats, "qdq": qdq}


def _names(name: str, metadata: str) -> List[str]:
    """The ONNX nodes of a layer: by its metadata from 8.6 on, before by its name (`conv1 + relu1`, `a || b`)."""
    told = [part.strip()[len(_ONNX) : -1] for part in metadata.split("\x1e") if part.strip().startswith(_ONNX)]
    return told or _JOINED.split(name)


def _tactic(one: Mapping[str, Any]) -> Any:
    return one.get("TacticName") or one.get("TacticValue") or ""


def _precision(one: Mapping[str, Any]) -> str:
    """What a layer computes in: the type of its first input; a layer without one that of its first output."""
    sides = [side for side in (one.get("Inputs"), one.get("Outputs")) if isinstance(side, list)]
    for tensor in (tensor for side in sides for tensor in side if isinstance(tensor, Mapping)):
        text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or tensor.get("Format") or "").upper()
        for word, precision in _WORDS:
            if word in text:
                return precision
    return ""


def profiler(trt: Any) -> Any:
    """An IProfiler that adds up: `times` has the milliseconds of every query by layer."""

    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.times: Dict[str, List[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(float(ms))

    return Times()


def table(
    times: Mapping[str, List[float]], layers: Sequence[Mapping[str, Any]], wall_ms: np.ndarray[Any, Any]
) -> LayerTimes:
    """What `Runner.layer_times` returns, of a profiler's times and the layers that the inspector tells of.

    The same layer has its name alone in the first optimisation profile, and that of the profile behind it in others.

    Raises:
        OptimizeError: A layer was not told once in each query, or as often in one as in another.
    """
    known = {str(layer["name"]): layer for layer in layers}
    queries = len(wall_ms)
    found = []
    columns = []
    for told, values in times.items():
        name = _OF_PROFILE.sub("", told)
        about = known.get(name, {"type": "", "precision": ""})
        if not values or len(values) % queries:
            raise OptimizeError(
                f"TensorRT's profiler told of the layer {name} {len(values)} times in {queries} queries"
            )
        found.append({"name": name, "type": str(about["type"]), "precision": str(about["precision"])})
        columns.append(np.array(values, np.float64).reshape(queries, -1).sum(axis=1))
    return LayerTimes(found, np.array(columns).reshape(-1, queries).T, wall_ms)
