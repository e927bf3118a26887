"""ONNX files as sources: read, checked, and brought to an operator set that every backend reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Tuple, Union

from engines import onnxfile
from engines.errors import ModelError
from engines.spec import Progress, RunnerSpec, quiet
from engines.tensors import layout
from optimize.exporters.graph import OPSETS
from optimize.exporters.graph.boundary import specs
from optimize.exporters.graph.net import Net, opset
from optimize.exporters.traced import Traced


def trace(spec: RunnerSpec, wanted: int, batch: Union[str, int], progress: Progress = quiet) -> Traced:
    """Read an ONNX file with its external data; its operator set is changed only where it is outside 13 to 17.

    Raises:
        ModelError: Not a whole ONNX file, an operator that is not standard, or one that cannot be converted.
    """
    import onnx

    progress("reading the graph", 0, 0)
    path = Path(spec.path)
    model = inlined(onnxfile.load(path), path.name)
    check_operators(model, path.name)
    version = opset(model)
    if not OPSETS[0] <= version <= OPSETS[1]:
        progress(f"converting opset {version} to {wanted}", 0, 0)
        try:
            model = onnx.version_converter.convert_version(model, wanted)
        except Exception as error:  # the converter is C++: what it raises differs between versions
            raise ModelError(
                f"{path.name} has opset {version} and cannot be converted to {wanted}: {onnxfile.first_line(error)}",
                f"export it again with opset {OPSETS[0]} to {OPSETS[1]}",
            ) from None
    net = Net(model)
    inputs, outputs = tuple(specs(net, "input")), tuple(specs(net, "output"))
    if not inputs:
        raise ModelError(f"{path.name}: the graph has no input")
    return Traced(model, inputs, outputs, spec.layout or layout(inputs[0].shape, "NCHW"))


def inlined(model: Any, name: str) -> Any:
    """The model without local functions.

    Raises:
        ModelError: It has some, and this version of onnx cannot inline them.
    """
    if not len(model.functions):
        return model
    try:
        from onnx import inliner
    except ImportError:
        raise ModelError(f"{name}: the graph has local functions, which onnx before 1.15 cannot inline") from None
    return inliner.inline_local_functions(model)


def check_operators(model: Any, name: str) -> None:
    """Refuse operators that are not of the ONNX standard.

    Raises:
        ModelError: Names the first one, and its node.
    """
    from onnx import defs

    version = opset(model)
    for node in _nodes(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            known = not domain and bool(defs.get_schema(node.op_type, version, "").since_version)
        except defs.SchemaError:
            known = False
        if not known:
            where = node.name or (node.output[0] if len(node.output) else "?")
            full = f"{domain}::{node.op_type}" if domain else node.op_type
            raise ModelError(
                f"{name}: the operator {full} at node {where!r} is not in ONNX opset {version}, and no backend runs it",
                "replace it by standard operators in the model",
            )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for item in node.attribute:
            subgraphs: Tuple[Any, ...] = (item.g, *item.graphs) if item.HasField("g") else tuple(item.graphs)
            for inner in subgraphs:
                yield from _nodes(inner)
