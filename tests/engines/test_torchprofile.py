"""Operators of real PyTorch models under their modules' paths, in every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines import torchprofile
from engines.spec import RunnerSpec

NET = """
import torch
from torch import nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
    def forward(self, x):
        return torch.relu(torch.relu(self.norm(self.conv(x))) + x)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.fc = nn.Conv2d(3, 8, 3), nn.Sequential(Block(), Block()), nn.Linear(8, 4)
    def forward(self, image):
        return self.fc(self.blocks(self.stem(image)).mean((2, 3)))
"""
BLOCK = [("conv", "conv2d"), ("norm", "batch_norm"), ("", "relu"), ("", "add"), ("", "relu")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's file, and its weights in every kind of file."""
    torch = pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("torchprofile")
    (root / "net.py").write_text(NET)
    from engines import userfile

    (make,) = userfile.load_names(f"{root / 'net.py'}:Net").values()
    module, image = make().eval(), torch.rand(2, 3, 16, 16)
    torch.save(module.state_dict(), root / "state.pt")
    torch.jit.save(torch.jit.trace(module, image), str(root / "script.pt"))
    torch.export.save(torch.export.export(module, (image,)), str(root / "program.pt2"))
    return root


def profiled(folder: Path, name: str, kind: str) -> Any:
    more: Any = {} if kind == "torch-pt2" else {"input_shape": (3, 16, 16)}
    if kind == "torch-state-dict":
        more["factory"] = f"{folder / 'net.py'}:Net"
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    with engines.open(RunnerSpec(str(folder / name), kind, **more)) as runner:
        before = runner.infer({runner.inputs[0].name: image})
        layers = runner.profile({runner.inputs[0].name: image}, 5)
        after = runner.infer({runner.inputs[0].name: image})
    assert all(np.array_equal(before[key], after[key]) for key in before), "it runs as before"
    assert all(layer["ms"] > 0 for layer in layers)
    return layers


@pytest.mark.parametrize(("name", "kind"), [("state.pt", "torch-state-dict"), ("program.pt2", "torch-pt2")])
def test_operators_stand_under_their_modules(folder: Path, name: str, kind: str) -> None:
    layers = profiled(folder, name, kind)
    blocks = [
        (f"blocks.{n}" + (f".{part}" if part else "") + ("_1" if i == 4 else ""), op)
        for n in (0, 1)
        for i, (part, op) in enumerate(BLOCK)
    ]
    expected = [("stem", "conv2d"), *blocks, ("mean", "mean"), ("fc", "linear")]
    assert [(layer["name"], layer["type"]) for layer in layers] == expected
    assert {layer["precision"] for layer in layers} == {"f32"}


def test_torchscript_numbers_its_operators(folder: Path) -> None:
    layers = profiled(folder, "script.pt", "torchscript")
    convolutions = [layer["name"] for layer in layers if "conv" in layer["type"]]
    assert len(convolutions) == 3 and [name[-2:] for name in convolutions[1:]] == ["_1", "_2"]
    assert len({layer["name"] for layer in layers}) == len(layers)


def test_the_operator_that_is_called_first_counts_and_the_median_is_over_queries() -> None:
    events = []
    for query, ms in enumerate((1, 2, 9)):
        start = query * 100_000_000
        events += [
            (f"optimize query {query}", start, start + 50_000_000, 1, []),
            ("optimize module a.b", start, start + 20_000_000, 1, []),
            ("aten::conv2d", start, start + ms * 1_000_000, 1, ["ScalarList", "c10::BFloat16"]),
            ("aten::mkldnn_convolution", start, start + ms * 1_000_000, 1, ["float"]),  # inside, in the same moment
            ("quantized::add", start + 30_000_000, start + 31_000_000, 1, ["c10::QInt8"]),
            ("aten::relu", start, start + 40_000_000, 2, ["float"]),  # on a thread that is in no query
        ]
    events.append(("aten::relu", 60_000_000, 61_000_000, 1, ["float"]))  # between two queries
    assert torchprofile.summary(events, 3) == [
        {"name": "a.b", "type": "conv2d", "precision": "bf16", "ms": 2.0},
        {"name": "add", "type": "add", "precision": "int8", "ms": 1.0},
    ]
