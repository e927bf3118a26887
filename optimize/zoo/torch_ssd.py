"""Single-shot detectors (Liu et al. 2016, arXiv:1512.02325) in PyTorch, as their engines are measured: raw heads.

Every feature map has a 3x3 convolution for the offsets of its anchors' boxes and one for the scores of their classes
(logits, background first). Decoding the boxes and suppressing those that overlap is left out.
This file is a factory file as a user's is: `--factory torch_ssd.py:ssd_mobilenet_v2`.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import torch
from torch import nn

from optimize.zoo.torch_layers import block, start
from optimize.zoo.torch_resnet import BasicBlock


class SSD(nn.Module):  # type: ignore[misc]
    """Stages that make one feature map after the other, and the heads of each.

    Args:
        stages: Each takes what the one before gives.
        channels: Of each feature map.
        anchors: At each place of each feature map.
        classes: With the background.
    """

    def __init__(
        self, stages: Sequence[nn.Module], channels: Sequence[int], anchors: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        self.classes = classes
        self.stages = nn.ModuleList(stages)
        heads = list(zip(channels, anchors))
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * count, 3, padding=1) for width, count in heads)
        self.scores = nn.ModuleList(nn.Conv2d(width, classes * count, 3, padding=1) for width, count in heads)

    def forward(self, image: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(N, 3, H, W) to `boxes` (N, anchors, 4) and `scores` (N, anchors, classes), from the largest map on."""
        boxes, scores = [], []
        for stage, box, score in zip(self.stages, self.boxes, self.scores):
            image = stage(image)
            boxes.append(box(image))
            scores.append(score(image))
        return {"boxes": _by_anchor(boxes, 4), "scores": _by_anchor(scores, self.classes)}


def _by_anchor(maps: List[torch.Tensor], width: int) -> torch.Tensor:
    """Maps of (N, anchors * width, H, W) as one (N, all anchors, width)."""
    flat = torch.cat([one.permute(0, 2, 3, 1).flatten(1) for one in maps], 1)
    return flat.reshape(-1, int(flat.shape[1]) // width, width)


_MOBILENET = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first of MobileNetV2 1.0 (Sandler et al. 2018, table 2)."""


class _Inverted(nn.Module):  # type: ignore[misc]
    """MobileNetV2's block: wider by 1x1, 3x3 in each channel, narrower by 1x1, and a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = block(inputs, wide, 1, act=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.reduce = nn.Sequential(
            block(wide, wide, 3, stride, groups=wide, act=nn.ReLU6), block(wide, outputs, 1, act=None)
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.reduce(self.expand(x))
        return x + y if self.shortcut else y


def ssd_mobilenet_v2() -> SSD:
    """`ssd_mobilenet_v2_coco` of the TensorFlow Object Detection API (pipeline of 2018-03-29), 91 classes.

    Six feature maps: the widened input of the block that halves 1/16 to 1/32, the last layer (1,280 channels), and four
    pairs of 1x1 and separable 3x3 convolutions; 3 anchors at each place of the first map, 6 of the others.

    At 300x300: maps of 19, 10, 5, 3, 2 and 1, 1,917 anchors. 16,837,567 parameters; 16.818 million with the
    normalisation folded, and 3.75 GFLOP, where OpenVINO's Open Model Zoo lists 16.818 and 3.775. Padding is the same on
    both sides, TensorFlow's is not where the stride is 2: the same work, shifted by a pixel.
    """
    blocks: List[nn.Module] = [block(3, 32, 3, 2, act=nn.ReLU6)]
    channels = 32
    for expansion, width, count, stride in _MOBILENET:
        for index in range(count):
            blocks.append(_Inverted(channels, width, 1 if index else stride, expansion))
            channels = width
    before, halving, after = blocks[:14], blocks[14], blocks[15:]
    stages: List[nn.Module] = [
        nn.Sequential(*before, halving.expand),
        nn.Sequential(halving.reduce, *after, block(320, 1280, 1, act=nn.ReLU6)),
    ]
    channels = 1280
    for width in (512, 256, 256, 128):
        half = width // 2
        stages.append(
            nn.Sequential(
                block(channels, half, 1, act=nn.ReLU6),
                block(half, half, 3, 2, groups=half, act=nn.ReLU6),
                block(half, width, 1, act=nn.ReLU6),
            )
        )
        channels = width
    return start(SSD(stages, (576, 1280, 512, 256, 256, 128), (3, 6, 6, 6, 6, 6), 91))


def ssd_resnet18() -> SSD:
    """SSD-ResNet-18 as in NVIDIA's DeepLearningExamples (PyTorch/Detection/SSD, backbone resnet18), 81 classes.

    ResNet-18 up to its third stage, which keeps 1/8 of the size (stride 1), and five pairs of 1x1 and 3x3 convolutions,
    the last two without padding; 4, 6, 6, 6, 4 and 4 anchors at each place.

    At 300x300: maps of 38, 19, 10, 5, 3 and 1, 8,732 anchors as in the paper. 14,048,310 parameters, 15.6 GFLOP.
    """
    trunk: List[nn.Module] = [block(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, stride in ((64, 1), (128, 2), (256, 1)):
        trunk += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
        channels = width
    stages: List[nn.Module] = [nn.Sequential(*trunk)]
    for width, between, padded in ((512, 256, 1), (512, 256, 1), (256, 128, 1), (256, 128, 0), (128, 128, 0)):
        shrink = nn.Conv2d(between, width, 3, 1 + padded, padded, bias=False)
        stages.append(nn.Sequential(block(channels, between, 1), shrink, nn.BatchNorm2d(width), nn.ReLU()))
        channels = width
    return start(SSD(stages, (256, 512, 512, 256, 256, 128), (4, 6, 6, 6, 4, 4), 81))
