"""Models of torchvision and timm by name: `torchvision:resnet50`, `timm:mobilenetv2_100`, with seeded random weights.

A name becomes a state_dict in this user's cache, whose own name says that its weights are random, with what the library
tells of its input beside it. Nothing is downloaded, and this process imports no framework.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Dict, Optional, Union

from calib.datasets.find import cache_dir
from engines import child, jsonfile
from engines.device import version_of
from engines.errors import DamagedError, IncompatibleError
from engines.spec import Progress, quiet
from engines.torchfile import LIBRARIES

_NAME = re.compile(rf"({'|'.join(LIBRARIES)}):([A-Za-z0-9_.]+)")

_SCHEMA = "optimize.library/1"


def named(text: Union[str, Path]) -> bool:
    """Whether a model is named by its library rather than by a file."""
    return bool(_NAME.fullmatch(str(text)))


def fetch(name: str, seed: int = 0) -> Dict[str, Any]:
    """The file of a model that is named by its library; it is made where it is not there yet.

    Returns:
        What `make` does.

    Raises:
        UsageError: The library has no model of that name.
        IncompatibleError: The library, or PyTorch, is not installed.
    """
    library, _, model = name.partition(":")
    versions = {package: version_of(package) for package in (library, "torch")}
    for package, version in versions.items():
        if not version:
            raise IncompatibleError(f"{name} needs {package}, which is not installed", f"pip install {library}")
    place = "-".join(f"{package}-{version}" for package, version in versions.items())
    file = _home() / place / f"{library}-{model}-random{seed or ''}.pt"
    about = file.with_suffix(".json")
    try:
        if file.is_file():
            return {**jsonfile.read(about, _SCHEMA), "path": str(file)}
    except (DamagedError, FileNotFoundError):  # made anew
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    made = child.call("optimize.zoo.library:make", {"name": name, "out": str(file), "seed": seed})
    jsonfile.write(about, {"schema": _SCHEMA, **made})
    return {**made, "path": str(file)}


def make(name: str, out: str, seed: int = 0, progress: Progress = quiet) -> Dict[str, Any]:
    """Write a library's model with seeded random weights: a stage for a child process.

    Returns:
        `name`, `input_shape` (C, H, W) and `preprocess` (text of `--preprocess`) by the configuration of the library's
        own weights, None where it does not tell; `parameters`.
    """
    from engines.torch import library_model, torch_module

    torch = torch_module()
    torch.manual_seed(seed)
    module = library_model(name)().eval()
    with jsonfile.replacing_file(Path(out)) as part, open(part, "wb") as file:
        torch.save(module.state_dict(), file)  # by its name the archive would hold that of the temporary file
    library, _, model = name.partition(":")
    told = _timm(model) if library == "timm" else _torchvision(model)
    return {"name": name, **told, "parameters": sum(p.numel() for p in module.parameters())}


def _timm(model: str) -> Dict[str, Any]:
    import timm

    told = timm.get_pretrained_cfg(model)
    found = timm.data.resolve_data_config(told.to_dict() if told else {})
    shape = [int(n) for n in found["input_size"]]
    # `squash` and `border` take the whole image, which is a resize and no crop
    ratio = found["crop_pct"] if found["crop_mode"] == "center" else 1.0
    return {
        "input_shape": shape,
        "preprocess": _text(math.floor(shape[1] / ratio), shape[1], found["interpolation"], found)
        if told and found["crop_mode"] == "center" and shape[1] == shape[2] and shape[0] == 3
        else None,
    }


def _torchvision(model: str) -> Dict[str, Any]:
    from torchvision import models

    told = getattr(models.get_model_weights(model), "DEFAULT", None)
    images = told.transforms() if told is not None else None
    crop, resize = getattr(images, "crop_size", None), getattr(images, "resize_size", None)
    size = (crop or resize or [None])[0]
    text = None
    if images is not None and crop and resize and len(crop) == len(resize) == 1:
        numbers = {"mean": images.mean, "std": images.std}
        text = _text(resize[0], crop[0], images.interpolation.value, numbers)
    return {"input_shape": [3, size, size] if size else None, "preprocess": text}


def _text(resize: int, crop: int, interpolation: str, numbers: Dict[str, Any]) -> str:
    mean, std = (",".join(f"{value:g}" for value in numbers[key]) for key in ("mean", "std"))
    return f"resize={resize},crop={crop},interp={interpolation},unit,mean={mean};std={std}"


def _home() -> Path:
    return cache_dir() / "models"


def name_of(path: Path) -> Optional[str]:
    """The name that stands for a file that `fetch` gave; None for other files."""
    if _home() not in path.parents:
        return None
    try:
        return str(jsonfile.read(path.with_suffix(".json"), _SCHEMA)["name"])
    except (DamagedError, FileNotFoundError):
        return None


def beside(path: Path, name: str) -> Path:
    """Where what is made of a model goes by default: beside its file, or here if the model is named by its library."""
    return Path.cwd() / name if _home() in path.parents else path.with_name(name)
