"""The networks of published tables, by name: who has the architecture here, and how one is made with random weights."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from engines import jsonfile
from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, quiet
from optimize.zoo.shapes import NAMES


class Way(NamedTuple):
    """One way to make an architecture."""

    framework: str
    """torch or tensorflow: what the model is then a model of."""
    package: str
    """What must be installed."""
    maker: str
    """zoo, torchvision, timm or keras.applications."""
    name: str
    """That the maker knows it by."""


ARCHITECTURES: Dict[str, Tuple[Way, ...]] = {
    **{name: (Way("torch", "torch", "zoo", name), Way("tensorflow", "tensorflow", "zoo", name)) for name in NAMES},
    "vgg19": (
        Way("torch", "torchvision", "torchvision", "vgg19"),
        Way("tensorflow", "tensorflow", "keras.applications", "VGG19"),
    ),
    "mobilenet_v2": (
        Way("torch", "torchvision", "torchvision", "mobilenet_v2"),
        Way("tensorflow", "tensorflow", "keras.applications", "MobileNetV2"),
    ),
    "inception_v4": (Way("torch", "timm", "timm", "inception_v4"),),
}
"""PyTorch first: its models have planes first at the boundary, as the published engines have."""


def way(architecture: str, framework: str = "") -> Way:
    """How an architecture is made here.

    Args:
        architecture: Of `ARCHITECTURES`.
        framework: torch or tensorflow where it must be that one.

    Raises:
        UsageError: No such architecture.
        IncompatibleError: What makes it is not installed, or no framework of that name has it.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(f"{architecture!r} is no architecture that is known here: {', '.join(ARCHITECTURES)}")
    ways = [one for one in ARCHITECTURES[architecture] if framework in ("", one.framework)]
    if not ways:
        raise IncompatibleError(f"{architecture} is not made in {framework} here")
    packages = list(dict.fromkeys(one.package for one in ways))
    found: Optional[Way] = next((one for one in ways if importlib.util.find_spec(one.package)), None)
    if found is None:
        needed = " or ".join(packages)
        raise IncompatibleError(f"{architecture} is made with {needed}, not installed here", f"pip install {needed}")
    return found


def file_name(made: Way, size: int, classes: int) -> str:
    """The file of a model, which tells all that it was made of."""
    suffix = ".pt" if made.framework == "torch" else ".keras"
    return f"{made.name.lower()}-{size}px-{classes}classes-random{suffix}"


def source_options(made: Way, size: int) -> Dict[str, Any]:
    """Options of `optimize.sources.recognise` for a model of `make`."""
    return {"factory": made.name, "input_shape": (3, size, size)} if made.framework == "torch" else {}


def make(way: List[str], size: int, classes: int, out: str, seed: int = 0, progress: Progress = quiet) -> str:
    """Write a model with seeded random weights: a stage for a child process.

    Args:
        way: Fields of a `Way`.
        size: Height and width of the images, pixels.
        classes: Classes.
        out: The file: a PyTorch state_dict, or `.keras`.
        seed: Of the weights.
        progress: Told what happens.

    Returns:
        The file.

    Raises:
        IncompatibleError: A package does not import.
    """
    made = Way(*way)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if made.maker == "zoo":
        from optimize.zoo.make import make as make_zoo

        framework = "torch" if made.framework == "torch" else "keras"
        make_zoo(made.name, framework, "imagenet", classes, size, out, seed, progress)
        return out
    progress(f"making {made.name}", 0, 1)
    try:
        _MAKERS[made.maker](made.name, size, classes, out, seed)
    except ImportError as error:
        raise IncompatibleError(f"{made.package} does not make {made.name}: {error}", "optimize doctor") from None
    progress(f"making {made.name}", 1, 1)
    return out


def _library(library: str, name: str, size: int, classes: int, out: str, seed: int) -> None:
    from engines.torch import library_model, torch_module

    build = library_model(f"{library}:{name}")
    torch = torch_module()
    torch.manual_seed(seed)
    module = build(num_classes=classes)
    with jsonfile.replacing_file(out) as part:
        torch.save(module.state_dict(), part)


def _keras(name: str, size: int, classes: int, out: str, seed: int) -> None:
    from optimize.zoo.make import installed_keras, save_keras

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a board's memory is not taken to draw random numbers
    keras = installed_keras()
    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=classes)
    save_keras(model, Path(out))


_MAKERS: Dict[str, Callable[[str, int, int, str, int], None]] = {
    "torchvision": partial(_library, "torchvision"),
    "timm": partial(_library, "timm"),
    "keras.applications": _keras,
}
