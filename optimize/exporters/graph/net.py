"""A graph that can be rewritten: nodes in order, constants as arrays, and who makes and reads each tensor."""

from __future__ import annotations

from typing import Any, Container, Dict, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

Shape = Tuple[Optional[int], ...]
"""A tensor's shape, None where a dimension is free."""

INSIDE = -1
"""The slot of a reader that reads a tensor inside a subgraph of its own (If, Loop): such tensors keep their names."""

_SEEN_BY_INFERENCE = 1024
"""Constants of at most so many elements are shown to shape inference: shapes and axes are, weights are not."""


def opset(model: Any) -> int:
    """Version of the default operator set; 0 where none is named."""
    return max((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


def attributes(node: Any) -> Dict[str, Any]:
    """A node's attributes as Python values; strings decoded."""
    from onnx import helper

    found = {}
    for item in node.attribute:
        value = helper.get_attribute_value(item)
        found[item.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Set an attribute of a node, replacing one of that name; None removes it."""
    from onnx import helper

    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


class Net:
    """A ModelProto under work. `model()` gives the rewritten one; the one it was made from stays as it was.

    Attributes:
        nodes: In topological order.
        constants: Initializers by name.
        inputs, outputs: Names of what a caller feeds and gets.
        opset: Of the default domain.
    """

    def __init__(self, model: Any) -> None:
        from onnx import ModelProto, numpy_helper

        self._frame = ModelProto()
        self._frame.CopyFrom(model)
        graph = self._frame.graph
        self.nodes: List[Any] = list(graph.node)
        self.constants: Dict[str, npt.NDArray[Any]] = {
            item.name: np.asarray(numpy_helper.to_array(item)) for item in graph.initializer
        }
        kept = [item for item in graph.input if item.name not in self.constants]
        del graph.input[:]
        graph.input.extend(kept)
        self.inputs = [item.name for item in graph.input]
        self.outputs = [item.name for item in graph.output]
        self.opset = opset(model)
        # metadata_props is there since onnx 1.16
        for field in ("node", "initializer", "value_info", "metadata_props", "quantization_annotation"):
            if hasattr(graph, field):
                del getattr(graph, field)[:]
        self._shapes: Optional[Dict[str, Shape]] = None
        self._types: Dict[str, int] = {}
        self.labels: Dict[str, Tuple[str, ...]] = {}
        """Names of free dimensions, as of the last inference; equal ones are equal numbers."""
        self._taken = {name for node in self.nodes for name in node.output} | set(self.constants) | set(self.inputs)
        self.changed()

    @property
    def graph(self) -> Any:
        """The GraphProto that holds inputs and outputs (its nodes and initializers are kept here instead)."""
        return self._frame.graph

    def changed(self) -> None:
        """Say that nodes were rewired: the maps are made again, shapes when they are next asked for."""
        self.makers: Dict[str, Any] = {}
        self.readers: Dict[str, List[Tuple[Any, int]]] = {}
        for node in self.nodes:
            for name in node.output:
                if name:
                    self.makers[name] = node
            for slot, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append((node, slot))
            for name in (n for item in node.attribute for n in _outer(item)):
                self.readers.setdefault(name, []).append((node, INSIDE))
        self._shapes = None

    @property
    def shapes(self) -> Dict[str, Shape]:
        """Inferred shapes; tensors of unknown rank are absent."""
        if self._shapes is None:
            self._infer()
        assert self._shapes is not None
        return self._shapes

    @property
    def types(self) -> Dict[str, int]:
        """Inferred element types, as TensorProto's enumeration."""
        if self._shapes is None:
            self._infer()
        return self._types

    def _infer(self) -> None:
        from onnx import helper, shape_inference

        hidden = {k: v for k, v in self.constants.items() if v.size > _SEEN_BY_INFERENCE}
        model = self.model(without=hidden)
        for name, value in hidden.items():
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, dtype, value.shape))
        try:
            model = shape_inference.infer_shapes(model, data_prop=True)
        except (RuntimeError, ValueError):  # shapes that contradict: the checker will say so with a name
            model = self.model(without=hidden)
        self._shapes, self._types, self.labels = {}, {}, {}
        for item in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            kind = item.type.tensor_type
            self._types[item.name] = int(kind.elem_type)
            if kind.HasField("shape"):
                self._shapes[item.name] = tuple(
                    int(d.dim_value) if d.HasField("dim_value") else None for d in kind.shape.dim
                )
                self.labels[item.name] = tuple(d.dim_param for d in kind.shape.dim)
        for name, value in self.constants.items():
            self._shapes[name] = tuple(value.shape)
            self._types[name] = int(helper.np_dtype_to_tensor_dtype(value.dtype))

    def rank(self, name: str) -> int:
        """Of a tensor; -1 where it is not known."""
        return len(self.shapes[name]) if name in self.shapes else -1

    def sole_reader(self, name: str) -> Optional[Any]:
        """The one node that reads a tensor that is no output, or None. A node that reads it twice does not count."""
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and readers[0][1] != INSIDE and name not in self.outputs
        return readers[0][0] if alone else None

    def inside(self, name: str) -> bool:
        """Whether a subgraph reads a tensor."""
        return any(slot == INSIDE for _, slot in self.readers.get(name, ()))

    def constant(self, node: Any, slot: int) -> Optional[npt.NDArray[Any]]:
        """The value of a node's input where it is constant, else None."""
        return self.constants.get(node.input[slot]) if slot < len(node.input) else None

    def ints(self, node: Any, slot: int, name: str) -> Optional[List[int]]:
        """Integers that are an input in newer operator sets and an attribute in older ones; None where absent."""
        if slot < len(node.input) and node.input[slot]:
            value = self.constant(node, slot)
            return None if value is None else [int(n) for n in value.reshape(-1)]
        value = attributes(node).get(name)
        return None if value is None else [int(n) for n in value]

    def name(self, wish: str) -> str:
        """A tensor name that nothing has yet."""
        found, count = wish, 1
        while found in self._taken:
            count += 1
            found = f"{wish}_{count}"
        self._taken.add(found)
        return found

    def add_constant(self, wish: str, value: npt.NDArray[Any]) -> str:
        """Put a new constant in, and return its name."""
        name = self.name(wish)
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def insert(self, before: Any, op: str, inputs: Sequence[str], wish: str, **attrs: Any) -> str:
        """Put a new node before another one, and return the name of its result."""
        from onnx import helper

        result = self.name(wish)
        node = helper.make_node(op, list(inputs), [result], name=result, **attrs)
        self.nodes.insert(self.index(before), node)
        return result

    def index(self, node: Any) -> int:
        """Where a node stands in the order."""
        return next(i for i, item in enumerate(self.nodes) if item is node)

    def remove(self, node: Any) -> None:
        """Take a node out of the order; whoever reads its result must have been rewired."""
        del self.nodes[self.index(node)]

    def rewire(self, old: str, new: str) -> None:
        """Let every node that reads `old` read `new`."""
        for node in self.nodes:
            for slot, name in enumerate(node.input):
                if name == old:
                    node.input[slot] = new

    def bypass(self, node: Any, source: str = "") -> bool:
        """Remove a node whose result equals `source` (its first input by default), keeping the names of outputs.

        Returns:
            False where the node must stay, because it joins an output to an input, a constant or another output.
        """
        source, result = source or node.input[0], node.output[0]
        if self.inside(result) or self.inside(source):
            return False
        if result in self.outputs:
            maker = self.makers.get(source)
            if maker is None or source in self.outputs:
                return False
            slot = list(maker.output).index(source)
            maker.output[slot] = result
            self.remove(node)
            self.rewire(source, result)
        else:
            self.remove(node)
            self.rewire(result, source)
        self.changed()
        return True

    def sweep(self) -> bool:
        """Remove nodes and constants that nothing reads."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if any(name in needed for name in node.output):
                kept.append(node)
                needed.update(name for name in node.input if name)
                needed.update(name for item in node.attribute for name in _outer(item))
        found = len(kept) < len(self.nodes)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
        if found:
            self.changed()
        return found

    def model(self, without: Container[str] = ()) -> Any:
        """The graph as it is now, as a ModelProto; constants named in `without` are left out."""
        from onnx import ModelProto, numpy_helper

        made = ModelProto()
        made.CopyFrom(self._frame)
        made.graph.node.extend(self.nodes)
        made.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name not in without
        )
        return made


def _outer(attribute: Any) -> List[str]:
    """Names that the subgraphs of an attribute may read from outside."""
    found = []
    for graph in (attribute.g, *attribute.graphs):
        found += [item.name for item in graph.output]
        for node in graph.node:
            found += list(node.input)
            found += [name for item in node.attribute for name in _outer(item)]
    return found
