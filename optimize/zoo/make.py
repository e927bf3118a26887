"""Make a zoo model with random weights: stages for a child process."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict

from engines import jsonfile
from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, quiet
from optimize.zoo.shapes import find, parameters
from optimize.zoo.tensors import NETWORKS


def make(
    name: str,
    framework: str,
    stem: str,
    classes: int,
    size: int,
    out: str,
    seed: int = 0,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Write a model with seeded random weights.

    Args:
        name: One of `shapes.NAMES`.
        framework: keras (a `.keras` file, of the Keras that is installed) or torch (a state_dict with torchvision's
            names; its factory is the model's name, with `_cifar` for the CIFAR stem).
        stem: imagenet or cifar.
        classes: Classes.
        size: Height and width of the images, pixels.
        out: The file.
        seed: Of the random weights.
        progress: Told what happens.

    Returns:
        `path`, `parameters`, and `factory` (empty for Keras).

    Raises:
        UsageError: No such model, stem or framework.
        IncompatibleError: The framework is not installed.
    """
    find(name, stem)
    if classes < 1 or size < 8:
        raise UsageError("a model needs 1 class and images of 8 pixels or more")
    progress(f"making {name}", 0, 1)
    if framework == "keras":
        _keras(name, stem, classes, size, Path(out), seed)
    elif framework == "torch":
        _torch(name, stem, classes, Path(out), seed)
    else:
        raise UsageError(f"--framework {framework}: keras or torch is expected")
    progress(f"making {name}", 1, 1)
    factory = "" if framework == "keras" else name + ("_cifar" if stem == "cifar" else "")
    return {"path": out, "parameters": parameters(name, stem, classes), "factory": factory}


def make_network(name: str, out: str, seed: int = 0, progress: Progress = quiet) -> Dict[str, Any]:
    """Write one of `tensors.NETWORKS` with seeded random weights, as a state_dict.

    Returns:
        `path`, `parameters`, and `factory`.

    Raises:
        IncompatibleError: PyTorch is not installed.
    """

    def build() -> Any:
        return getattr(importlib.import_module(f"optimize.zoo.{NETWORKS[name].module}"), name)()

    progress(f"making {name}", 0, 1)
    _save_torch(build, Path(out), seed)
    progress(f"making {name}", 1, 1)
    return {"path": out, "parameters": NETWORKS[name].parameters, "factory": name}


def installed_keras() -> Any:
    """`tf.keras` of either generation.

    Raises:
        IncompatibleError: There is no TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        import tensorflow as tf

        return tf.keras
    except ImportError as error:
        raise IncompatibleError(f"the zoo's Keras models need TensorFlow: {error}", "pip install tensorflow") from None


def save_keras(model: Any, out: Path) -> None:
    """Save a Keras model as `.keras` in one rename: a zip archive, or HDF5 where Keras is 2.12 or older."""
    with jsonfile.replacing_file(out) as part, tempfile.TemporaryDirectory(dir=str(out.parent)) as scratch:
        made = Path(scratch, "model.keras")
        model.save(str(made))
        if made.is_dir():  # TensorFlow before 2.12 writes a SavedModel for a suffix it does not know
            raise IncompatibleError("this TensorFlow does not write .keras files", "use TensorFlow 2.12 or newer")
        os.replace(made, part)


def _keras(name: str, stem: str, classes: int, size: int, out: Path, seed: int) -> None:
    from optimize.zoo.keras_resnet import build

    keras = installed_keras()
    keras.utils.set_random_seed(seed)
    save_keras(build(keras, name, stem, classes, size), out)


def _torch(name: str, stem: str, classes: int, out: Path, seed: int) -> None:
    def build() -> Any:
        from optimize.zoo.torch_resnet import ResNet

        return ResNet(name, stem, classes)

    _save_torch(build, out, seed)


def _save_torch(build: Callable[[], Any], out: Path, seed: int) -> None:
    try:
        import torch
    except ImportError as error:
        raise IncompatibleError(f"--framework torch needs PyTorch: {error}", "pip install torch") from None
    torch.manual_seed(seed)
    with jsonfile.replacing_file(out) as part:
        torch.save(build().state_dict(), part)
