"""Constants: `Constant` nodes become initializers, and whatever is computed from constants alone is computed once."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Union

import numpy as np

from engines.errors import ModelError
from optimize.exporters.graph.net import Net, attributes, set_attribute

_LARGEST = 64 * 1024 * 1024
"""Largest result, bytes, that is stored in place of the nodes that compute it, unless its inputs are as large."""

_VARYING = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def initializers(net: Net) -> bool:
    """Turn `Constant` nodes into initializers."""
    from onnx import numpy_helper

    found = []
    for node in net.nodes:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or node.output[0] in net.outputs:
            continue
        (kind,) = (item.name for item in node.attribute)
        value = attributes(node)[kind]
        if kind == "value":
            net.constants[node.output[0]] = np.asarray(numpy_helper.to_array(value))
        elif kind in ("value_float", "value_floats"):
            net.constants[node.output[0]] = np.asarray(value, np.float32)
        elif kind in ("value_int", "value_ints"):
            net.constants[node.output[0]] = np.asarray(value, np.int64)
        else:
            continue
        found.append(id(node))
    if found:
        net.nodes = [node for node in net.nodes if id(node) not in found]
        net.changed()
    return bool(found)


def fold(net: Net) -> bool:
    """Compute every node whose inputs are all constant, on ONNX Runtime in one run, and keep the results.

    Raises:
        ModelError: The runtime refuses a node.
    """
    computed: Dict[str, Any] = {}
    nodes: List[Any] = []
    for node in net.nodes:
        known = all(not name or name in net.constants or name in computed for name in node.input)
        whole = known and node.op_type not in _VARYING and node.domain in ("", "ai.onnx")
        if whole and not any(item.HasField("g") or item.graphs for item in node.attribute):
            nodes.append(node)
            computed.update((name, node) for name in node.output if name)
    inner = {id(node) for node in nodes}
    wanted = [
        name
        for name in computed
        if name not in net.outputs and any(id(reader) not in inner for reader, _ in net.readers.get(name, ()))
    ]
    if not wanted:
        return False
    values = _run(net, nodes, wanted)
    limit = max([_LARGEST, *(value.nbytes for value in net.constants.values())])
    kept = {name: value for name, value in values.items() if value.nbytes <= limit}
    fresh = [name for name in kept if name not in net.constants]
    for name in fresh:
        net.constants[name] = kept[name]
        for slot, result in enumerate(computed[name].output):
            if result == name:
                computed[name].output[slot] = ""
    net.nodes = [n for n in net.nodes if any(n.output)]
    net.changed()
    net.sweep()
    return bool(fresh)


def _run(net: Net, nodes: List[Any], wanted: List[str]) -> Dict[str, Any]:
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    used = {name for node in nodes for name in node.input}
    made = {name for node in nodes for name in node.output}
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [helper.make_empty_tensor_value_info(name) for name in wanted],
        [numpy_helper.from_array(value, name) for name, value in net.constants.items() if name in used - made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(wanted, {})))
    except Exception as error:  # the runtime's exceptions share no base class
        raise ModelError(f"a constant part of the graph cannot be computed: {error}") from None


def shapes(net: Net) -> bool:
    """Give a Reshape that computes its shape from other shapes a constant one, where that is certain.

    Exporters write `Shape`, `Gather`, `Concat` to carry a free batch through a Reshape; 0 (the input's own dimension)
    or -1 carries it as well.
    """
    found = False
    for node in list(net.nodes):
        if node.op_type != "Reshape" or node.input[1] in net.constants:
            continue
        value = _target(net, node)
        if value is not None:
            node.input[1] = net.add_constant(f"{node.output[0]}_shape", np.asarray(value, np.int64))
            set_attribute(node, "allowzero", None)
            net.changed()
            found = True
    return found and (net.sweep() or True)


def _target(net: Net, node: Any) -> Optional[List[int]]:
    shape = net.shapes.get(node.output[0])
    if shape is not None and sum(n is None for n in shape) <= 1 and 0 not in shape:
        return [-1 if n is None else n for n in shape]
    dims = _dims(net, node.input[1])
    if dims is None or 0 in dims:
        return None
    labels = net.labels.get(node.input[0], ())
    own = [0 if i < len(labels) and labels[i] and labels[i] == n else n for i, n in enumerate(dims)]
    value = [n if isinstance(n, int) else -1 for n in own]
    return value if value.count(-1) <= 1 else None


_Dim = Union[int, str, None]
"""A number, the name of a free dimension, or not known."""


def _dims(net: Net, name: str) -> Optional[List[_Dim]]:
    """The numbers in a small integer tensor that is computed from shapes; None where even their count is not known."""
    constant, node = net.constants.get(name), net.makers.get(name)
    if constant is not None:
        return [int(n) for n in constant.reshape(-1)] if constant.dtype.kind == "i" and constant.ndim < 2 else None
    if node is None:
        return None
    given = attributes(node)
    if node.op_type == "Shape":
        whole = net.shapes.get(node.input[0])
        labels = net.labels.get(node.input[0], ())
        if whole is None:
            return None
        dims: List[_Dim] = [n if n is not None else (label or None) for n, label in zip(whole, labels)]
        return dims[given.get("start", 0) : given.get("end", len(dims))]
    if node.op_type == "Concat":
        parts = [_dims(net, item) for item in node.input]
        return None if None in parts else [n for part in parts if part is not None for n in part]
    if node.op_type not in ("Cast", "Identity", "Unsqueeze", "Squeeze", "Gather", "Slice"):
        return None
    source = _dims(net, node.input[0])
    if source is None or node.op_type in ("Cast", "Identity", "Unsqueeze", "Squeeze"):
        return source
    if node.op_type == "Gather":
        indices = net.constant(node, 1)
        return None if indices is None else [source[int(i)] for i in indices.reshape(-1)]
    cut = [net.ints(node, slot, word) for slot, word in ((1, "starts"), (2, "ends"), (4, "steps"))]
    if cut[0] is None or cut[1] is None or (cut[2] or [1]) != [1] or len(cut[0]) != 1:
        return None
    return source[cut[0][0] : cut[1][0]]
