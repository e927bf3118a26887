"""From any source to a true FP32 ONNX file: the export stage. Frameworks are imported only where they are needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from engines import tensors
from engines.errors import ModelError, UsageError
from engines.jsonfile import replacing_file
from engines.spec import Progress, RunnerSpec, TensorSpec, quiet

_MODULES: Dict[str, str] = {
    "keras-zip": "keras",
    "keras-hdf5": "keras",
    "savedmodel": "tensorflow",
    "torch-pt2": "torch",
    "torchscript": "torch",
    "torch-state-dict": "torch",
    "onnx": "onnxfile",
}
"""Each module has `trace(spec, opset, batch, progress) -> Traced`."""

_LARGEST = 2**31 - 2**20
"""A protobuf message, and so an ONNX file without external data, holds less than 2 GiB."""

SOURCE_PRECISION = "source_precision"
"""Key in the file's metadata: `mixed` where the source computes in another format and the graph in float32."""


def export(
    spec: Mapping[str, Any],
    out: str,
    opset: int = 17,
    batch: Union[str, int] = "dynamic",
    layout: str = "",
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Write a model as a true FP32 ONNX graph: a child-process stage.

    Args:
        spec: RunnerSpec of the source, as JSON.
        out: The file to write; it appears whole or not at all.
        opset: 13 to 17. An ONNX source keeps its own within that range.
        batch: `dynamic`, or a number that the graph is fixed to.
        layout: NHWC or NCHW of image inputs of the graph; empty keeps the source's.
        progress: Told the steps.

    Returns:
        `onnx` (path); `spec` of the source, with its own inputs, outputs and layout filled in; `boundary`, what the
        graph has instead: `inputs`, `outputs`, `layout`; `opset`; and `graph`: operators by count, `casts`,
        `batchnorm`, `transposes_inside`, `parameters`; and `names`: what tensors were called before, by what they are
        called now.

    Raises:
        UsageError: An opset, batch or layout out of range, an input size that is needed, or a model that is no
            classifier without its task.
        ModelError: The source cannot be loaded or converted, is fixed to another batch, or takes samples that nothing
            can hold.
        IncompatibleError: A framework is missing.
    """
    from optimize.exporters import graph
    from optimize.exporters.graph import boundary, names
    from optimize.exporters.graph.net import Net
    from optimize.exporters.onnxfile import check_operators

    source = RunnerSpec.from_json(spec)
    name = Path(source.path).name
    if not graph.OPSETS[0] <= opset <= graph.OPSETS[1]:
        raise UsageError(f"opset {opset}: {graph.OPSETS[0]} to {graph.OPSETS[1]} can be written")
    if batch != "dynamic" and (isinstance(batch, str) or batch < 1):
        raise UsageError(f"batch {batch}: a number from 1, or dynamic, is expected")
    if source.kind not in _MODULES:
        raise UsageError(f"{name}: a {source.kind} cannot be exported", "give the model that it was built from")
    if source.input_shape is not None:
        boundary.check_size(source.input_shape, name)
    exporter = importlib.import_module(f"optimize.exporters.{_MODULES[source.kind]}")
    traced = exporter.trace(source, opset, batch, progress)
    _check_task(source, traced.outputs)
    check_operators(traced.model, name)
    progress("cleaning up the graph", 0, 0)
    known = {output for node in traced.model.graph.node for output in node.output}
    net = Net(traced.model)
    boundary.rename(net, [t.name for t in traced.inputs], [t.name for t in traced.outputs])
    boundary.set_batch(net, batch, name, _sizes(source, traced))
    mixed = graph.mixed(net)
    boundary.set_layout(net, traced.layout, layout)
    graph.clean(net)
    before = names.tidy(net, known)
    boundary.settle_outputs(net, batch, name)
    made = graph.finish(net, name.rsplit(".", 1)[0])
    if mixed:
        made.metadata_props.add(key=SOURCE_PRECISION, value="mixed")
    if made.ByteSize() > _LARGEST:
        raise ModelError(f"{name}: the graph is larger than 2 GiB, more than one ONNX file can hold")
    progress("writing", 0, 0)
    with replacing_file(out) as part:
        part.write_bytes(made.SerializeToString())
    filled = source.with_(inputs=traced.inputs, outputs=traced.outputs, layout=traced.layout)
    return {
        "onnx": out,
        "spec": filled.to_json(),
        "boundary": {
            "inputs": [vars(t) for t in boundary.specs(net, "input")],
            "outputs": [vars(t) for t in boundary.specs(net, "output")],
            "layout": layout or traced.layout,
        },
        "opset": net.opset,
        "graph": graph.summary(net),
        "names": before,
    }


def _check_task(source: RunnerSpec, outputs: Sequence[TensorSpec]) -> None:
    """Refuse a model that is no classifier before minutes go by in checks and measurements that suit one."""
    first = outputs[0]
    if source.task == "classify" and any(size != 1 for size in first.shape[2:]):
        raise UsageError(
            f"{Path(source.path).name} is no classifier: it gives {first.name} of {tensors.text(first.shape)}, "
            "not of (batch, classes)",
            "--task tensors",
        )


def _sizes(source: RunnerSpec, traced: Any) -> Optional[Any]:
    """The first input's shape without the batch: what the user gave, else what the source says."""
    if source.input_shape is not None:
        return source.input_shape
    known = traced.inputs[0].shape[1:]
    return None if None in known else known
