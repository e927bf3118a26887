"""How many images are worth what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib import graph as graphs
from calib.budget import batch_size, holdout_images, pauses
from calib.calibrate import image_input
from calib.placement import points
from tests.calib.architectures import Net

Build = Callable[..., Path]


@pytest.mark.parametrize(("size", "images"), [(16, 256), (112, 102), (512, 16)])
def test_costly_models_choose_with_fewer_images(tmp_path: Path, size: int, images: int) -> None:
    net = Net(1)
    y = net.conv(net.relu("image", "a", 3, 64), "b", 64, 24)  # 15,552 multiplications for a pixel: 195 M, 4 G in all
    path = net.save(tmp_path / "net.onnx", ["N", 3, size, size], {y: ["N", 24, size, size]})
    view = graphs.Graph(graphs.load(path))
    assert holdout_images(view, points(view, "openvino")) == images


@pytest.mark.parametrize(
    ("images", "holdout", "batch", "expected"),
    [
        (512, 256, 32, [512]),  # cheap images: no pause
        (512, 17, 2, [86, 172, 344, 512]),
        (512, 16, 1, [80, 160, 320, 512]),
        (80, 16, 1, [80]),
        (100, 16, 64, [100]),
        (1, 16, 1, [1]),
    ],
)
def test_costly_images_are_asked_whether_they_help(images: int, holdout: int, batch: int, expected: List[int]) -> None:
    assert list(pauses(images, holdout, batch)) == expected


@given(st.integers(1, 5000), st.integers(1, 256), st.integers(1, 64))
def test_pauses_lie_between_whole_batches(images: int, holdout: int, batch: int) -> None:
    found = list(pauses(images, holdout, batch))
    assert found == sorted(set(found)) and found[-1] == images
    assert all(stop % batch == 0 and stop >= 5 * holdout for stop in found[:-1])


def test_large_activations_make_small_batches(resnet: Build) -> None:
    model = graphs.load(resnet())
    tensors = points(model, "openvino").measured()
    assert batch_size(model, tensors, image_input(model, "m")) == 32
    for dim in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[dim].dim_value = 2048
    assert 1 <= batch_size(model, tensors, image_input(model, "m")) < 4
