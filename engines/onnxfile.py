"""What the ONNX backends ask of a graph: is it whole, which batch has it, and which node did a runtime refuse."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from engines.errors import BuildError, ModelError, UsageError

_NO_CAST_BELOW = 64
"""Elements: smaller weights stay float32, since a half-precision copy and its Cast would save nothing."""

_HALF_MAX = 65504.0


def load(path: Path) -> Any:
    """Read an ONNX file with its external data.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        ModelError: It is no ONNX file, or damaged, or its external data is missing.
        FileNotFoundError: No such file.
    """
    import onnx

    unparsable = importlib.import_module("google.protobuf.message").DecodeError
    with open(path, "rb"):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # protobuf warns of a cut file, and returns a part of it
            model = onnx.load(str(path))
    except (unparsable, ValueError, onnx.checker.ValidationError, FileNotFoundError) as error:
        raise ModelError(f"{path}: not a whole ONNX file ({first_line(error)})", "export it again") from None
    if not model.graph.node:
        raise ModelError(f"{path}: not a whole ONNX file (it holds no nodes)", "export it again")
    return model


def is_external(path: Path) -> bool:
    """Whether weights of an ONNX file lie in files beside it."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer)


_NOISE = re.compile(r"(Exception from |Check '.*' failed at |FrontEnd API failed with |Model wasn't fully|Summary:)")

_UNSUPPORTED = re.compile(
    r"(?:No conversion rule found for|not support the following ONNX) operations: (.+)"
    r"|(\S+)\(-?\d+\) is not a registered function/op"
    r"|No Op registered for (\w+)"
    r"|Could not find an implementation for (\w+)"
)
"""How OpenVINO and ONNX Runtime name the operator that they lack."""


def first_line(error: object) -> str:
    """The telling part of a runtime's message: one line, without its own source paths and stack."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    text = lines[0] if lines else f"{type(error).__name__} {error}".strip()
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Load model from .*? failed: ?", "", text)
    text = re.sub(r"(with error: )?/onnxruntime_src/\S+ .*?\) (?=[A-Z])", "", text)
    return text if len(text) <= 300 else text[:300] + "..."


def blame(model: Any, error: object) -> str:
    """Operator and node that a runtime says it lacks, such as `Swizzle (com.example) in node odd`; '' otherwise."""
    said = str(error)
    found = _UNSUPPORTED.search(said)
    if not found:
        return ""
    words = set(re.findall(r"\w+", next(group for group in found.groups() if group)))
    suspects = [node for node in model.graph.node if node.op_type in words]
    foreign = [node for node in suspects if node.domain not in ("", "ai.onnx")]
    named = [node for node in suspects if node.name and re.search(rf"(?<!\w){re.escape(node.name)}(?!\w)", said)]
    for node in named or foreign or suspects:
        domain = f" ({node.domain})" if node.domain else ""
        return f"{node.op_type}{domain} in node {node.name or node.output[0]}"
    return ""


def refusal(path: Path, runtime: str, model: Any, error: object) -> BuildError:
    """The error to raise where a runtime does not take a graph: operator and node, or the opset, where it can tell."""
    culprit = blame(model, error)
    if culprit:
        return BuildError(
            f"{path}: {runtime} does not run the operator {culprit}",
            "replace the layer, export with another --opset, or choose another --backend",
        )
    opset = re.search(r"Opset (\d+) is under development.*till opset (\d+)", str(error), re.DOTALL)
    if opset:
        return BuildError(
            f"{path}: opset {opset.group(1)} is newer than {runtime} knows",
            f"export again with --opset {opset.group(2)}",
        )
    return BuildError(f"{path}: {runtime} does not take this graph: {first_line(error)}", "choose another --backend")


def inputs(model: Any) -> List[Tuple[str, List[Optional[int]]]]:
    """Names and shapes of the graph's inputs, None where a size is free; initializers are no inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name not in weights:
            dims = value.type.tensor_type.shape.dim
            found.append((value.name, [d.dim_value if d.dim_value > 0 else None for d in dims]))
    return found


def check_batches(path: Path, model: Any, batches: Sequence[int]) -> None:
    """Whether the graph's batch is free, or the one asked.

    Raises:
        UsageError: A batch below 1, or none.
        BuildError: The batch is fixed and another one is asked; names both.
    """
    if not batches or min(batches) < 1:
        raise UsageError(f"a batch of at least 1 is expected, not {list(batches)}")
    for name, shape in inputs(model):
        fixed = shape[0] if shape else None
        for batch in batches:
            if fixed is not None and fixed != batch:
                raise BuildError(
                    f"{path}: input {name} has the fixed batch {fixed}, batch {batch} is asked",
                    f"export it again with --batch dynamic, or ask for --batch {fixed}",
                )


def check_precision(path: Path, model: Any, precision: str) -> None:
    """Whether a graph can be built in a precision.

    Raises:
        UsageError: The precision is not fp32, fp16 or int8.
        BuildError: int8 of a graph without Q/DQ pairs, which would silently run in float.
    """
    if precision not in ("fp32", "fp16", "int8"):
        raise UsageError(f"unknown precision {precision!r}; known: fp32, fp16, int8")
    if precision == "int8" and not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise BuildError(
            f"{path}: int8 needs a quantized graph, this one holds no QuantizeLinear", "optimize calibrate"
        )


def halve_weights(model: Any) -> int:
    """Store float32 weights as float16, each with a Cast back to float32: half the file, the same computation.

    Weights that float16 cannot hold (beyond 65504) stay as they are.

    Returns:
        How many were halved; `model` is changed in place.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _NO_CAST_BELOW or not np.isfinite(values).all() or np.abs(values).max() > _HALF_MAX:
            continue
        half = tensor.name + "/float16"
        casts.append(helper.make_node("Cast", [half], [tensor.name], tensor.name + "/Cast", to=TensorProto.FLOAT))
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    halved = {cast.output[0] for cast in casts}
    kept = [value for value in model.graph.input if value.name not in halved]  # IR 3 lists weights as inputs too
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return len(casts)


def counts(layers: Sequence[Mapping[str, Any]]) -> Dict[str, int]:
    """Layers by precision, the most frequent first."""
    found: Dict[str, int] = {}
    for layer in layers:
        found[layer["precision"]] = found.get(layer["precision"], 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
