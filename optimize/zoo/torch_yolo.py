"""Tiny YOLO v3 in PyTorch, after Darknet's `yolov3-tiny.cfg` (Redmon and Farhadi 2018, arXiv:1804.02767).

This file is a factory file as a user's is: `--factory torch_yolo.py:yolov3_tiny`.
"""

from __future__ import annotations

from functools import partial
from typing import Dict

import torch
from torch import nn
from torch.nn import functional

from optimize.zoo.torch_layers import block, start

_Leaky = partial(nn.LeakyReLU, 0.1)


class TinyYolo(nn.Module):  # type: ignore[misc]
    """13 convolutions, 3 anchors at each place of two maps: 4 of a box, whether there is one, 80 classes.

    At 416x416: maps of 13 and 26. 8,852,366 parameters, with the running statistics the 8,858,734 numbers of
    `yolov3-tiny.weights` (35,434,956 bytes with its header of 20); 5.56 GFLOP where Darknet prints 5.571.
    Decoding the maps and suppressing boxes that overlap is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 128, 256)
        layers = []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [block(inputs, outputs, 3, act=_Leaky), nn.MaxPool2d(2)]
        self.fine = nn.Sequential(*layers[:-1])
        self.halve = layers[-1]
        self.wide = block(256, 512, 3, act=_Leaky)
        self.pool = nn.MaxPool2d(2, 1)
        self.coarse = nn.Sequential(block(512, 1024, 3, act=_Leaky), block(1024, 256, 1, act=_Leaky))
        self.stride32 = nn.Sequential(block(256, 512, 3, act=_Leaky), nn.Conv2d(512, 255, 1))
        self.up = nn.Sequential(block(256, 128, 1, act=_Leaky), nn.Upsample(scale_factor=2, mode="nearest"))
        self.stride16 = nn.Sequential(block(384, 256, 3, act=_Leaky), nn.Conv2d(256, 255, 1))

    def forward(self, image: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(N, 3, H, W) to `stride32` (N, 255, H/32, W/32) and `stride16` (N, 255, H/16, W/16); H and W of 32s."""
        fine = self.fine(image)
        # a window that reaches beyond the map has the last row or column twice, which is what it has without it
        padded = functional.pad(self.wide(self.halve(fine)), (0, 1, 0, 1), mode="replicate")
        coarse = self.coarse(self.pool(padded))
        joined = torch.cat([self.up(coarse), fine], 1)
        return {"stride32": self.stride32(coarse), "stride16": self.stride16(joined)}


def yolov3_tiny() -> TinyYolo:
    """See `TinyYolo`."""
    return start(TinyYolo())
