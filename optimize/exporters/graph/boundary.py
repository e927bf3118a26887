"""The boundary of a graph: names, batch, image size, and the layout of image inputs."""

from __future__ import annotations

import math
from typing import Any, List, Optional, Sequence, Union

from engines.errors import ModelError, UsageError
from engines.spec import TensorSpec
from engines.tensors import text
from optimize.exporters.graph.layout import to_first, to_last
from optimize.exporters.graph.net import Net

BATCH = "batch"
"""Name of the free batch dimension."""

_MOST_BYTES = 1 << 31
"""Of one sample of one input in float32: a message of protobuf, and so a request over gRPC or a tensor in an ONNX file,
holds less (https://protobuf.dev/programming-guides/encoding/#size-limit)."""


def check_size(shape: Sequence[Optional[int]], name: str, tensor: str = "the input") -> None:
    """Refuse samples that nothing can hold, before anything of their size is made.

    Args:
        shape: Of a sample, without the batch; free sizes count as 1.
        name: Of the model, for the message.
        tensor: For the message.

    Raises:
        ModelError: A sample of 2 GiB or more in float32.
    """
    count = math.prod(n or 1 for n in shape)
    if 4 * count >= _MOST_BYTES:
        raise ModelError(
            f"{name}: one sample of {tensor} is {text(shape)}, {4 * count:.3g} bytes in float32: "
            f"less than {_MOST_BYTES:.3g} are taken",
            "export the model with smaller inputs",
        )


def shape_of(item: Any) -> List[Optional[int]]:
    """The declared shape of an input or output, None where a dimension is free."""
    return [int(d.dim_value) if d.HasField("dim_value") else None for d in item.type.tensor_type.shape.dim]


def set_shape(item: Any, shape: Sequence[Union[int, str, None]]) -> None:
    """Declare the shape of an input or output: numbers, names, or None for free dimensions without one."""
    dims = item.type.tensor_type.shape
    del dims.dim[:]
    item.type.tensor_type.shape.SetInParent()
    for n in shape:
        dim = dims.dim.add()
        if isinstance(n, str):
            dim.dim_param = n
        elif n is not None:
            dim.dim_value = n


def rename(net: Net, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs, in order, the names that the source calls them."""
    for kind, wanted in (("input", inputs), ("output", outputs)):
        items = list(getattr(net.graph, kind))
        if len(items) != len(wanted):
            raise ModelError(f"the exported graph has {len(items)} {kind}s, the model has {len(wanted)}")
    inner = {name for node in net.nodes for name in (*node.input, *node.output)} | set(net.constants)
    new = {item.name: name for item, name in zip((*net.graph.input, *net.graph.output), (*inputs, *outputs))}
    for name in set(new.values()) & (inner - set(new)):
        new[name] = net.name(f"{name}_inner")  # an inner tensor has the name that is wanted
    for node in net.nodes:
        for slots in (node.input, node.output):
            for slot, name in enumerate(slots):
                slots[slot] = new.get(name, name)
    net.constants = {new.get(name, name): value for name, value in net.constants.items()}
    for item in (*net.graph.input, *net.graph.output):
        item.name = new[item.name]
    net.inputs, net.outputs = list(inputs), list(outputs)
    net.changed()


def set_batch(net: Net, batch: Union[str, int], name: str, sizes: Optional[Sequence[int]] = None) -> None:
    """Make the first dimension of every input the batch, free or fixed, and fix the size of an image input.

    Args:
        net: The graph.
        batch: `dynamic`, or a number.
        name: Of the model, for messages.
        sizes: The first input's shape without the batch, where the graph leaves a part of it free.

    Raises:
        ModelError: The graph is fixed to another batch, or a sample is larger than `check_size` takes.
        UsageError: A free dimension besides the batch, and no size given; or a size that does not fit.
    """
    for number, item in enumerate(net.graph.input):
        shape = shape_of(item)
        if not shape:
            raise ModelError(f"{name}: the input {item.name!r} has no batch dimension")
        if shape[0] is not None and shape[0] != batch:
            asked = "a free batch" if batch == "dynamic" else f"batch {batch}"
            raise ModelError(
                f"{name}: the input {item.name!r} is fixed to batch {shape[0]}, {asked} was asked for",
                f"optimize export MODEL --batch {shape[0]}, or export the original again with a free batch",
            )
        rest = shape[1:]
        if number == 0 and sizes is not None:
            if len(sizes) != len(rest) or any(a not in (None, b) for a, b in zip(rest, sizes)):
                raise UsageError(f"--input-shape {text(sizes)} does not fit {name}, which takes {text(rest)}")
            rest = list(sizes)
        check_size(rest, name, f"the input {item.name!r}")
        if None in rest:
            raise UsageError(
                f"{name} takes {text(rest)}: its size is free", "give it with --input-shape, such as 3x224x224"
            )
        set_shape(item, [BATCH if batch == "dynamic" else batch, *rest])
    net.changed()


def settle_outputs(net: Net, batch: Union[str, int], name: str) -> None:
    """Declare the shapes of the outputs as they are inferred, the batch by its name.

    Raises:
        ModelError: An output does not carry the batch that its input has, or nothing tells its number of axes.
    """
    declared = {o.name: tuple(shape_of(o)) for o in net.graph.output if o.type.tensor_type.HasField("shape")}
    for item in net.graph.output:
        item.type.tensor_type.ClearField("shape")
    net.changed()
    shapes = net.shapes
    for item in net.graph.output:
        shape = shapes.get(item.name, declared.get(item.name))
        if shape is None:
            raise ModelError(f"{name}: the shape of the output {item.name!r} cannot be inferred")
        if batch == "dynamic" and shape and shape[0] is not None:
            raise ModelError(
                f"{name}: the output {item.name!r} has the fixed batch {shape[0]}: the model fixes it inside",
                f"optimize export MODEL --batch {shape[0]}",
            )
        first: List[Union[int, str, None]] = [BATCH if batch == "dynamic" else shape[0]] if shape else []
        set_shape(item, [*first, *shape[1:]])
        item.type.tensor_type.elem_type = net.types.get(item.name, item.type.tensor_type.elem_type)
    net.changed()


def set_layout(net: Net, have: str, want: str) -> bool:
    """Change image inputs (four axes) from one layout to the other, by a Transpose that the clean-up then moves.

    Returns:
        Whether anything changed.
    """
    from onnx import helper

    if not want or want == have:
        return False
    found = False
    for item in net.graph.input:
        shape = shape_of(item)
        if len(shape) != 4:
            continue
        labels = [d.dim_param for d in item.type.tensor_type.shape.dim]
        named: List[Union[int, str, None]] = [label or n for label, n in zip(labels, shape)]
        turned = to_last(4) if want == "NHWC" else to_first(4)
        back = to_first(4) if want == "NHWC" else to_last(4)
        inner = net.name(f"{item.name}_{have.lower() or 'source'}")
        net.rewire(item.name, inner)
        set_shape(item, [named[axis] for axis in turned])
        net.nodes.insert(0, helper.make_node("Transpose", [item.name], [inner], name=inner, perm=list(back)))
        net.changed()
        found = True
    return found


def specs(net: Net, kind: str) -> List[TensorSpec]:
    """The inputs (`kind` input) or outputs (output) as TensorSpecs."""
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype
    return [
        TensorSpec(item.name, tuple(shape_of(item)), dtype(item.type.tensor_type.elem_type).name)
        for item in getattr(net.graph, kind)
    ]
