"""The networks of other tasks are those of their descriptions: parameters, operations and outputs as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest

import engines
from bench.suites import tables
from engines import child, tensors
from optimize import zoo
from optimize.sources import recognise
from optimize.zoo.tensors import NETWORKS

OUTPUTS: Dict[str, Dict[str, Tuple[int, ...]]] = {
    "ssd_mobilenet_v2": {"boxes": (1917, 4), "scores": (1917, 91)},
    "ssd_resnet18": {"boxes": (8732, 4), "scores": (8732, 81)},
    "yolov3_tiny": {"stride32": (255, 13, 13), "stride16": (255, 26, 26)},
    "openpose": {"limbs": (38, 46, 46), "points": (19, 46, 46)},
    "openpose_two_stages": {"limbs": (38, 32, 57), "points": (19, 32, 57)},
    "unet": {"output": (2, 512, 512)},
    "unet16": {"output": (1, 512, 512)},
    "super_resolution": {"output": (1, 672, 672)},
}
"""At the input of `NETWORKS`, without the batch."""

GFLOP = {
    "ssd_mobilenet_v2": (3.775, 0.01),
    "yolov3_tiny": (5.571, 0.01),
}
"""Of an image, and by what part another way of counting differs: OpenVINO's Open Model Zoo, and what Darknet prints."""

NANO_GFLOPS = 472
"""The Jetson Nano's peak at FP16 in GFLOP/s: 128 cores, 921.6 MHz, two fused operations of two numbers each."""


def module(name: str) -> Any:
    """A network without memory for its weights."""
    torch = pytest.importorskip("torch")
    import importlib

    with torch.device("meta"):
        return getattr(importlib.import_module(f"optimize.zoo.{NETWORKS[name].module}"), name)().eval()


def outputs(made: Any, shape: Tuple[int, ...]) -> Tuple[Dict[str, Tuple[int, ...]], float]:
    """Shapes of what a network gives for one input, and its GFLOP: two for each weight at each place of its result."""
    import torch

    counted: List[int] = []

    def count(layer: Any, _: Any, result: Any) -> None:
        places = result[0, 0].numel()
        if isinstance(layer, torch.nn.ConvTranspose2d):
            places //= layer.stride[0] * layer.stride[1]
        counted.append(2 * layer.weight.numel() * places)

    for layer in made.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            layer.register_forward_hook(count)
    with torch.device("meta"):
        found = made(torch.empty(1, *shape))
    named = tensors.named(found)
    return {name: tuple(one.shape[1:]) for name, one in named.items()}, sum(counted) / 1e9


def cost(architecture: str, size: Any) -> float:
    planes = NETWORKS[architecture].input_shape[0]
    return outputs(module(architecture), (planes, *tables.sides(size)))[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_operations_and_outputs_are_those_of_the_description(name: str) -> None:
    made = module(name)
    assert sum(one.numel() for one in made.parameters()) == NETWORKS[name].parameters
    shapes, gflop = outputs(made, NETWORKS[name].input_shape)
    assert shapes == OUTPUTS[name]
    if name in GFLOP:
        published, other = GFLOP[name]
        assert gflop == pytest.approx(published, rel=other)


def test_counts_of_others_that_are_not_ours() -> None:
    """Of the files that are published: Darknet's weights, the detector with its normalisation folded, CMU's network."""
    torch = pytest.importorskip("torch")
    yolo = module("yolov3_tiny")
    statistics = sum(one.numel() for key, one in yolo.state_dict().items() if "running" in key)
    assert 20 + 4 * (NETWORKS["yolov3_tiny"].parameters + statistics) == 35_434_956
    convolutions = [one for one in module("ssd_mobilenet_v2").modules() if isinstance(one, torch.nn.Conv2d)]
    assert round(sum(one.weight.numel() + one.out_channels for one in convolutions) / 1e6, 3) == 16.818
    assert sum(isinstance(one, torch.nn.Conv2d) for one in module("openpose").modules()) == 92
    unet = list(module("unet").modules())
    kinds = [sum(isinstance(one, kind) for one in unet) for kind in (torch.nn.Conv2d, torch.nn.ConvTranspose2d)]
    assert kinds == [19, 4] and sum(kinds) == 23


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("ssd_mobilenet_v2", (3, 272, 480), {"boxes": (2682, 4), "scores": (2682, 91)}),
        ("ssd_mobilenet_v2", (3, 544, 960), {"boxes": (10326, 4), "scores": (10326, 91)}),
        ("ssd_resnet18", (3, 272, 480), {"boxes": (12358, 4), "scores": (12358, 81)}),
        ("ssd_resnet18", (3, 544, 960), {"boxes": (49334, 4), "scores": (49334, 81)}),
        ("super_resolution", (1, 321, 481), {"output": (1, 963, 1443)}),
    ],
)
def test_other_sizes(name: str, shape: Tuple[int, ...], expected: Dict[str, Tuple[int, ...]]) -> None:
    assert outputs(module(name), shape)[0] == expected


def test_what_the_nanos_table_says_of_the_operations_is_so() -> None:
    """A network that needs more than the board's peak was not the one that was published."""
    cells = {one["name"]: one for one in tables.read("jetson-nano")["cells"]}
    shares = {}
    for name, cell in cells.items():
        if cell["made"]["architecture"] in NETWORKS:
            gflop = cost(cell["made"]["architecture"], cell["made"]["size"])
            shares[name] = gflop * cell["published"] / NANO_GFLOPS
    assert len(shares) == 10
    assert {name for name, share in shares.items() if share > 1} == {"openpose"}
    assert 3 <= shares["openpose"] < 3.5 and "3 times the board's peak" in cells["openpose"]["made"]["assumed"]
    paper = cost("unet", 512)
    assert round(paper) == 385 and "385 GFLOP" in cells["unet"]["made"]["assumed"]
    assert 14.5 < paper * cells["unet"]["published"] / NANO_GFLOPS < 15.5


def test_anchors_of_a_place_lie_together() -> None:
    """Rows of the result go through the anchors of a place, then along the row, then down."""
    torch = pytest.importorskip("torch")
    from optimize.zoo.torch_ssd import _by_anchor

    maps = [torch.arange(24.0).reshape(1, 8, 1, 3), torch.arange(100.0, 108.0).reshape(1, 8, 1, 1)]
    found = _by_anchor(maps, 4)
    assert found.shape == (1, 8, 4)
    assert found[0, 0].tolist() == [0, 3, 6, 9] and found[0, 1].tolist() == [12, 15, 18, 21]
    assert found[0, 2].tolist() == [1, 4, 7, 10] and found[0, 7].tolist() == [104, 105, 106, 107]


def test_pixels_of_a_higher_resolution_come_from_one_place() -> None:
    torch = pytest.importorskip("torch")
    from optimize.zoo.torch_superresolution import super_resolution

    torch.manual_seed(0)
    net = super_resolution().eval()
    image = torch.rand(1, 1, 12, 12)
    with torch.inference_mode():
        before = net(image)
        image[0, 0, 0, 0] += 1
        changed = (net(image) - before).abs()[0, 0] > 0
    # 5x5 and three 3x3: 2 + 1 + 1 + 1 pixels around, times 3
    assert changed[:18, :18].any() and not changed[18:].any() and not changed[:, 18:].any()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("super_resolution", (32, 40)),
        pytest.param("ssd_mobilenet_v2", (96, 128), marks=pytest.mark.slow),
        pytest.param("ssd_resnet18", (272, 288), marks=pytest.mark.slow),
        pytest.param("yolov3_tiny", (64, 96), marks=pytest.mark.slow),
        pytest.param("openpose", (64, 96), marks=pytest.mark.slow),
        pytest.param("unet16", (64, 96), marks=pytest.mark.slow),
    ],
)
def test_a_network_is_made_exported_and_runs_as_its_engine(tmp_path: Path, name: str, size: Tuple[int, int]) -> None:
    """From the zoo to an engine of OpenVINO that gives what PyTorch gives."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    from optimize import api

    model = api.zoo_make(name, out=tmp_path / f"{name}.pt")
    source = {"factory": name, "input_shape": (NETWORKS[name].input_shape[0], *size), "task": "tensors"}
    assert recognise(model, **source).factory == zoo.factory(name)
    built = api.build(model, "fp32", 2, backend="openvino", **source)
    (bundle,) = built.bundles
    assert built.check["passed"] and bundle.manifest["task"] == "tensors"
    image = np.random.default_rng(0).random((2, *source["input_shape"]), np.float32)
    with engines.open(recognise(model, **source)) as one, api.load(bundle.path) as two:
        expected, found = one.infer({one.inputs[0].name: image}), two.infer({two.inputs[0].name: image})
    assert list(expected) == list(found) and set(expected) == set(OUTPUTS[name])
    for key, value in expected.items():
        scale = float(np.abs(value).max())
        assert found[key].shape == value.shape and scale > 0.1
        np.testing.assert_allclose(found[key], value, atol=1e-3 * scale)


def test_making_one_twice_gives_the_same_numbers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    files = [tmp_path / f"{number}.pt" for number in range(3)]
    for file, seed in zip(files, (1, 1, 2)):
        done = child.call("optimize.zoo.make:make_network", {"name": "unet16", "out": str(file), "seed": seed})
        assert done == {"path": str(file), "parameters": NETWORKS["unet16"].parameters, "factory": "unet16"}
    one, same, other = (torch.load(file, weights_only=True) for file in files)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
