"""The shapes of the ResNets (He et al. 2015, table 1) as torchvision builds them: stride in the 3x3 convolution."""

from __future__ import annotations

import re
from typing import Dict, Mapping, NamedTuple, Optional, Tuple

from engines.errors import UsageError

STEMS = ("imagenet", "cifar")
"""`imagenet`: 7x7 convolution of stride 2 and 3x3 max pooling of stride 2; `cifar`: 3x3 convolution, no pooling."""

WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages; a bottleneck's output has four times as many."""


_KERNELS: Dict[Tuple[int, ...], str] = {(64, 3, 7, 7): "imagenet", (64, 3, 3, 3): "cifar"}
"""The stem by the shape of the first convolution, as PyTorch has it."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Shape(NamedTuple):
    """Blocks of each stage, and whether they are bottlenecks (1x1, 3x3, 1x1) or basic (3x3, 3x3)."""

    blocks: Tuple[int, int, int, int]
    bottleneck: bool

    @property
    def expansion(self) -> int:
        """Output channels of a block per channel of its stage."""
        return 4 if self.bottleneck else 1


SHAPES: Dict[str, Shape] = {
    "resnet18": Shape((2, 2, 2, 2), False),
    "resnet34": Shape((3, 4, 6, 3), False),
    "resnet50": Shape((3, 4, 6, 3), True),
    "resnet101": Shape((3, 4, 23, 3), True),
    "resnet152": Shape((3, 8, 36, 3), True),
}

NAMES = tuple(SHAPES)


def find(name: str, stem: str = "imagenet") -> Shape:
    """The shape of a model.

    Raises:
        UsageError: No such model or stem.
    """
    if stem not in STEMS:
        raise UsageError(f"--stem {stem}: {' or '.join(STEMS)} is expected")
    if name not in SHAPES:
        raise UsageError(f"the zoo has no ResNet called {name!r}; it has {', '.join(NAMES)}", "optimize zoo list")
    return SHAPES[name]


def parameters(name: str, stem: str = "imagenet", classes: int = 1000) -> int:
    """Trainable parameters: convolution kernels, two for each normalised channel, and the classifier."""
    shape = find(name, stem)
    side = 7 if stem == "imagenet" else 3
    total = side * side * 3 * 64 + 2 * 64
    channels = 64
    for stage, (width, count) in enumerate(zip(WIDTHS, shape.blocks)):
        out = width * shape.expansion
        for block in range(count):
            if shape.bottleneck:
                total += channels * width + 9 * width * width + width * out + 2 * (width + width + out)
            else:
                total += 9 * channels * width + 9 * width * width + 2 * (width + width)
            if block == 0 and (channels != out or stage > 0):
                total += channels * out + 2 * out
            channels = out
    return total + channels * classes + classes


class Guess(NamedTuple):
    """A model of the zoo that tensors fit: its name, its stem and its number of classes."""

    name: str
    stem: str
    classes: int

    @property
    def factory(self) -> str:
        """The word for `--factory`."""
        return self.name + ("_cifar" if self.stem == "cifar" else "")


def guess(tensors: Mapping[str, Tuple[int, ...]]) -> Optional[Guess]:
    """The model of the zoo that a state_dict fits, by torchvision's names; None where it fits none.

    Args:
        tensors: The shape of each tensor by its name.
    """
    stem = _KERNELS.get(tensors.get("conv1.weight", ()))
    head = tensors.get("fc.weight", ())
    if stem is None or len(head) != 2:
        return None
    trained = {name: shape for name, shape in tensors.items() if not name.endswith(_STATISTICS)}
    count = sum(_product(shape) for shape in trained.values())
    found = {m.group(1) for m in (re.match(r"layer(\d\.\d+)\.conv", name) for name in trained) if m}
    for name, shape in SHAPES.items():
        blocks = {f"{stage}.{i}" for stage, n in enumerate(shape.blocks, 1) for i in range(n)}
        if found == blocks and head[1] == WIDTHS[-1] * shape.expansion and count == parameters(name, stem, head[0]):
            return Guess(name, stem, head[0])
    return None


def _product(shape: Tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
