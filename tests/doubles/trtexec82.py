"""A double of TensorRT 8.2's trtexec, as the original Jetson Nano has it: it takes the same options and writes files of
the same form. It builds nothing: a plan names what it was made from, and every time is made up.

Forms: samples/common/sampleOptions.cpp and sampleReporting.cpp of TensorRT 8.2.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any, Dict, List

import onnx

HEAD = b"plan of a trtexec double, 8.2.1\n"

VALUES = {
    *("onnx", "saveEngine", "loadEngine", "workspace", "minShapes", "optShapes", "maxShapes", "shapes", "calib"),
    *("warmUp", "iterations", "duration", "exportTimes", "exportProfile"),
}
SWITCHES = {"buildOnly", "fp16", "int8", "noTF32", "dumpProfile"}


def fail(text: str) -> None:
    print(f"[11/22/2026-08:00:00] [E] {text}")
    print("&&&& FAILED TensorRT.trtexec [TensorRT v8201]")
    raise SystemExit(1)


def options(words: List[str]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or name not in (VALUES if equals else SWITCHES):
            fail(f"Unknown option: {word}")
        found[name] = value if equals else True
    return found


def build(given: Dict[str, Any]) -> None:
    graph = Path(given["onnx"]).read_bytes()
    model = onnx.load_from_string(graph)
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    if not fixed and "optShapes" not in given:
        fail("Dynamic dimensions required for input, but no shapes were provided.")
    if "calib" in given and not Path(given["calib"]).read_text().startswith("TRT-8201-EntropyCalibration2\n"):
        fail("the calibration cache is of another version")
    about = {
        "onnx": hashlib.sha256(graph).hexdigest(),
        "precision": "int8" if "int8" in given else "fp16" if "fp16" in given else "fp32",
        "shapes": given.get("optShapes", ""),
        "calibrated": "calib" in given,
        "layers": [node.name for node in model.graph.node],
    }
    Path(given["saveEngine"]).write_bytes(HEAD + json.dumps(about).encode())


def measure(given: Dict[str, Any]) -> None:
    plan = Path(given["loadEngine"]).read_bytes()
    if not plan.startswith(HEAD):
        fail("the engine plan file is not compatible with this version of TensorRT")
    about = json.loads(plan[len(HEAD) :])
    drawn = random.Random(about["precision"] + about["shapes"])
    count = 40 + int(given["iterations"])
    at, times = 0.0, []
    for _ in range(count):  # those of the warm-up come first
        copy, compute = 0.05, 8 + drawn.random()
        ends = [at, at + copy, at + copy, at + copy + compute, at + copy + compute, at + 2 * copy + compute]
        times.append(
            {
                **{"startEnqMs": at, "endEnqMs": at + 0.4, "startInMs": ends[0], "endInMs": ends[1]},
                **{"startComputeMs": ends[2], "endComputeMs": ends[3], "startOutMs": ends[4], "endOutMs": ends[5]},
                **{"inMs": copy, "computeMs": compute, "outMs": copy, "latencyMs": compute + 2 * copy},
                "endToEndMs": compute + 2 * copy,
            }
        )
        at += compute
    if "exportTimes" in given:
        Path(given["exportTimes"]).write_text(json.dumps(times))
    if "exportProfile" in given:
        each = 8.0 / len(about["layers"])
        layers = [{"name": n, "timeMs": each * count, "averageMs": each, "percentage": 1} for n in about["layers"]]
        Path(given["exportProfile"]).write_text(json.dumps([{"count": count}, *layers]))


if __name__ == "__main__":
    asked = options(sys.argv[1:])
    build(asked) if "onnx" in asked else measure(asked)
    print("&&&& PASSED TensorRT.trtexec [TensorRT v8201]")
