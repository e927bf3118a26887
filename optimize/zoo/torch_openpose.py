"""OpenPose's body network for COCO's 18 points in PyTorch (Cao et al. 2017, arXiv:1611.08050).

This file is a factory file as a user's is: `--factory torch_openpose.py:openpose`.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

import torch
from torch import nn

from optimize.zoo.torch_layers import start

_TRUNK = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 256, 128)
"""Channels of VGG-19's first ten 3x3 convolutions and of the two that follow (4_3_CPM, 4_4_CPM); 0 is 2x2 pooling."""

_LIMBS, _POINTS = 38, 19
"""Maps of the two branches: x and y of 19 limbs' part affinity fields; 18 points and the background."""


class OpenPose(nn.Module):  # type: ignore[misc]
    """VGG-19's beginning, and stages of two branches that refine each other's maps at 1/8 of the size.

    The first stage has three 3x3 and two 1x1 convolutions, every later one five 7x7 and two 1x1.

    With the paper's six stages 92 convolutions (CMU's `pose_deploy_linevec.prototxt`) and 52,311,446 parameters, the
    number that ports to PyTorch give; at 368x368 maps of 46x46 and 272 GFLOP.
    """

    def __init__(self, stages: int = 6) -> None:
        super().__init__()
        self.trunk = _chain(3, [(width, 3) if width else (0, 2) for width in _TRUNK])
        first = [(128, 3), (128, 3), (128, 3), (512, 1)]
        later = [(128, 7), (128, 7), (128, 7), (128, 7), (128, 7), (128, 1)]
        both = 128 + _LIMBS + _POINTS
        plans = [(128, first), *[(both, later)] * (stages - 1)]
        self.limbs = nn.ModuleList(_branch(inputs, plan, _LIMBS) for inputs, plan in plans)
        self.points = nn.ModuleList(_branch(inputs, plan, _POINTS) for inputs, plan in plans)

    def forward(self, image: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(N, 3, H, W) to `limbs` (N, 38, H/8, W/8) and `points` (N, 19, H/8, W/8) of the last stage."""
        seen = given = self.trunk(image)
        for limbs, points in zip(self.limbs, self.points):
            found = limbs(given), points(given)
            given = torch.cat([*found, seen], 1)
        return {"limbs": found[0], "points": found[1]}


def _chain(inputs: int, plan: List[Tuple[int, int]]) -> nn.Sequential:
    """Convolutions of (channels, side), each with a ReLU; pooling for 0 channels."""
    layers: List[nn.Module] = []
    for width, side in plan:
        if not width:
            layers.append(nn.MaxPool2d(side))
            continue
        layers += [nn.Conv2d(inputs, width, side, padding=side // 2), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def _branch(inputs: int, plan: List[Tuple[int, int]], outputs: int) -> nn.Sequential:
    return nn.Sequential(_chain(inputs, plan), nn.Conv2d(plan[-1][0], outputs, 1))


def openpose() -> OpenPose:
    """The six stages of the paper."""
    return start(OpenPose())


def openpose_two_stages() -> OpenPose:
    """Its first two stages: 17,172,146 parameters; at 456x256 maps of 57x32 and 106 GFLOP."""
    return start(OpenPose(2))
