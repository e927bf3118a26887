"""ResNets with random or briefly trained weights, in Keras and in PyTorch; light: it imports no framework."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List

from optimize.zoo.shapes import NAMES, parameters

FACTORY_FILE = str(Path(__file__).resolve().with_name("torch_resnet.py"))
"""Holds the PyTorch factories, for `--factory`."""

FACTORIES = tuple(name + stem for stem in ("", "_cifar") for name in NAMES)
"""Names that `--factory` knows without torchvision: `resnet18` … `resnet152`, and `_cifar` for the CIFAR stem."""


def catalogue() -> List[Dict[str, Any]]:
    """The models that the zoo makes: `name`, and `parameters` at 1,000 classes with the ImageNet stem."""
    return [{"name": name, "parameters": parameters(name)} for name in NAMES]


def file_name(name: str, data: str, batch: int, epochs: int) -> str:
    """The file that `train` writes for a data reference, such as `resnet34_cifar10_bs64_epochs10.keras`."""
    place = Path(data)
    word = re.sub(r"[^A-Za-z0-9.]+", "-", place.stem if place.suffix == ".npz" else place.name).strip("-.") or "data"
    return f"{name}_{word}_bs{batch}_epochs{epochs}.keras"
