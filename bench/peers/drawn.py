"""Models with random weights as ONNX: `python -I drawn.py JOB.json`, where PyTorch is (and timm, for a drawn one).

`pad` is a ResNet-34 for CIFAR: a 3x3 stem without pooling, and shortcuts that select and pad instead of a convolution
(option A of K. He et al., "Deep Residual Learning for Image Recognition", 2016). `timm` is a convolutional network of
timm drawn by the seed. As a network begins, its statistics say nothing and many branches end in zeros; so gains and
biases of the normalisations are drawn too, and their statistics taken from random images.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any, Dict, Tuple

import torch
from torch import nn

_WIDTHS, _BLOCKS = (64, 128, 256, 512), (3, 4, 6, 3)

MOST = 12_000_000
"""Parameters of the largest model that is drawn: it must be measured at batch 64 on two cores."""

SIZES = (160, 224)
"""Smallest and largest image of one that is drawn."""


class Block(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions and a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return torch.relu(x + y)


class PadResNet(nn.Module):  # type: ignore[misc]
    """(N, 3, 32, 32) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(_WIDTHS[0])
        blocks, channels = [], _WIDTHS[0]
        for width, count in zip(_WIDTHS, _BLOCKS):
            for index in range(count):
                blocks.append(Block(channels, width, 2 if index == 0 and width != _WIDTHS[0] else 1))
                channels = width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def _drawn(seed: int) -> Tuple[str, Any, int]:
    """Name, module and image size of the first model, in an order that the seed gives, that fits."""
    # PyPI's torchvision is built for CUDA: beside the CPU build of PyTorch its operators do not load, and its import
    # stops where it describes these two. timm needs only its image transforms.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    names = sorted(timm.list_models(), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    for name in names:
        size = (timm.get_pretrained_cfg(name, allow_unregistered=True) or timm.models.PretrainedCfg()).input_size
        if size[0] != 3 or size[1] != size[2] or not SIZES[0] <= size[1] <= SIZES[1]:
            continue
        with torch.device("meta"):
            try:
                shape = timm.create_model(name, pretrained=False)
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                continue  # one that computes with its weights while it is made
        layers = [module for module in shape.modules() if isinstance(module, nn.Conv2d)]
        total = sum(p.numel() for p in shape.parameters())
        inside = sum(p.numel() for layer in layers for p in layer.parameters())
        if total <= MOST and len(layers) >= 10 and inside >= total // 2:
            torch.manual_seed(seed)
            return name, timm.create_model(name, pretrained=False), int(size[1])
    raise LookupError("timm has no model that fits")


def _settle(module: Any, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean over the batches that follow
        if norm.affine:
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.normal_(0, 0.1, generator=generator)
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        for _ in range(4):
            module(torch.randn(16, 3, size, size, generator=generator))
    module.eval()


def draw(kind: str, seed: int, out: str) -> Dict[str, Any]:
    """Write a model.

    Args:
        kind: `pad` or `timm`.
        seed: Of the choice and of the weights.
        out: The ONNX file, NCHW, free batch.

    Returns:
        `name`, `size` (of its images) and `parameters`.
    """
    torch.manual_seed(seed)
    name, module, size = ("ResNet-34, CIFAR stem, pad", PadResNet(), 32) if kind == "pad" else _drawn(seed)
    _settle(module, size, seed)
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
    options: Dict[str, Any] = {"opset_version": 17, "input_names": ["image"], "output_names": ["scores"]}
    torch.onnx.export(module, (torch.randn(2, 3, size, size),), out, dynamic_axes=axes, dynamo=False, **options)
    return {"name": name, "size": size, "parameters": sum(p.numel() for p in module.parameters())}


def main() -> int:
    """Read `{"kind", "seed", "out", "result"}`, write what `draw` returns."""
    with open(sys.argv[1], encoding="utf-8") as handle:
        job = json.load(handle)
    result = draw(job["kind"], job["seed"], job["out"])
    with open(job["result"], "w", encoding="utf-8") as handle:
        json.dump(result, handle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
