"""Graphs between FP32 and INT8: the two ends are the two graphs, and what lies between is what would be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from calib import graph as graphs
from calib import ranges
from calib.placement import TARGETS, points
from calib.quantize import quantize
from calib.switches import Switchboard
from engines.errors import ModelError

Build = Callable[..., Path]


def scales(onnx: Path, target: str, images: Any, keep: Tuple[str, ...]) -> Dict[str, float]:
    """Min-max scales."""
    seen = ranges.collect(onnx, points(graphs.load(onnx), target, keep).measured(), [{"image": images}])
    return {name: max(found.values.amax / 127, 1e-6) for name, found in seen.items()}


def pair(onnx: Path, folder: Path, target: str, images: Any, keep: Tuple[str, ...] = ()) -> Path:
    out = folder / f"{target}-{len(keep)}.onnx"
    quantize(onnx, out, scales(onnx, target, images, keep), target, keep_float=keep)
    return out


def scores(path: Path, images: Any) -> Any:
    return ranges.session(path, simulate=True).run(None, {"image": images})[0]


@pytest.mark.parametrize("target", TARGETS)
def test_the_ends_are_the_two_graphs_and_a_mix_is_what_would_be_written(
    resnet: Build, images: Any, tmp_path: Path, target: str
) -> None:
    onnx = resnet()
    quantised = pair(onnx, tmp_path, target, images)
    board = Switchboard(onnx, quantised, target)
    feeds = {"image": images}
    assert board.layers[0] == "stem" and len(board.layers) == len(set(board.layers)) == 9
    np.testing.assert_allclose(board.run(feeds, ())[0], scores(quantised, images), atol=1e-6)
    np.testing.assert_allclose(board.mix(()).run(feeds)[0], scores(quantised, images), atol=1e-6)
    np.testing.assert_allclose(board.mix(board.layers).run(feeds)[0], scores(onnx, images), atol=1e-5)
    kept = ("b1_conv1", "b2_conv2")
    written = pair(onnx, tmp_path, target, images, kept)
    near = 0.01 if target == "onnxruntime" else 1e-6  # there a tensor may get a scale of its own, not its source's
    np.testing.assert_allclose(board.mix(kept).run(feeds)[0], scores(written, images), atol=near)


def test_switched_activations_leave_weights_as_they_are(resnet: Build, images: Any, tmp_path: Path) -> None:
    board = Switchboard(resnet(), pair(resnet(), tmp_path, "openvino", images), "openvino")
    feeds = {"image": images}
    ends: List[Any] = [board.run(feeds, kept)[0] for kept in ((), board.layers)]
    exact = board.mix(board.layers).run(feeds)[0]
    assert 0 < np.abs(ends[1] - exact).mean() < np.abs(ends[0] - exact).mean()


def test_corrected_biases_are_those_of_fp32_again(resnet: Build, images: Any, tmp_path: Path) -> None:
    import onnx

    quantised = pair(resnet(), tmp_path, "openvino", images)
    model = onnx.load(str(quantised))
    node = next(node for node in model.graph.node if node.name == "b1_conv1")
    (bias,) = (item for item in model.graph.initializer if item.name == node.input[2])
    changed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(9), "b1_conv1_corrected_bias")
    model.graph.initializer.remove(bias)
    model.graph.initializer.append(changed)
    node.input[2] = changed.name
    corrected = tmp_path / "corrected.onnx"
    onnx.save(model, str(corrected))
    board = Switchboard(resnet(), corrected, "openvino")
    np.testing.assert_allclose(board.mix(()).run({"image": images})[0], scores(quantised, images), atol=1e-6)


def test_a_fixed_batch_is_filled_up(resnet: Build, images: Any, tmp_path: Path) -> None:
    onnx = resnet(batch=4)
    board = Switchboard(onnx, pair(onnx, tmp_path, "openvino", images[:4]), "openvino")
    whole, part = (board.run({"image": images[:n]}, ())[0] for n in (4, 3))
    np.testing.assert_allclose(part, whole[:3], atol=1e-6)
    assert len(board.mix(()).run({"image": images[:1]})[0]) == 1


def test_work_per_layer(resnet: Build, images: Any, mixed_cnn: Path, tmp_path: Path) -> None:
    board = Switchboard(resnet(), pair(resnet(), tmp_path, "openvino", images), "openvino")
    assert board.macs["stem"] == 16 * 16 * 8 * 3 * 9 and board.macs["head"] == 16 * 10
    assert board.macs["b1_conv1"] == 4 * 4 * 16 * 8 * 9  # stride 2 after the pooling
    view = graphs.Graph(graphs.load(mixed_cnn))
    found = {view.nodes[i].name: view.multiplications(i) for i in view.weighted()}
    assert found["depthwise"] == 16 * 16 * 8 * 9 and found["up"] == 16 * 16 * 8 * 4 * 4


def test_another_graph_is_refused(resnet: Build, images: Any, mixed_cnn: Path, tmp_path: Path) -> None:
    quantised = pair(resnet(), tmp_path, "openvino", images)
    with pytest.raises(ModelError, match="not the quantised form"):
        Switchboard(mixed_cnn, quantised, "openvino")


def test_layers_without_a_name_get_one(resnet: Build, images: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(resnet()))
    for node in model.graph.node:
        node.name = ""
    nameless = tmp_path / "nameless.onnx"
    onnx.save(model, str(nameless))
    board = Switchboard(nameless, pair(nameless, tmp_path, "openvino", images), "openvino")
    assert board.layers[0] == "stem_out" and len(set(board.layers)) == 9
    kept = board.mix(board.layers[1:2]).run({"image": images})[0]
    assert np.abs(kept - board.mix(()).run({"image": images})[0]).max() > 0
