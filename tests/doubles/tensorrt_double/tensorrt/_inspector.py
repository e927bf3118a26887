"""The engine inspector: what it says about layers, in the layout of each major version."""

# ruff: noqa: A002 - arguments are named as TensorRT names them
from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping

from tensorrt._check import Guarded, checked, setter, stored
from tensorrt._dtypes import SHORT
from tensorrt._real import MAJOR, NUMBERS

_FORMATS = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Channel major FP16 format where channel % 8 == 0",
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "INT32": "Row major linear Int32",
    "INT64": "Row major linear Int64 format",
    "BOOL": "Row major linear BOOL",
    "BF16": "Row major linear BFloat16 format",
}


@checked()
class EngineInspector(Guarded):
    """Says what an engine consists of; how much depends on the verbosity that it was built with."""

    def _setup(self, engine: Any) -> None:
        self._engine, self._context = engine, None

    error_recorder = stored("object", optional=True)

    @property
    def execution_context(self) -> Any:
        """The context whose shapes are shown, or None."""
        return self._context

    @execution_context.setter
    def execution_context(self, value: Any) -> None:
        self._context = setter("IExecutionContext", optional=True)(value, "execution_context")

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        layers = self._engine._facts["layers"]
        if not 0 <= layer_index < len(layers) or self._engine._facts["verbosity"] == "NONE":
            return ""
        return self._text(self._layer(layers[layer_index], self._shapes()), format)

    def get_engine_information(self, format: Any) -> str:
        facts = self._engine._facts
        shapes = self._shapes()
        layers = [] if facts["verbosity"] == "NONE" else [self._layer(layer, shapes) for layer in facts["layers"]]
        if format.name == "ONELINE":
            lines = [json.dumps(layer) if isinstance(layer, dict) else layer for layer in layers]
            return "Layers:\n" + "\n".join(lines) + "\n"
        return json.dumps({"Layers": layers, **self._ends()}, indent=1)

    def _text(self, layer: Any, format: Any) -> str:
        if isinstance(layer, str):
            return layer if format.name == "ONELINE" else json.dumps(layer)
        return json.dumps(layer, indent=None if format.name == "ONELINE" else 1)

    def _shapes(self) -> Mapping[str, List[int]]:
        profile = 0 if self._context is None else max(self._context.active_optimization_profile, 0)
        return self._engine._tensor_shapes(profile)  # type: ignore[no-any-return]

    def _layer(self, layer: Mapping[str, Any], shapes: Mapping[str, List[int]]) -> Any:
        suffix = f" [profile {self._profile()}]" if self._profile() else ""
        if self._engine._facts["verbosity"] not in ("DETAILED", "VERBOSE"):
            return layer["name"] + suffix
        told: Dict[str, Any] = {
            "Name": layer["name"] + suffix,
            "LayerType": layer["type"],
            "Inputs": [_tensor(one, shapes) for one in layer["inputs"]],
            "Outputs": [_tensor(one, shapes) for one in layer["outputs"]],
            "ParameterType": layer["type"].replace("Cask", ""),
        }
        if layer["origin"]:
            told["Origin"] = layer["origin"]
        told["TacticName"] = (
            f"double_{SHORT.get(layer['precision'], layer['precision']).lower()}_{layer['type'].lower()}"
        )
        told["TacticValue"] = layer["tactic"]
        if NUMBERS[:2] >= (8, 6):
            told["StreamId"] = 0
            told["Metadata"] = "\x1e".join(f"[ONNX Layer: {name}]" for name in layer["onnx"])
        return told

    def _profile(self) -> int:
        return 0 if self._context is None else max(self._context.active_optimization_profile, 0)

    def _ends(self) -> Dict[str, Any]:
        facts = self._engine._facts
        names = [one["name"] for one in facts["io"]]
        if MAJOR < 10:
            others = range(1, len(facts["profiles"]))
            names += [f"{name} [profile {number}]" for number in others for name in names]
        if MAJOR < 11:
            return {"Bindings": names}
        return {"I/O Tensors": [_end(one, facts["profiles"]) for one in facts["io"]]}


def _end(one: Mapping[str, Any], profiles: Any) -> Dict[str, Any]:
    told = {
        "Name": one["name"],
        "IOMode": one["mode"].title(),
        "DataType": SHORT.get(one["kind"], one["kind"]),
        "Dimensions": one["shape"],
        "Location": "Device",
        "IsShapeInferenceIO": False,
        "ProfileInfo": [],
    }
    for shapes in profiles:
        entry: Dict[str, Any] = {"Format": f"{_FORMATS.get(one['kind'], 'Row major linear')} format (kLINEAR)"}
        if one["name"] in shapes:
            entry.update(zip(("MinShape", "OptShape", "MaxShape"), shapes[one["name"]]))
        told["ProfileInfo"].append(entry)
    return told


def _tensor(one: Mapping[str, Any], shapes: Mapping[str, List[int]]) -> Dict[str, Any]:
    told: Dict[str, Any] = {"Name": one["name"]}
    if NUMBERS[:2] < (8, 6):
        told["Location"] = "Device"
    told["Dimensions"] = shapes.get(one["name"].split(" to ")[-1], shapes.get(one["name"], []))
    kind = _FORMATS.get(one["kind"], "Unknown format")
    if MAJOR < 11:
        told["Format/Datatype"] = kind
    else:
        told["Format"], told["DataType"] = kind, SHORT.get(one["kind"], one["kind"])
    return told
