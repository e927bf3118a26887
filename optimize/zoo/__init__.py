"""ResNets with random or briefly trained weights, in Keras and PyTorch, and networks of other tasks with random ones in
PyTorch; light: it imports no framework."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from optimize.zoo.shapes import NAMES, parameters
from optimize.zoo.tensors import NETWORKS

FACTORY_FILE = str(Path(__file__).resolve().with_name("torch_resnet.py"))
"""Holds the PyTorch factories of the ResNets, for `--factory`."""

FACTORIES = tuple(name + stem for stem in ("", "_cifar") for name in NAMES)
"""ResNets that `--factory` knows without torchvision: `resnet18` … `resnet152`, and `_cifar` for the CIFAR stem."""


def factory(name: str) -> Optional[str]:
    """`FILE.py:NAME` of a PyTorch network that the zoo has; None for other names."""
    if name in NETWORKS:
        return f"{Path(FACTORY_FILE).with_name(NETWORKS[name].module)}.py:{name}"
    return f"{FACTORY_FILE}:{name}" if name in FACTORIES else None


def catalogue() -> List[Dict[str, Any]]:
    """The models that the zoo makes.

    Returns:
        Of each `name`, `task`, `frameworks`, `input_shape` (planes, height, width; None where it is chosen) and
        `parameters`, of ResNets at 1,000 classes with the ImageNet stem.
    """
    resnet: Dict[str, Any] = {"task": "classify", "frameworks": ["keras", "torch"], "input_shape": None}
    other: Dict[str, Any] = {"task": "tensors", "frameworks": ["torch"]}
    return [
        *({"name": name, **resnet, "parameters": parameters(name)} for name in NAMES),
        *(
            {"name": name, **other, "input_shape": list(one.input_shape), "parameters": one.parameters}
            for name, one in NETWORKS.items()
        ),
    ]


def file_name(name: str, data: str, batch: int, epochs: int) -> str:
    """The file that `train` writes for a data reference, such as `resnet34_cifar10_bs64_epochs10.keras`."""
    place = Path(data)
    word = re.sub(r"[^A-Za-z0-9.]+", "-", place.stem if place.suffix == ".npz" else place.name).strip("-.") or "data"
    return f"{name}_{word}_bs{batch}_epochs{epochs}.keras"
