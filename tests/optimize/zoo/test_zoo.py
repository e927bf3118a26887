"""The zoo's networks are torchvision's: counts, names, and the same numbers from Keras and PyTorch."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import engines
from calib.preprocess import parse
from engines import child, keras
from engines.errors import UsageError
from engines.spec import A_LINE
from optimize import api, zoo
from optimize.pipeline.inputs import child_env
from optimize.sources import recognise
from optimize.zoo import shapes
from optimize.zoo.tensors import NETWORKS

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
"""torchvision's, as its documentation lists them."""

needs_tensorflow = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is missing")
PROBES = str(Path(__file__).parent / "probes")


def test_the_catalogue_has_torchvisions_counts():
    found = zoo.catalogue()
    assert {m["name"]: m["parameters"] for m in found if m["task"] == "classify"} == COUNTS
    others = {m["name"]: m for m in found if m["task"] == "tensors"}
    assert list(others) == list(NETWORKS) and others["unet"]["input_shape"] == [1, 512, 512]
    assert all(m["frameworks"] == ["torch"] for m in others.values())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("cifar10", "resnet34_cifar10_bs64_epochs10.keras"),
        ("some/where/my photos/", "resnet34_my-photos_bs64_epochs10.keras"),
        ("x/set.v2.npz", "resnet34_set.v2_bs64_epochs10.keras"),
        ("..", "resnet34_data_bs64_epochs10.keras"),
    ],
)
def test_files_are_named_as_the_users_are(data, expected):
    assert zoo.file_name("resnet34", data, 64, 10) == expected


@pytest.mark.parametrize(("name", "stem"), [("resnet20", "imagenet"), ("resnet18", "large")])
def test_unknown_names_are_usage_errors(name, stem):
    with pytest.raises(UsageError):
        shapes.find(name, stem)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet152"])
@pytest.mark.parametrize("stem", shapes.STEMS)
def test_torch_modules_have_the_counts_of_the_formula(name, stem):
    torch = pytest.importorskip("torch")
    from optimize.zoo.torch_resnet import ResNet

    with torch.device("meta"):
        module = ResNet(name, stem, 10)
    assert sum(p.numel() for p in module.parameters()) == shapes.parameters(name, stem, 10)


@pytest.mark.parametrize("name", shapes.NAMES)
@pytest.mark.parametrize("stem", shapes.STEMS)
def test_a_state_dict_is_known_by_its_shapes(name, stem):
    torch = pytest.importorskip("torch")
    from optimize.zoo.torch_resnet import ResNet

    with torch.device("meta"):
        found = {key: tuple(tensor.shape) for key, tensor in ResNet(name, stem, 9).state_dict().items()}
    assert shapes.guess(found) == (name, stem, 9)
    assert shapes.guess({**found, "extra.weight": (3,)}) is None
    assert shapes.guess({k: v for k, v in found.items() if not k.startswith("layer4.1.")}) is None
    assert shapes.guess({}) is None


def test_state_dicts_have_torchvisions_names():
    torch = pytest.importorskip("torch")
    from optimize.zoo.torch_resnet import ResNet

    with torch.device("meta"):
        basic, deep = ResNet("resnet18").state_dict(), ResNet("resnet50").state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["conv1.weight", *(f"bn1.{n}" for n in norm)]
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            for i in (1, 2):
                expected += [f"layer{stage}.{block}.conv{i}.weight"]
                expected += [f"layer{stage}.{block}.bn{i}.{n}" for n in norm]
            if stage > 1 and block == 0:
                expected += [f"layer{stage}.0.downsample.0.weight"]
                expected += [f"layer{stage}.0.downsample.1.{n}" for n in norm]
    assert list(basic) == [*expected, "fc.weight", "fc.bias"]
    assert len(deep) == 320
    assert tuple(deep["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(deep["layer3.5.conv3.weight"].shape) == (1024, 256, 1, 1)
    assert tuple(deep["fc.weight"].shape) == (1000, 2048)


@pytest.mark.parametrize(("stem", "factory"), [("imagenet", "resnet18"), ("cifar", "resnet18_cifar")])
def test_a_made_state_dict_runs_with_its_factory(tmp_path, stem, factory):
    pytest.importorskip("torch")
    out = str(tmp_path / "m.pt")
    made = child.call(
        "optimize.zoo.make:make",
        {"name": "resnet18", "framework": "torch", "stem": stem, "classes": 7, "size": 32, "out": out, "seed": 3},
    )
    assert made == {"path": out, "parameters": shapes.parameters("resnet18", stem, 7), "factory": factory}
    x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    with engines.open(recognise(out, factory=factory, input_shape="3x32x32")) as runner:
        assert runner.infer({runner.inputs[0].name: x})["output"].shape == (2, 7)


@pytest.mark.slow
@needs_tensorflow
def test_keras_and_torch_give_the_same_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    from optimize.zoo.torch_resnet import ResNet

    cases = []
    for name, stem in (("resnet18", "imagenet"), ("resnet18", "cifar"), ("resnet50", "imagenet")):
        torch.manual_seed(1)
        module = ResNet(name, stem, 5)
        x = torch.rand(2, 3, 40, 40)
        module.train()(x)  # running statistics that are not 0 and 1
        module.eval()
        with torch.inference_mode():
            expected = torch.softmax(module(x), 1).numpy()
        path = str(tmp_path / f"{name}-{stem}.npz")
        np.savez(path, **{f"w:{k}": v.numpy() for k, v in module.state_dict().items()}, x=x.numpy(), expected=expected)
        cases.append([name, stem, path])
    sys.path.append(PROBES)
    try:
        found = child.call("zoo_probe:compare", {"cases": cases})
    finally:
        sys.path.remove(PROBES)
    for case, seen in zip(cases, found):
        assert seen["difference"] < 2e-5, case
        assert seen["parameters"] == shapes.parameters(case[0], case[1], 5)


@pytest.mark.slow
@needs_tensorflow
def test_training_learns_and_saves_under_the_users_naming(tmp_path, cifar):
    told = []
    done = child.call(
        "optimize.zoo.train:train",
        {
            "name": "resnet18",
            "data": str(cifar),
            "epochs": 3,
            "batch": 16,
            "out": str(tmp_path),
            "images": 320,
            "lr": 0.02,
        },
        lambda what, n, total: told.append((what, n, total)),
    )
    path = Path(done["path"])
    assert path == tmp_path / f"resnet18_{cifar.name}_bs16_epochs3.keras"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert done["images"] == 320
    assert done["test_images"] == 200
    assert done["top1"] > 0.3  # ten colours: chance is 0.1
    steps = [(n, total) for what, n, total in told if what.startswith("training")]
    assert steps == [(i + 1, 60) for i in range(60)]
    assert [one["epoch"] for one in done["history"]] == [1, 2, 3]
    last = done["history"][-1]
    assert (last["loss"], last["test_top1"]) == (done["loss"], done["top1"])
    assert 1 >= last["train_top1"] > done["history"][0]["train_top1"] > 0
    lines = [what for what, _, total in told if total == A_LINE]
    assert len(lines) == 3 and lines[-1].startswith("epoch 3 of 3: loss ")
    assert f"{100 * last['train_top1']:.2f}% in training, {100 * done['top1']:.2f}% of 200 test" in lines[-1]
    spec = recognise(str(path))
    assert keras.policy_of(spec) == "float32"
    assert evaluate(spec, cifar, tmp_path) == pytest.approx(done["top1"], abs=0.01)


def evaluate(spec, data, folder):
    """The accuracy as bench measures it, on all test images."""
    spec = spec.with_(preprocess=parse("unit").to_json(), form="function")
    arguments = {"spec": spec.to_json(), "data": str(data), "out": str(folder / "p.npz"), "batch": 50, "images": None}
    return child.call("bench.accuracy:evaluate", arguments, env=child_env(spec))["top1"]


@pytest.mark.slow
@needs_tensorflow
def test_the_command_tells_each_epoch(tmp_path, cifar, optimize_command):
    words = ("zoo", "train", "resnet18", "--data", cifar, "--images", "64", "--batch", "32", "--epochs", "2")
    done = optimize_command(*words, "--json", "--no-progress", "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    history = json.loads(done.stdout)["history"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    for line, one in zip(lines, history):
        assert f"{100 * one['train_top1']:.2f}% in training, {100 * one['test_top1']:.2f}% of " in line


@needs_tensorflow
def test_bad_budgets_are_usage_errors(tmp_path, cifar):
    base = {"name": "resnet18", "data": str(cifar), "epochs": 1, "batch": 16, "out": str(tmp_path)}
    for change in ({"epochs": 0}, {"batch": 0}, {"name": "resnet19"}, {"stem": "x"}, {"data": str(tmp_path / "none")}):
        with pytest.raises(UsageError):
            child.call("optimize.zoo.train:train", {**base, **change})
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_there_is_not_replaced_unasked(tmp_path, cifar):
    mine = tmp_path / "resnet34.keras"
    mine.write_bytes(b"trained for days")
    trained = tmp_path / zoo.file_name("resnet18", str(cifar), 64, 2)
    trained.write_bytes(b"trained for days")
    with pytest.raises(UsageError, match=r"resnet34\.keras is there already") as caught:
        api.zoo_make("resnet34", out=mine)
    assert "--force" in caught.value.hint
    with pytest.raises(UsageError, match="is there already"):
        api.zoo_train("resnet18", str(cifar), 2, 64, out=tmp_path)
    assert mine.read_bytes() == trained.read_bytes() == b"trained for days"
    pytest.importorskip("torch")
    api.zoo_make("resnet18", "torch", size=16, out=mine, force=True)
    assert mine.stat().st_size > 1000


def test_a_file_is_no_folder_to_train_into(tmp_path, optimize_command):
    done = optimize_command("zoo", "train", "resnet18", "-o", tmp_path / "mine.keras")
    assert done.exit_code == 2 and "a folder is expected" in done.stderr and not (tmp_path / "mine.keras").exists()
