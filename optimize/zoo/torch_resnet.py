"""ResNets in PyTorch with torchvision's names and layout of tensors, so that its weights fit and ours fit it.

This file is a factory file as a user's is: `--factory torch_resnet.py:resnet18`. The modules return logits.
"""

from __future__ import annotations

from typing import Any, Callable, List

import torch
from torch import nn

from optimize.zoo.shapes import NAMES, WIDTHS, find


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class BasicBlock(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):  # type: ignore[misc]
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 convolution has the stride (ResNet v1.5)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, 4 width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(inputs: int, outputs: int, stride: int) -> Any:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):  # type: ignore[misc]
    """A ResNet of the zoo: (N, 3, H, W) float32 to (N, classes) logits."""

    def __init__(self, name: str, stem: str = "imagenet", num_classes: int = 1000) -> None:
        super().__init__()
        shape = find(name, stem)
        block = Bottleneck if shape.bottleneck else BasicBlock
        wide = stem == "imagenet"
        self.conv1 = _conv(3, 64, 7 if wide else 3, 2 if wide else 1)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if wide else nn.Identity()
        channels = 64
        for number, (width, count) in enumerate(zip(WIDTHS, shape.blocks), 1):
            blocks: List[nn.Module] = []
            for index in range(count):
                blocks.append(block(channels, width, 2 if index == 0 and number > 1 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _factory(name: str, stem: str) -> Callable[..., ResNet]:
    def make(num_classes: int = 1000) -> ResNet:
        return ResNet(name, stem, num_classes)

    return make


for _name in NAMES:
    globals()[_name] = _factory(_name, "imagenet")
    globals()[_name + "_cifar"] = _factory(_name, "cifar")
