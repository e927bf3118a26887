"""What our code relies on of TensorRT's API and parser, as cases."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np

from engines.tensorrt import compat
from tests.device import models
from tests.device.steps import network
from tests.device.world import Case, World, attempt, need, raised, word

ENUMS = (
    "BuilderFlag",
    "CalibrationAlgoType",
    "DataType",
    "DeviceType",
    "EngineCapability",
    "ErrorCode",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParserFlag",
    "PreviewFeature",
    "ProfilingVerbosity",
    "QuantizationFlag",
    "TacticSource",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
)

CLASSES = (
    "Builder",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "IInt8EntropyCalibrator2",
    "IInt8MinMaxCalibrator",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)


def api(w: World) -> Dict[str, Any]:
    """Values of enums and names of members: what a version is, against the surface that the tests assume."""
    enums = {}
    for name in ENUMS:
        members = getattr(getattr(w.trt, name, None), "__members__", {})
        enums[name] = {member: int(value) for member, value in sorted(members.items())}
    members = {
        name: [one for one in sorted(dir(getattr(w.trt, name, None))) if not one.startswith("_")]
        for name in CLASSES
        if hasattr(w.trt, name)
    }
    w.seen["version"] = str(w.trt.__version__)
    w.check("the version begins with a number", str(w.trt.__version__)[:1].isdigit())
    return {"enums": enums, "members": members}


def signatures(w: World) -> Dict[str, Any]:
    """A misspelt attribute, a renamed argument, a wrong type: each raises, none passes silently."""
    builder = w.trt.Builder(w.log)
    config = builder.create_builder_config()
    pool = w.trt.MemoryPoolType.WORKSPACE
    return {
        "misspelt attribute": attempt(lambda: setattr(config, "int8_calibratr", None)),
        "misspelt method": attempt(lambda: config.set_flags_of()),
        "renamed argument": attempt(lambda: config.set_memory_pool_limit(pool=pool, size=1 << 20)),
        "text for a number": attempt(lambda: config.set_memory_pool_limit(pool, "1")),
        "another enum": attempt(lambda: config.set_flag(pool)),
        "no constructor": attempt(lambda: w.trt.ICudaEngine()),
        "logger of another kind": attempt(lambda: w.trt.Builder("logger")),
    }


def _network(made: Any) -> Dict[str, Any]:
    ends = [made.get_input(i) for i in range(made.num_inputs)], [made.get_output(i) for i in range(made.num_outputs)]
    return {
        side: [[str(one.name), word(one.dtype), [int(size) for size in one.shape]] for one in tensors]
        for side, tensors in zip(("inputs", "outputs"), ends)
    }


def good(w: World) -> Dict[str, Any]:
    """A model that is taken, from memory and from a file, alone and with Q/DQ pairs."""
    _builder, made, parser, parsed = network(w, models.cnn())
    file = w.folder / "model.onnx"
    file.write_bytes(models.cnn(quantized=True))
    other = w.trt.Builder(w.log).create_network(compat.network_flags(w.trt))
    second = w.trt.OnnxParser(other, w.log)
    w.check("it is parsed", parsed is True and parser.num_errors == 0)
    w.check("a file is parsed", second.parse_from_file(str(file)) is True)
    w.check("there are layers", made.num_layers > 0 and other.num_layers > made.num_layers)
    w.seen["layers"] = [int(made.num_layers), int(other.num_layers)]
    kinds = {word(other.get_layer(i).type) for i in range(other.num_layers)}
    w.check("quantize layers are told", {"QUANTIZE", "DEQUANTIZE"} <= kinds)
    return _network(made)


def _errors(parser: Any) -> List[Dict[str, Any]]:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        told = {"code": word(error.code()), "node": int(error.node())}
        for name in ("node_name", "node_operator"):
            told[name] = str(getattr(error, name)()) if hasattr(error, name) else None
        found.append(told)
    return found


def unknown_operator(w: World) -> Dict[str, Any]:
    """An operator that no parser has: which node, which operator, which reason."""
    _builder, _made, parser, parsed = network(w, models.unknown_operator())
    reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
    w.seen["reasons"] = reasons
    w.check("it is refused", not parsed and parser.num_errors > 0)
    w.check("an error names node 1", any(one["node"] == 1 for one in _errors(parser)))
    named = any("NoSuchOperator" in str(text) for text in [*reasons, *(e["node_operator"] for e in _errors(parser))])
    w.check("an error names the operator", named)
    return {"parse": parsed, "errors": _errors(parser)}


def no_model(w: World) -> Dict[str, Any]:
    """Bytes that are no model, none at all, and a file that is missing."""
    _, _, parser, garbage = network(w, b"this is no model" * 8)
    _, _, empty_parser, empty = network(w, b"")
    file = w.trt.OnnxParser(w.trt.Builder(w.log).create_network(compat.network_flags(w.trt)), w.log)
    with raised() as missing:
        missing.append(str(file.parse_from_file(str(w.folder / "missing.onnx"))))
    w.check("garbage is refused with an error", not garbage and parser.num_errors > 0)
    w.seen["errors of an empty model"] = int(empty_parser.num_errors)
    return {"garbage": garbage, "empty": empty, "missing file": missing}


def bad_quantization(w: World) -> Dict[str, Any]:
    """Pairs that our own graphs must not hold: zero points that are not 0, uint8, a scale of 0."""
    told = {}
    for name, zero, scale in (
        ("symmetric int8", np.int8(0), 0.03),
        ("asymmetric int8", np.int8(3), 0.03),
        ("uint8", np.uint8(128), 0.03),
        ("scale 0", np.int8(0), 0.0),
    ):
        _builder, _made, parser, parsed = network(w, models.quantized_by(zero, scale))
        told[name] = {"parse": parsed, "operators": [one["node_operator"] for one in _errors(parser)]}
    w.check("symmetric int8 is taken", told["symmetric int8"]["parse"])
    return told


def implicit_batch(w: World) -> Dict[str, Any]:
    """A network without an explicit batch, where that is still a choice."""
    kinds = w.trt.NetworkDefinitionCreationFlag
    need(hasattr(kinds, "EXPLICIT_BATCH"), "the batch is always explicit")
    builder = w.trt.Builder(w.log)
    made = builder.create_network(0)
    with raised() as found:
        found.append(str(w.trt.OnnxParser(made, w.log).parse(models.cnn())))
    return {"parse": found}


CASES = [
    Case("api.names", api, "tensorrt"),
    Case("api.misuse", signatures, "tensorrt"),
    Case("parse.good", good, "tensorrt"),
    Case("parse.unknown_operator", unknown_operator, "tensorrt"),
    Case("parse.no_model", no_model, "tensorrt"),
    Case("parse.bad_quantization", bad_quantization, "tensorrt"),
    Case("parse.implicit_batch", implicit_batch, "tensorrt"),
]
"""In the order in which they run."""
