"""A simulated graph gives what the written one gives, for any scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from calib import graph, ranges
from calib.methods import Method, scale
from calib.placement import points
from calib.quantize import quantize
from calib.simulation import Simulation

Build = Callable[..., Path]


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
@pytest.mark.parametrize("bits", [7, 8])
def test_a_simulation_computes_as_the_written_graph(
    resnet: Build, images: Any, tmp_path: Path, target: str, bits: int
) -> None:
    source = resnet()
    place = points(graph.load(source), target)
    seen = ranges.collect(source, place.measured(), [{"image": images}])
    nonnegative = [name for name, found in seen.items() if found.nonnegative]
    simulation = Simulation(source, place, nonnegative, bits)
    for method in (Method("minmax"), Method("percentile", 97.0)):
        scales = {name: scale(found, method) for name, found in seen.items()}
        out = tmp_path / f"{method.name}.onnx"
        quantize(source, out, scales, target, nonnegative=nonnegative, weight_bits=bits)
        (expected,) = ranges.session(out, simulate=True).run(None, {"image": images})
        (found,) = simulation.query(scales)({"image": images})
        # Sums in another order, and biases rounded to int32 or not, may move a value over the edge of a step.
        assert np.abs(found - expected).mean() < 2e-3
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95
