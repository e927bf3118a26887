"""The clean-up of an exported graph: true FP32, folded, without a node that inference does not need.

Every rewrite keeps the result, but for rounding; `tests/optimize/exporters` holds each against ONNX Runtime.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, Tuple

from engines.errors import ModelError
from optimize.exporters.graph import affine, constants, layout, noop, pads, precision, taps
from optimize.exporters.graph.net import Net, opset

OPSETS = (13, 17)
"""The first and last operator set written: per-channel Q/DQ needs 13, TensorRT 8.5 reads up to 17."""

IR = 8
"""IR version written: that of opset 15 to 17, which TensorRT 8.5's parser and ONNX Runtime 1.16 read."""

_PASSES: Tuple[Callable[[Net], bool], ...] = (
    constants.initializers,
    constants.fold,
    precision.to_float32,
    noop.idle,
    constants.shapes,
    layout.explicit,
    layout.cancel,
    layout.share,
    layout.pull_up,
    layout.push_down,
    layout.reduce,
    layout.flatten,
    layout.absorb,
    noop.slices,
    noop.reshapes,
    noop.pooling,
    noop.dense,
    pads.merge,
    taps.crop,
    affine.fold,
)

_ROUNDS = 10000
"""More than any graph needs: every pass removes a node or moves one towards the boundary."""


def mixed(net: Net) -> bool:
    """Whether a graph computes in another floating-point format than float32 anywhere."""
    return precision.other_floats(net)


def clean(net: Net) -> None:
    """Rewrite a graph, in place, until no pass finds anything more to do."""
    net.sweep()
    for _ in range(_ROUNDS):
        if not any(step(net) for step in _PASSES):
            break
    net.sweep()


def finish(net: Net, name: str) -> Any:
    """The ModelProto to write: of a known IR version, without what is not needed, and checked.

    Raises:
        ModelError: The graph is not valid.
    """
    import onnx

    model = net.model()
    model.ir_version = IR
    model.producer_name, model.producer_version, model.doc_string, model.model_version = "optimize", "", "", 0
    model.graph.name, model.graph.doc_string = name, ""
    version = opset(model)
    del model.opset_import[:], model.metadata_props[:], model.training_info[:]
    model.opset_import.append(onnx.helper.make_opsetid("", version))
    for node in model.graph.node:
        node.doc_string = ""
        if "metadata_props" in node.DESCRIPTOR.fields_by_name:
            del node.metadata_props[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{name}: the graph is not valid ONNX: {error}") from None
    return model


def summary(net: Net) -> Dict[str, Any]:
    """What a graph holds: nodes by operator, what a clean one has none of, and the number of parameters."""
    counts = Counter(node.op_type for node in net.nodes)
    middle = [n for n in net.nodes if n.op_type == "Transpose" and n.input[0] not in net.inputs]
    return {
        "nodes": dict(counts.most_common()),
        "casts": counts["Cast"],
        "batchnorm": counts["BatchNormalization"],
        "transposes_inside": sum(n.output[0] not in net.outputs for n in middle),
        "parameters": int(sum(v.size for v in net.constants.values() if v.dtype.name == "float32")),
    }
