"""`optimize zoo list|make|train`: ResNets with random or briefly trained weights, other networks with random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import typer
from typing_extensions import Annotated

from optimize.cli import options
from optimize.cli.command import command
from optimize.cli.console import answer, progress, say

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="ResNets with random or briefly trained weights, in Keras or PyTorch, and networks of other tasks in PyTorch.",
)

Name = Annotated[str, typer.Argument(help="resnet18, resnet34, resnet50, resnet101 or resnet152.")]
_STEM = "imagenet (7x7/2 and pooling) or cifar (3x3)"
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
Stem = Annotated[str, typer.Option("--stem", help=f"{_STEM}.")]


@app.command("list")
@command
def list_models() -> None:
    """The models that the zoo makes, with their parameters (of ResNets at 1,000 classes), frameworks and input."""
    from optimize import zoo

    models = zoo.catalogue()
    answer(models, [_line(model) for model in models], asked=True)


def _line(model: Dict[str, Any]) -> str:
    shape = f"  --task tensors --input-shape {_shape(model['input_shape'])}" if model["input_shape"] else ""
    return f"{model['name']:20} {model['parameters']:>12,} parameters  {', '.join(model['frameworks']):12}{shape}"


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


@app.command()
@command
def make(
    name: Annotated[str, typer.Argument(help="Of `optimize zoo list`.")],
    framework: Annotated[
        Optional[str],
        typer.Option("--framework", help="keras or torch [default: keras for ResNets, torch for others]."),
    ] = None,
    stem: Annotated[Optional[str], typer.Option("--stem", help=f"Of ResNets: {_STEM} [default: imagenet].")] = None,
    classes: Annotated[
        Optional[int], typer.Option("--classes", min=1, help="Of ResNets: classes it tells apart [default: 10].")
    ] = None,
    size: Annotated[
        Optional[int],
        typer.Option("--size", min=8, help="Of ResNets: height and width of the images, pixels [default: 32]."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the weights.")] = 0,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="File to write [default: NAME.keras or NAME.pt here].")
    ] = None,
    force: Force = False,
) -> None:
    """Make a model with random weights."""
    from optimize import api
    from optimize.zoo.tensors import NETWORKS

    with progress() as report:
        path = api.zoo_make(name, framework, stem, classes, size, seed, out, report, force)
    answer({"path": str(path)}, [str(path)])
    how = ""
    if name in NETWORKS:
        how = f" --factory {name} --input-shape {_shape(NETWORKS[name].input_shape)} --task tensors"
    elif framework == "torch":
        how = f" --factory {name}{'_cifar' * (stem == 'cifar')} --input-shape {_shape((3, size or 32, size or 32))}"
    say(f"next: optimize build {path}{how} --precision fp16")


@app.command()
@command
def train(
    name: Name,
    data: Annotated[str, options.data("Images to train on, and test images for the held-out accuracy.")] = "cifar10",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the images.")] = 10,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images in each step.")] = 64,
    stem: Stem = "imagenet",
    images: Annotated[Optional[int], typer.Option("--images", min=1, help="Train on that many images only.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the weights, the order and the augmentation.")] = 0,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", metavar="DIR", help="Folder for the file [default: .].")
    ] = None,
    force: Force = False,
) -> None:
    """Train a Keras model for some epochs and save it as NAME_DATA_bsBATCH_epochsN.keras."""
    from optimize import api

    with progress() as report:
        done = api.zoo_train(name, data, epochs, batch, stem, images, seed, out, report, force)
    answer(done, [done["path"]])
    say(f"next: optimize build {done['path']} --precision fp16,int8 --data {data} --preprocess unit")
