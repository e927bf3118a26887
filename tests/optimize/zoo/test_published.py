"""The networks of published tables: who makes them, and that what is made is built from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bench.suites import tables
from engines import child
from engines.errors import IncompatibleError, UsageError
from optimize.sources import recognise
from optimize.zoo import published


def test_every_architecture_that_a_suite_names_is_known() -> None:
    named = {
        cell["made"]["architecture"] for name in tables.names() for cell in tables.read(name)["cells"] if cell["made"]
    }
    assert len(named) > 4 and named <= set(published.ARCHITECTURES)


def test_an_unknown_one() -> None:
    with pytest.raises(UsageError, match="resnet152"):
        published.way("resnet20")
    with pytest.raises(IncompatibleError, match="not made in tensorflow"):
        published.way("inception_v4", "tensorflow")


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first way of which the package is there."""
    there = {"tensorflow"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in there else None)
    assert published.way("vgg19").maker == "keras.applications"
    assert published.way("resnet50").framework == "tensorflow"
    with pytest.raises(IncompatibleError) as error:
        published.way("inception_v4")
    assert error.value.hint == "pip install timm"
    there.clear()
    with pytest.raises(IncompatibleError, match="torchvision or tensorflow"):
        published.way("vgg19")
    there.update({"torch", "torchvision", "timm"})
    assert [published.way(name).maker for name in ("vgg19", "resnet50", "inception_v4")] == [
        "torchvision",
        "zoo",
        "timm",
    ]


def test_file_names_tell_models_apart() -> None:
    ways = [one for ways in published.ARCHITECTURES.values() for one in ways]
    sizes = ((224, 224), (299, 299), (272, 480), (480, 272))
    names = {published.file_name(one, size, 1000) for one in ways for size in sizes}
    assert len(names) == len(sizes) * len(ways)
    (detector,) = published.ARCHITECTURES["ssd_mobilenet_v2"]
    assert published.file_name(detector, (272, 480)) == "ssd_mobilenet_v2-480x272px-random.pt"


@pytest.mark.journey
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is missing")
def test_a_network_of_keras_applications(tmp_path: Path) -> None:
    made = published.Way("tensorflow", "tensorflow", "keras.applications", "MobileNetV2")
    out = str(tmp_path / "deeper" / published.file_name(made, (32, 32), 10))
    child.call("optimize.zoo.published:make", {"way": list(made), "size": [32, 32], "classes": 10, "out": out})
    assert recognise(out).kind.startswith("keras")


@pytest.mark.parametrize(("package", "maker", "name"), [("torchvision", "torchvision", "mobilenet_v2")])
def test_a_network_of_torchvision(tmp_path: Path, package: str, maker: str, name: str) -> None:
    pytest.importorskip(package)
    made = published.Way("torch", package, maker, name)
    out = str(tmp_path / published.file_name(made, (32, 32), 10))
    child.call("optimize.zoo.published:make", {"way": list(made), "size": [32, 32], "classes": 10, "out": out})
    spec = recognise(out, **published.torch_options(name, (32, 32)))
    assert (spec.kind, spec.factory, spec.input_shape) == ("torch-state-dict", name, (3, 32, 32))


def test_a_package_that_does_not_import_is_incompatible(tmp_path: Path) -> None:
    if importlib.util.find_spec("timm") is not None:
        pytest.skip("timm is installed")
    about = {"way": ["torch", "timm", "timm", "inception_v4"], "size": [299, 299], "classes": 9}
    with pytest.raises(IncompatibleError, match="timm:inception_v4 is a name of timm, which cannot be imported"):
        child.call("optimize.zoo.published:make", {**about, "out": str(tmp_path / "m")})


def test_a_network_of_another_task(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made = published.way("super_resolution")
    assert made.maker == "zoo" and published.task_options("resnet18") == {}
    out = str(tmp_path / published.file_name(made, (40, 32)))
    child.call("optimize.zoo.published:make", {"way": list(made), "size": [40, 32], "classes": 0, "out": out})
    about = {**published.task_options(made.name), **published.torch_options(made.name, (40, 32))}
    spec = recognise(out, **about)
    assert (spec.task, spec.input_shape) == ("tensors", (1, 40, 32)) and str(spec.factory).endswith(":super_resolution")


def test_keras_models_of_the_zoo_are_square(tmp_path: Path) -> None:
    made = ["tensorflow", "tensorflow", "zoo", "resnet18"]
    with pytest.raises(IncompatibleError, match="square"):
        published.make(made, (32, 40), 10, str(tmp_path / "m.keras"))
