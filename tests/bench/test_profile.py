"""Layers beside the whole query, on a real engine, and the trace of them."""

from __future__ import annotations

from typing import Any

import pytest

from bench import profile
from engines.errors import UsageError
from engines.spec import Runner, RunnerSpec

LAYERS = [
    {"name": "conv", "type": "Convolution", "precision": "int8", "ms": 0.3, "share": 0.75},
    {"name": "move", "type": "", "precision": "", "ms": 0.1, "share": 0.25},
]
FOUND = {
    "name": "int8-x",
    "backend": "x",
    "batch": 4,
    "queries": 9,
    "query_ms": 0.35,
    "layers_ms": 0.4,
    "statistic": "mean",
    "layers": LAYERS,
}


@pytest.mark.parametrize(("backend", "statistic"), [("openvino", "mean"), ("onnxruntime", "median")])
def test_the_layers_of_an_engine(model: Any, backend: str, statistic: str) -> None:
    pytest.importorskip(backend)
    spec = RunnerSpec(str(model), "onnx", backend=backend, layout="NHWC", threads=1)
    found = profile.measure(spec.to_json(), 2, 4)
    assert found["batch"] == 2 and found["queries"] == 4 and found["query_ms"] > 0
    assert found["statistic"] == statistic
    assert found["layers_ms"] == pytest.approx(sum(layer["ms"] for layer in found["layers"]))
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert {"name", "type", "precision", "ms", "share"} == set(found["layers"][0])


def test_layers_lie_behind_each_other_in_the_trace() -> None:
    trace = profile.trace(FOUND)
    named = {event["name"]: event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert named == {"process_name": "int8-x", "thread_name": "layers, batch 4"}
    layers = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"]) for event in layers] == [
        ("conv", 0.0, pytest.approx(300)),
        ("move", pytest.approx(300), pytest.approx(100)),
    ]
    assert all(event["cat"] and event["pid"] == event["tid"] == 1 for event in layers)
    assert trace["otherData"]["query_ms"] == 0.35
    assert trace["otherData"]["note"].startswith("means over the queries")


def test_what_tells_no_layers_says_so() -> None:
    class Original(Runner):
        spec = RunnerSpec("m.keras", "keras-zip")

    with pytest.raises(UsageError, match=r"m\.keras.*not told by what runs it"):
        Original().profile({})
