from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from engines.errors import OptimizeError
from engines.tensorrt import compat, layers
from engines.tensorrt.plan import Plan
from tests.engines.tensorrt.plans import plan


def tensor(text: str, **more: Any) -> Dict[str, Any]:
    return {"Name": "x", "Location": "Device", "Dimensions": [1, 16, 8, 8], "Format/Datatype": text, **more}


def eleven(kind: str) -> Dict[str, Any]:
    return {"Name": "x", "Dimensions": [1, 16, 8, 8], "Format": "Row major linear", "DataType": kind}


def layer(name: str, kind: str, source: Dict[str, Any], target: Dict[str, Any], **more: Any) -> Dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": [source], "Outputs": [target], **more}


F32, F16 = "Row major linear FP32", "Channel major FP16 format where channel % 8 == 0"
I8 = "Thirty-two wide channel vectorized row major Int8 format"

EIGHT = [
    layer("Reformatting CopyNode for Input Tensor 0 to conv1", "Reformat", tensor(F32), tensor(I8), Origin="REFORMAT"),
    layer("image_Q", "Scale", tensor(F32), tensor(I8), Origin="QDQ"),
    layer("conv1 + relu1", "CaskConvolution", tensor(I8), tensor(I8), TacticName="sm80_xmma_fprop_i8i8", TacticValue=1),
    layer("conv2", "CaskConvolution", tensor(I8), tensor(F16), TacticValue="0x0000000000000002"),
    layer("dense", "CaskGemmConvolution", tensor(F16), tensor(F16)),
    layer("shuffle", "Shuffle", tensor(F16), tensor(F16)),
    layer("soft", "SoftMax", tensor(F32), tensor(F32)),
    layer("soft [profile 1]", "SoftMax", tensor(F32), tensor(F32)),
    layer("indices", "ElementWise", tensor("Row major linear INT32"), tensor("Row major linear INT32")),
]

TEN = [
    layer("__mye1", "kgen", tensor("Row major linear BFloat16 format"), tensor(F32), StreamId=0, Metadata=""),
    layer("conv", "CaskConvolution", tensor("Channel major INT8 format"), tensor(I8), StreamId=0),
    layer("fp8", "gemm", tensor("Row major linear FP8 format"), tensor(F16), StreamId=0),
    layer("signal", "signal", tensor(F16), tensor(F16)),
    {"Name": "const", "LayerType": "Constant", "Inputs": [], "Outputs": [tensor(F16)]},
    {"Name": "source", "LayerType": "Fill", "Inputs": [], "Outputs": [tensor(F16)]},
]

ELEVEN = [
    layer("conv", "conv", eleven("Half"), eleven("Half"), TacticName="t"),
    layer("stem", "conv", eleven("Float"), eleven("Half")),
    layer("quantize", "kgen_Quantize", eleven("Half"), eleven("Int8")),
    layer("q", "gemm", eleven("Int8"), eleven("Half")),
    layer("b", "gemm", eleven("BFloat16"), eleven("Half")),
    layer("i", "gather", eleven("Int64"), eleven("Int64")),
    layer("Reformatting CopyNode for x", "kgen", eleven("Half"), eleven("Half")),
]


@pytest.mark.parametrize(
    ("told", "precisions", "reformats", "qdq"),
    [
        (EIGHT, {"conv1 + relu1": "int8", "conv2": "int8", "dense": "f16", "soft": "f32"}, 1, 1),
        (TEN, {"__mye1": "bf16", "conv": "int8", "fp8": "fp8", "source": "f16"}, 0, 0),
        (ELEVEN, {"conv": "f16", "stem": "f32", "q": "int8", "b": "bf16"}, 1, 1),
        ([], {}, 0, 0),
    ],
    ids=["8.5", "10", "11", "none"],
)
def test_the_inspectors_words_of_each_version(told: List[Any], precisions: Dict[str, str], reformats: int, qdq: int):
    found = layers.read(json.dumps({"Layers": told, "Bindings": ["image", "scores"]}))
    assert {one["name"]: one["precision"] for one in found["layers"]} == precisions
    assert (found["reformats"], found["qdq"]) == (reformats, qdq)


def test_tactics_are_kept_by_name_or_by_value():
    found = layers.read(json.dumps({"Layers": EIGHT}))["layers"]
    assert [one["tactic"] for one in found] == ["sm80_xmma_fprop_i8i8", "0x0000000000000002", "", ""]
    assert found[0]["type"] == "CaskConvolution"


def test_names_alone_are_taken_as_names():
    found = layers.read(json.dumps({"Layers": ["conv1", "dense", "conv1 [profile 1]"]}))
    assert [one["name"] for one in found["layers"]] == ["conv1", "dense"]
    assert {one["precision"] for one in found["layers"]} == {""}


@pytest.mark.parametrize(
    "text",
    [
        *["", "{", "[]", "null", "7", '"Layers"', "{}", '{"Layers": null}', '{"Layers": 7}', '{"Layers": "conv"}'],
        '{"Layers": {"conv": 1}}',
        json.dumps({"Layers": EIGHT})[:-30],
    ],
)
def test_what_is_no_list_of_layers_is_refused(text: str):
    with pytest.raises(OptimizeError, match="no JSON with layers"):
        layers.read(text)


@pytest.mark.parametrize(
    "one",
    [
        {},
        {"Name": None, "LayerType": None},
        {"Name": "x", "LayerType": "conv", "Inputs": None, "Outputs": None},
        {"Name": "x", "LayerType": "conv", "Inputs": ["a"], "Outputs": [None]},
        {"Name": "x", "LayerType": "conv", "Inputs": [{"Format/Datatype": None}]},
        {"Name": "x", "LayerType": "conv", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
        {"Name": "x", "LayerType": "conv", "Inputs": 5, "Outputs": {}},
    ],
)
def test_a_layer_that_does_not_tell_its_type_is_not_counted(one: Dict[str, Any]):
    assert layers.read(json.dumps({"Layers": [one, EIGHT[4]]}))["layers"][0]["name"] == "dense"


def test_the_table_has_the_times_of_each_query_in_the_order_of_the_layers():
    known = [{"name": "a", "type": "Convolution", "precision": "f16", "tactic": "x", "names": ["a"]}]
    wall = np.array([8.0, 16.0])
    found = layers.table({"b": [3.0, 4.0], "a": [1.0, 2.0, 9.0, 1.0]}, known, wall)
    assert found.layers == [
        {"name": "b", "type": "", "precision": ""},
        {"name": "a", "type": "Convolution", "precision": "f16"},
    ]
    assert found.ms.tolist() == [[3.0, 3.0], [4.0, 10.0]]
    assert found.wall_ms is wall
    again = layers.table({"a [profile 1]": [2.0, 2.0]}, known, wall)
    assert again.layers == found.layers[1:]
    assert layers.table({}, known, wall).ms.shape == (2, 0)
    for odd in ([], [1.0, 2.0, 3.0]):
        with pytest.raises(OptimizeError, match=f"layer b {len(odd)} times in 2 queries"):
            layers.table({"b": odd}, known, wall)


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_inspector_of_a_plan(
    trt: Any, surface: str, graph_file: Callable[..., Path], tmp_path: Path, precision: str
):
    if precision == "fp16" and compat.strongly_typed_only(trt):
        pytest.skip("FP16 comes from the graph alone")
    onnx = graph_file(quantize=precision == "int8")
    options = {"int8_mode": "explicit"} if precision == "int8" else {}
    told = plan(surface, onnx, tmp_path, (1, 4), precision, **options)
    engine = Plan(trt, compat.logger(trt), tmp_path / "model.plan")
    found = layers.inspect(trt, engine.engine)
    engine.close()
    names = [one["name"] for one in found["layers"]]
    assert len(names) == len(set(names)) >= 4
    assert all(one["type"] and one["precision"] for one in found["layers"])
    wanted = {"fp32": "f32", "fp16": "f16", "int8": "int8"}[precision]
    assert any(one["precision"] == wanted for one in found["layers"])
    assert (found["qdq"] > 0) == (precision == "int8")
    assert (found["reformats"], found["qdq"]) == (told["options"]["reformats"], told["options"]["qdq"])


@pytest.mark.tensorrt
def test_without_an_inspector_it_says_so(trt: Any):
    class Engine:
        def create_engine_inspector(self) -> None:
            return None

    with pytest.raises(OptimizeError, match="no engine inspector"):
        layers.inspect(trt, Engine())


@pytest.mark.tensorrt
def test_the_profiler_adds_up_by_layer(trt: Any):
    times = layers.profiler(trt)
    assert isinstance(times, trt.IProfiler)
    for ms in (1, 2.5):
        times.report_layer_time("conv", ms)
    assert times.times == {"conv": [1.0, 2.5]}
