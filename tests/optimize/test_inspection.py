"""What `optimize inspect` tells of a file that cannot be built as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines import manifest
from engines.errors import DamagedError
from optimize import inspection


@pytest.mark.parametrize("factory", ["resnet18", "resnet50_cifar"])
def test_weights_tell_what_they_hold_and_what_building_needs(
    optimize_command: Any, tmp_path: Path, factory: str
) -> None:
    torch = pytest.importorskip("torch")
    from optimize.zoo import torch_resnet

    module = getattr(torch_resnet, factory)(num_classes=7)
    path = tmp_path / "weights.pt"
    torch.save(module.state_dict(), path)
    done = optimize_command("inspect", path)
    assert done.exit_code == 0, done.stderr
    parameters = sum(p.numel() for p in module.parameters())
    assert f"{parameters:,} parameters" in done.stdout
    stem = "cifar" if factory.endswith("cifar") else "imagenet"
    assert f"looks like {factory.split('_')[0]} of the zoo, {stem} stem, 7 classes" in done.stdout
    assert f"--factory {factory} " in done.stdout
    about = json.loads(optimize_command("inspect", path, "--json").stdout)
    assert about["parameters"] == parameters and about["guess"]["factory"] == factory
    assert {one["name"]: tuple(one["shape"]) for one in about["tensors"]} == {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
    }


def test_other_weights_need_a_factory_of_the_users(optimize_command: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    done = optimize_command("inspect", tmp_path / "w.pt")
    assert done.exit_code == 0 and "looks like" not in done.stdout
    assert "--factory FILE.py:NAME" in done.stdout and "2x3" in done.stdout
    assert optimize_command("build", tmp_path / "w.pt").exit_code == 2, "to build takes more"


def test_options_are_told_one_a_line_and_tables_by_their_size():
    options = {
        "trtexec": ["trtexec", "--onnx=a b.onnx"],
        "dla": None,
        "clocks": {"state": "free"},
        "builds": [{"ms": 1}],
    }
    told = inspection._options_lines(options, [1, 64])
    assert [line.split("  ")[0] for line in (line.strip() for line in told)][1:] == ["clocks", "builds"]
    assert told[0].strip() == "trtexec, batch 64  trtexec '--onnx=a b.onnx'"
    assert [line.split()[-1] for line in told[1:]] == ["free", "them)"]


def test_layers_in_another_precision_than_asked_are_warned_of_and_fail_nothing(
    optimize_command: Any, tiny_onnx: Path, tmp_path: Path
) -> None:
    """ONNX Runtime computes FP16 in float32 on a CPU; a bundle of before this was recorded is read as it is."""
    pytest.importorskip("onnxruntime")
    words = ("build", tiny_onnx, "--precision", "fp16", "--batch", 1, "--backend", "onnxruntime", "-o", tmp_path)
    done = optimize_command(*words)
    assert done.exit_code == 0
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("warning: ")]
    assert line.startswith("warning: fp16-onnxruntime") and "layers of which f16 was asked run in another" in line
    told = json.loads(optimize_command(*words, "--json").stdout)
    assert told["warnings"] == [line[len("warning: ") :]]
    (bundle,) = tmp_path.glob("fp16-*")
    about = json.loads(optimize_command("inspect", bundle, "--json").stdout)
    found = about["manifest"]["comparison"]
    assert found == told["bundles"][0]["comparison"] and found["met"] == 0 < len(found["differ"]) == found["asked"]
    assert told["warnings"] == [f"{bundle.name}: {text}" for text in about["warnings"]]
    text = optimize_command("inspect", bundle).stdout
    assert f"  warning     {about['warnings'][0]}" in text and f"0 of {found['asked']} layers run in" in text

    old = {key: value for key, value in about["manifest"].items() if key != "comparison"}
    manifest.write(bundle, old)
    shown = optimize_command("inspect", bundle)
    assert shown.exit_code == 0 and "unknown: built before it was recorded" in shown.stdout
    with pytest.raises(DamagedError, match=r"comparison\.differ"):
        manifest.write(bundle, {**old, "comparison": {**found, "differ": 4}})
