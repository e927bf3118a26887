"""The networks of published tables, by name: who has the architecture here, and how one is made with random weights."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from engines import jsonfile
from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, quiet
from optimize.zoo.shapes import NAMES
from optimize.zoo.tensors import NETWORKS


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
    **{name: (Way("torch", "torch", "zoo", name),) for name in NETWORKS},
}
"""PyTorch first: its models have planes first at the boundary, as the published engines have."""

Size = Tuple[int, int]
"""Height and width of the images, pixels."""


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


def file_name(made: Way, size: Size, classes: int = 0) -> str:
    """The file of a model, which tells all that it was made of."""
    height, width = size
    pixels = f"{width}px" if width == height else f"{width}x{height}px"
    words = [made.name.lower(), pixels, f"{classes}classes" if classes else "", "random"]
    return "-".join(filter(None, words)) + (".pt" if made.framework == "torch" else ".keras")


def task_options(name: str) -> Dict[str, Any]:
    """The task of an architecture, for `optimize.sources.recognise`."""
    return {"task": "tensors"} if name in NETWORKS else {}


def torch_options(name: str, size: Size) -> Dict[str, Any]:
    """Factory and input of a state_dict of an architecture, for `optimize.sources.recognise`."""
    planes = NETWORKS[name].input_shape[0] if name in NETWORKS else 3
    return {"factory": name, "input_shape": (planes, *size)}


def make(way: List[str], size: Sequence[int], classes: int, out: str, seed: int = 0, progress: Progress = quiet) -> str:
    """Write a model with seeded random weights: a stage for a child process.

    Args:
        way: Fields of a `Way`.
        size: Height and width of the images, pixels; PyTorch's weights are the same for all.
        classes: Classes, 0 for ImageNet's 1,000; of no meaning for networks that are no classifiers.
        out: The file: a PyTorch state_dict, or `.keras`.
        seed: Of the weights.
        progress: Told what happens.

    Returns:
        The file.

    Raises:
        IncompatibleError: A package does not import, or makes square ones only.
    """
    from optimize.zoo.make import make as make_resnet
    from optimize.zoo.make import make_network

    made, classes = Way(*way), classes or 1000
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if made.name in NETWORKS:
        make_network(made.name, out, seed, progress)
        return out
    if made.maker == "zoo":
        if size[0] != size[1] and made.framework != "torch":
            raise IncompatibleError("the zoo's Keras models take square images", "pip install torch")
        framework = "torch" if made.framework == "torch" else "keras"
        make_resnet(made.name, framework, "imagenet", classes, size[0], out, seed, progress)
        return out
    progress(f"making {made.name}", 0, 1)
    try:
        _MAKERS[made.maker](made.name, size, classes, out, seed)
    except ImportError as error:
        raise IncompatibleError(f"{made.package} does not make {made.name}: {error}", "optimize doctor") from None
    progress(f"making {made.name}", 1, 1)
    return out


def _library(library: str, name: str, size: Sequence[int], classes: int, out: str, seed: int) -> None:
    from engines.torch import library_model, torch_module

    build = library_model(f"{library}:{name}")
    torch = torch_module()
    torch.manual_seed(seed)
    module = build(num_classes=classes)
    with jsonfile.replacing_file(out) as part:
        torch.save(module.state_dict(), part)


def _keras(name: str, size: Sequence[int], classes: int, out: str, seed: int) -> None:
    from optimize.zoo.make import installed_keras, save_keras

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a board's memory is not taken to draw random numbers
    keras = installed_keras()
    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, name)(weights=None, input_shape=(*size, 3), classes=classes)
    save_keras(model, Path(out))


_MAKERS: Dict[str, Callable[[str, Sequence[int], int, str, int], None]] = {
    "torchvision": partial(_library, "torchvision"),
    "timm": partial(_library, "timm"),
    "keras.applications": _keras,
}
