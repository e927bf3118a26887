"""What the zoo's PyTorch networks for other tasks than classification are put together of."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

Net = TypeVar("Net", bound=Any)


def block(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Sequential:
    """A convolution without bias that keeps the size (but for the stride), BatchNormalization, an activation."""
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


def start(net: Net) -> Net:
    """Draw random weights that keep activations in the range of a trained network's (He et al. 2015), biases of 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
