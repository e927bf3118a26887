"""`optimize build --dry-run` says what the build would say of the user's code, and makes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))

def wider():
    net = Net()
    net.more = torch.nn.Linear(4, 4)
    return net

def failing():
    raise RuntimeError("no such luck")
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch = pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n\nclass Net: ...\n")
    conv = torch.nn.Conv2d(3, 4, 3)
    torch.save({f"conv.{k}": v for k, v in conv.state_dict().items()}, tmp_path / "net.pt")
    return tmp_path / "net.pt"


@pytest.mark.parametrize(
    ("factory", "shape", "code", "words"),
    [
        ("net.py:Nett", "3x8x8", 2, ["has no 'Nett'", "it defines: "]),
        ("net.py:failing", "3x8x8", 2, ["no such luck"]),
        ("net.py:wider", "3x8x8", 1, ["does not fit net.py:wider"]),
        ("broken.py:Net", "3x8x8", 4, ["nowhere_at_all"]),
        ("net.py:Net", None, 2, ["--input-shape"]),
        ("net.py:Net", "1x8x8", 2, ["does not take an input of 1x8x8"]),
    ],
)
def test_a_dry_run_fails_as_the_build_does(
    optimize_command: Any, weights: Path, factory: str, shape: Any, code: int, words: list
) -> None:
    given = ["--factory", weights.with_name(factory.split(":")[0]).as_posix() + ":" + factory.split(":")[1]]
    given += ["--input-shape", shape] if shape else []
    dry = optimize_command("build", weights, *given, "--dry-run", "--no-progress")
    assert dry.exit_code == code and dry.stdout == "", dry.stderr
    for word in words:
        assert word in dry.stderr
    assert not weights.with_suffix(".optimized").exists()
    if "Nett" in factory:
        assert optimize_command("build", weights, *given, "--no-progress").stderr == dry.stderr


def test_a_dry_run_of_what_builds_makes_nothing(optimize_command: Any, weights: Path) -> None:
    words = ("--factory", f"{weights.with_name('net.py')}:Net", "--input-shape", "3x8x8", "--dry-run")
    done = optimize_command("build", weights, *words)
    assert done.exit_code == 0, done.stderr
    assert "it loads with " in done.stdout and not weights.with_suffix(".optimized").exists()
    assert optimize_command("build", weights, *words, "-q").stdout == done.stdout


@pytest.mark.slow
def test_a_dry_run_loads_custom_objects(optimize_command: Any, shared: Path, tmp_path: Path) -> None:
    """The real model of a user, with a file that lacks its class, and with the right one."""
    pytest.importorskip("tensorflow")
    model = next((shared / "models").glob("*.keras"))
    words = ("build", model, "--dry-run", "--json", "-o", tmp_path / "out", "--no-progress", "--custom-objects")
    (tmp_path / "empty.py").write_text("def other(): ...\n")
    missing = optimize_command(*words, f"{tmp_path / 'empty.py'}:ResidualBlock")
    assert missing.exit_code == 2 and "has no 'ResidualBlock'" in json.loads(missing.stdout)["error"]["message"]
    (tmp_path / "plain.py").write_text("class ResidualBlock: ...\n")
    unfit = optimize_command(*words, f"{tmp_path / 'plain.py'}:ResidualBlock")
    assert unfit.exit_code in (1, 2) and "ResidualBlock" in unfit.stderr
    good = optimize_command(*words, f"{shared / 'models' / 'train.py'}:ResidualBlock")
    assert good.exit_code == 0, good.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_what_the_build_refuses(optimize_command: Any, built: Any, tiny_onnx: Path) -> None:
    engine = optimize_command("build", built.bundles[0].path, "--dry-run")
    assert engine.exit_code == 2 and "is an engine already" in engine.stderr
    option = optimize_command("build", tiny_onnx, "--dla", "0", "--dry-run", "--backend", "onnxruntime")
    assert option.exit_code == 2 and "only TensorRT has this" in option.stderr
