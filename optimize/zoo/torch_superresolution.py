"""Super-resolution by sub-pixel convolution in PyTorch (Shi et al. 2016, arXiv:1609.05158).

This file is a factory file as a user's is: `--factory torch_superresolution.py:super_resolution`.
"""

from __future__ import annotations

import torch
from torch import nn

from optimize.zoo.torch_layers import start


class SuperResolution(nn.Module):  # type: ignore[misc]
    """The network of PyTorch's tutorial on export to ONNX: luminance only, 3 times as high and wide.

    Four convolutions (5x5 with 64 channels, 3x3 with 64, 32 and 9), then the nine channels become 3x3 pixels each:
    59,657 parameters. (1, 224, 224) becomes (1, 672, 672) by 5.97 GFLOP.
    """

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, factor * factor, 3, padding=1),
            nn.PixelShuffle(factor),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) to (N, 1, 3 H, 3 W)."""
        return self.layers(image)


def super_resolution() -> SuperResolution:
    """See `SuperResolution`."""
    return start(SuperResolution())
