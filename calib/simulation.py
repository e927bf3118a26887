"""The quantised graph in float32 arithmetic with its scales as inputs: any ranges are tried without a rebuild.

Writing a graph, loading and compiling it costs a backend more than running it here on hundreds of images (ResNet-34 of
32x32 images in OpenVINO: 0.7 s of processor time, as much as 450 images here), and memory of its own. Backends compute
what Q and DQ say to rounding; the gate measures the engine itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Collection, Dict, List, Mapping, Sequence, Set, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import ranges
from calib.holdout import Query
from calib.placement import Placement, Weight
from calib.quantize import insert, quant, rounded_weight


class Simulation:
    """A quantised graph whose activation scales are given with every run.

    Args:
        onnx: FP32 graph.
        place: Its placement.
        nonnegative: Tensors without negative values.
        weight_bits: 8 or 7.
        change: Done to the FP32 graph before, in place; it keeps the nodes that the placement names.
    """

    def __init__(
        self,
        onnx: Union[str, Path],
        place: Placement,
        nonnegative: Collection[str],
        weight_bits: int,
        change: Callable[[Any], None] = lambda model: None,
    ) -> None:
        from onnx import TensorProto, helper

        self._place, self._nonnegative = place, frozenset(nonnegative)
        self._inputs: Dict[str, str] = {}

        def scaled_by_inputs() -> Any:
            model = graphs.load(onnx)
            change(model)
            _round_weights(model, place.weights, 63 if weight_bits == 7 else 127)
            # A bias in int32 has steps far below those of the activations; in float it depends on no scale.
            activations = replace(place, weights=[], biases=[])
            insert(model, activations, dict.fromkeys(place.measured(), 1.0), nonnegative, weight_bits)
            for node in model.graph.node:
                if node.op_type == "QuantizeLinear" and node.input[0] in place.activations:
                    self._inputs[str(node.input[0])] = str(node.input[1])
            scales = set(self._inputs.values())
            for item in [item for item in model.graph.initializer if item.name in scales]:
                model.graph.initializer.remove(item)
            for name in scales:
                model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
            return model

        self._session = ranges.session_from(scaled_by_inputs, simulate=True)

    def query(self, scales: Mapping[str, float]) -> Query:
        """What runs the graph with these symmetric int8 scales, by measured tensor."""
        feeds: Dict[str, npt.NDArray[Any]] = {}
        for tensor, name in self._inputs.items():
            source = self._place.scale_of.get(tensor, tensor)
            found = quant(float(scales[source]), source in self._nonnegative, self._place.target)
            feeds[name] = np.array(found.scale, np.float32)

        def run(images: Dict[str, npt.NDArray[Any]]) -> List[npt.NDArray[Any]]:
            return list(self._session.run(None, {**images, **feeds}))

        return run


def _round_weights(model: Any, weights: Sequence[Weight], limit: int) -> None:
    """Let layers read what their weights are after quantisation, in place.

    As Q/DQ nodes would say, but nothing has to be computed, or kept twice, when the graph is loaded.
    """
    from onnx import numpy_helper

    view = graphs.Graph(model)
    done: Set[str] = set()
    for weight in weights:
        name = f"{weight.tensor}/rounded/{weight.axis}"
        if name not in done:
            value = view.array(weight.tensor)
            assert value is not None
            rounded = rounded_weight(value, weight.axis, limit)
            model.graph.initializer.append(numpy_helper.from_array(rounded, name))
            done.add(name)
        view.nodes[weight.edge.node].input[weight.edge.slot] = name
