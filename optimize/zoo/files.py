"""Files of zoo models: with random weights, or trained; none that is there is replaced unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Union

from engines import child
from engines.errors import UsageError
from engines.spec import Progress, quiet
from optimize.zoo import file_name


def zoo_make(
    name: str,
    framework: Optional[str] = None,
    stem: Optional[str] = None,
    classes: Optional[int] = None,
    size: Optional[int] = None,
    seed: int = 0,
    out: Optional[Union[str, Path]] = None,
    progress: Progress = quiet,
    force: bool = False,
) -> Path:
    """Make a zoo model with random weights, in a child process; returns its file.

    Args:
        name: Of `optimize.zoo.catalogue`.
        framework: keras or torch; by default keras for ResNets, and torch for the others, which have no other.
        stem, classes, size: Of ResNets, by default imagenet, 10 and 32; the others have their own.
        seed: Of the weights.
        out: The file, by default the name with the framework's suffix, here.
        progress: Told what happens.
        force: Replace a file that is there, which may be a trained model.

    Raises:
        UsageError: No such model or framework, a choice that the model does not have, or a file that is there.
    """
    from optimize.zoo.tensors import NETWORKS

    framework = framework or ("torch" if name in NETWORKS else "keras")
    suffix = {"keras": ".keras", "torch": ".pt"}.get(framework)
    if suffix is None:
        raise UsageError(f"--framework {framework}: keras or torch is expected")
    target = Path(out) if out else Path(name + suffix)
    _not_there(target, force)
    arguments: Dict[str, Any] = {"name": name, "out": str(target.resolve()), "seed": seed}
    if name in NETWORKS:
        if framework != "torch":
            raise UsageError(f"{name} is made in PyTorch only", "leave --framework out")
        if (stem, classes, size) != (None, None, None):
            raise UsageError(f"{name} has its own layers and takes any size", "leave --stem, --classes and --size out")
        child.call("optimize.zoo.make:make_network", arguments, progress)
        return target
    more = {"framework": framework, "stem": stem or "imagenet", "classes": classes or 10, "size": size or 32}
    child.call("optimize.zoo.make:make", {**arguments, **more}, progress)
    return target


def _not_there(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", "name another place with -o, or --force to replace it")


def zoo_train(
    name: str,
    data: str,
    epochs: int = 10,
    batch: int = 64,
    stem: str = "imagenet",
    images: Optional[int] = None,
    seed: int = 0,
    out: Optional[Union[str, Path]] = None,
    progress: Progress = quiet,
    force: bool = False,
) -> Dict[str, Any]:
    """Train a Keras zoo model for some epochs, in a child process; returns its `path` and accuracy.

    Raises:
        UsageError: No such model or data, an option out of range, `out` is named as a file, or the file is there and
            `force` is not given.
        DataError: The data has no labels, or too few images.
    """
    if out is not None and Path(out).suffix in (".keras", ".h5"):
        raise UsageError(
            f"-o {out}: a folder is expected; the file's name tells model, data and epochs", "leave -o out"
        )
    _not_there(Path(out or ".", file_name(name, data, batch, epochs)), force)
    arguments = {
        "name": name,
        "data": data,
        "epochs": epochs,
        "batch": batch,
        "stem": stem,
        "images": images,
        "seed": seed,
        "out": str(Path(out or ".").resolve()),
    }
    done: Dict[str, Any] = child.call("optimize.zoo.train:train", arguments, progress)
    return done
