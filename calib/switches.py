"""A quantised graph with layers taken back to float: by switches in the running graph, or each mix as its own graph.

A search over layers measures hundreds of mixes. Writing, loading and compiling a graph for each costs far more than
running a few images through it. So in `Switchboard` every quantised activation is read through
`Where(switch, quantised, float)`, and weights stay as they were quantised, folded into constants (as inputs of a Where
they would cost six times the rest). `mix` writes a mix as it will be built, weights included, for what the search must
know exactly. Both compute in float32 what QuantizeLinear and DequantizeLinear say, which backends follow to rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Collection, Dict, FrozenSet, List, Mapping, Tuple, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import placement, ranges
from engines.errors import ModelError

_SWITCHES = "optimize/switches"

Name = Tuple[str, int]
"""An edge by its node's name and its slot, which are the same in both graphs."""

Feeds = Mapping[str, npt.NDArray[Any]]
Run = List[npt.NDArray[Any]]


class Switchboard:
    """A graph in FP32 and in INT8, and everything between.

    Args:
        onnx: FP32 graph.
        quantised: The same graph with Q/DQ pairs, as `calib.quantize` wrote it.
        target: Placement that the pairs follow.
        keep: Layers that are float in the quantised graph too.
        threads: Of ONNX Runtime; 0 leaves the choice to it.

    Attributes:
        kept: Layers that are always float.
        layers: Names of the nodes whose weight is quantised, in the order of the graph.
        macs: Multiply-accumulates of each for one image, 0 where a shape is unknown.

    Raises:
        ModelError: The two are not forms of one graph.
    """

    def __init__(
        self,
        onnx: Union[str, Path],
        quantised: Union[str, Path],
        target: str,
        keep: Collection[str] = (),
        threads: int = 0,
    ) -> None:
        self._plain, self._quantised = graphs.load(onnx), graphs.load(quantised)
        self._view, self._target, self._threads = graphs.Graph(self._plain), target, threads
        self.kept = tuple(keep)
        self._names = [node.name for node in self._view.nodes]
        weights = [weight.edge.node for weight in placement.points(self._view, target, self.kept).weights]
        self.layers = [self._names[node] for node in weights]
        _plain_biases(self._plain, self._quantised)
        self._edges = _edges(self._plain, self._quantised)
        if not set(self.layers) <= {name for name, _ in self._edges}:
            raise ModelError(f"{quantised} is not the quantised form of {onnx}", "calibrate the graph again")
        self.macs = {self._names[node]: self._view.multiplications(node) for node in weights}
        self._switched = [edge for edge, plain in self._edges.items() if plain not in self._view.constants]
        self._session = self._open({edge: self._edges[edge] for edge in self._switched})
        self._batch = ranges.fixed_batch(self._session)

    def quantised_edges(self, kept: Collection[str]) -> FrozenSet[Name]:
        """Edges that stay quantised where the layers `kept` stay float."""
        place = placement.points(self._view, self._target, (*self.kept, *kept))
        found = [edge for edges in place.activations.values() for edge in edges]
        found += [weight.edge for weight in place.weights]
        found += [bias.edge for bias in place.biases]
        return frozenset((self._names[edge.node], edge.slot) for edge in found)

    def run(self, feeds: Feeds, kept: Collection[str]) -> Run:
        """Outputs of one batch where the layers `kept` read float activations; all weights are quantised."""
        on = self.quantised_edges(kept)
        return self._run(self._session, {**feeds, _SWITCHES: np.array([edge in on for edge in self._switched])})

    def mix(self, kept: Collection[str]) -> Mix:
        """The graph in which the layers `kept` are float, weights and biases as well."""
        on = self.quantised_edges(kept)
        session = self._open({}, [edge for edge in self._edges if edge not in on])
        return Mix(self, session)

    def _run(self, session: Any, feeds: Feeds) -> Run:
        images = {name: value for name, value in feeds.items() if name != _SWITCHES}
        count = len(next(iter(images.values())))
        results = session.run(None, {**feeds, **ranges.pad(images, self._batch)})
        return [np.array(value[:count], np.float32) for value in results]

    def _open(self, switched: Mapping[Name, str], undone: Collection[Name] = ()) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        model = type(self._quantised).FromString(self._quantised.SerializeToString())
        constants = {item.name: item for item in self._plain.graph.initializer}
        known = {item.name for item in model.graph.initializer}
        position = {edge: index for index, edge in enumerate(switched)}
        fresh: List[Any] = []
        for node in model.graph.node:
            for slot, name in enumerate(node.input):
                edge = (node.name, slot)
                if edge in undone:
                    node.input[slot] = plain = self._edges[edge]
                    if plain in constants and plain not in known:
                        model.graph.initializer.append(constants[plain])
                        known.add(plain)
                elif edge in switched:
                    stem = f"{_SWITCHES}/{position[edge]}"
                    index = numpy_helper.from_array(np.array(position[edge], np.int64), f"{stem}/index")
                    model.graph.initializer.append(index)
                    fresh.append(helper.make_node("Gather", [_SWITCHES, index.name], [f"{stem}/on"], f"{stem}/on"))
                    fresh.append(helper.make_node("Where", [f"{stem}/on", name, switched[edge]], [stem], stem))
                    node.input[slot] = stem
            fresh.append(node)
        copies = [type(node).FromString(node.SerializeToString()) for node in fresh]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        if switched:
            model.graph.input.append(helper.make_tensor_value_info(_SWITCHES, TensorProto.BOOL, [len(switched)]))
        return ranges.session(model.SerializeToString(), self._threads, simulate=True)


class Mix:
    """One mix of INT8 and float layers, ready to run."""

    def __init__(self, board: Switchboard, session: Any) -> None:
        self._board, self._session = board, session

    def run(self, feeds: Feeds) -> Run:
        """Outputs of one batch, in order, float32."""
        return self._board._run(self._session, feeds)


def _plain_biases(plain: Any, quantised: Any) -> None:
    """Give the layers of a quantised graph their FP32 biases back, in place.

    Corrected biases make up for the errors of one mix; of a graph that INT8 has ruined they would ruin every other.
    """
    nodes = {node.name: node for node in plain.graph.node}
    constants = {item.name: item for item in plain.graph.initializer}
    made = {node.output[0] for node in quantised.graph.node}
    known = {item.name for item in quantised.graph.initializer}
    for node in quantised.graph.node:
        before = nodes.get(node.name)
        if before is None or node.op_type not in graphs.COMPUTE or len(node.input) < 3 or node.input[2] in made:
            continue
        del node.input[2:]
        node.input.extend(before.input[2:])
        for name in before.input[2:]:
            if name in constants and name not in known:
                quantised.graph.initializer.append(constants[name])
                known.add(name)


def _edges(plain: Any, quantised: Any) -> Dict[Name, str]:
    """Edges that read a DequantizeLinear in the quantised graph, and what they read in the FP32 graph."""
    nodes = {node.name: node for node in plain.graph.node}
    made = {node.output[0] for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    return {
        (node.name, slot): nodes[node.name].input[slot]
        for node in quantised.graph.node
        for slot, name in enumerate(node.input)
        if name in made and node.name in nodes and slot < len(nodes[node.name].input)
    }
