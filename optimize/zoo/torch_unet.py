"""U-Net in PyTorch (Ronneberger et al. 2015, arXiv:1505.04597), padded as it is commonly used.

The paper's convolutions are not padded: they take 572x572 and give 388x388. Padded ones give a map as large as the
image, so that nothing has to be cropped. This file is a factory file as a user's is: `--factory torch_unet.py:unet`.
"""

from __future__ import annotations

from typing import List

import torch
from torch import nn

from optimize.zoo.torch_layers import start


class UNet(nn.Module):  # type: ignore[misc]
    """Four halvings and four doublings with two 3x3 convolutions each, joined across, and a 1x1 convolution.

    Args:
        width: Channels of the first level; each level below has twice as many.
        outputs: Maps.

    With the paper's 64 channels and 2 maps 31,030,658 parameters (23 convolutions, the 4 transposed ones among them);
    31,031,810, which is often quoted, is for images of three planes. At 512x512 385 GFLOP.
    """

    def __init__(self, width: int = 64, outputs: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(_double(inputs, width) for inputs, width in zip([1, *widths], widths))
        self.halve = nn.MaxPool2d(2)
        above = widths[-2::-1]
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, 2) for width in above)
        self.up = nn.ModuleList(_double(2 * width, width) for width in above)
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to (N, outputs, H, W) logits; H and W of 16s."""
        levels: List[torch.Tensor] = []
        for down in self.down:
            image = down(self.halve(image) if levels else image)
            levels.append(image)
        for grow, up, across in zip(self.grow, self.up, levels[-2::-1]):
            image = up(torch.cat([across, grow(image)], 1))
        return self.last(image)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def unet() -> UNet:
    """The paper's widths."""
    return start(UNet())


def unet16() -> UNet:
    """A quarter of the paper's widths and one map: 1,940,817 parameters; at 512x512 24 GFLOP."""
    return start(UNet(16, 1))
