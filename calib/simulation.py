"""The quantised graph in float32 arithmetic with its scales as inputs: any ranges are tried without a rebuild.

Writing a graph, loading and compiling it takes a backend longer than running a hundred images (ResNet-34 of 32x32
images in OpenVINO: 0.4 s and 0.04 s). What is found so is confirmed with the backend's own arithmetic.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Collection, Dict, List, Mapping, Union

import numpy as np
import numpy.typing as npt

from calib import graph as graphs
from calib import ranges
from calib.holdout import Query
from calib.placement import Placement
from calib.quantize import insert, quant


class Simulation:
    """A quantised graph whose activation scales are given with every run.

    Args:
        onnx: FP32 graph.
        place: Its placement.
        nonnegative: Tensors without negative values.
        weight_bits: 8 or 7.
    """

    def __init__(
        self, onnx: Union[str, Path], place: Placement, nonnegative: Collection[str], weight_bits: int
    ) -> None:
        from onnx import TensorProto, helper

        model = graphs.load(onnx)
        self._place, self._nonnegative = place, frozenset(nonnegative)
        # A bias in int32 has steps far below those of the activations; in float it depends on no scale.
        insert(model, replace(place, biases=[]), dict.fromkeys(place.measured(), 1.0), nonnegative, weight_bits)
        self._inputs: Dict[str, str] = {}
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear" and node.input[0] in place.activations:
                self._inputs[str(node.input[0])] = str(node.input[1])
        scales = set(self._inputs.values())
        kept = [item for item in model.graph.initializer if item.name not in scales]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        for name in self._inputs.values():
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
        content = model.SerializeToString()
        del model, kept, node  # the session needs the room
        self._session = ranges.session(content, simulate=True)

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
