"""Models named by their library: over a stand-in for timm with two small nets, and the libraries where they are."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import child
from engines.errors import IncompatibleError, UsageError
from engines.torch import library_model
from optimize import api
from optimize.sources import recognise
from optimize.zoo import library

TIMM = """
import types
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=7, channels=3):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 8, 3), nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Odd(Net):  # its last matrix is not its classifier
    def __init__(self, num_classes=7):
        super().__init__(num_classes)
        self.extra = nn.Linear(8, 3)

NETS = {"small": Net, "odd": Odd, "squash": Net}

def is_model(name):
    return name in NETS

def create_model(name, pretrained=True, **options):
    assert not pretrained, "nothing is downloaded"
    return NETS[name](**options)

class Config(dict):
    to_dict = dict.copy

def get_pretrained_cfg(name):
    mode = "squash" if name == "squash" else "center"
    numbers = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return Config(input_size=(3, 32, 32), interpolation="bicubic", crop_pct=0.875, crop_mode=mode, **numbers)

data = types.SimpleNamespace(resolve_data_config=dict)
"""

PREPROCESS = "resize=36,crop=32,interp=bicubic,unit,mean=0.5,0.5,0.5;std=0.25,0.25,0.25"


@pytest.fixture()
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A timm of two small nets, an empty cache, and a folder to work in."""
    pytest.importorskip("torch")
    place = tmp_path / "packages"
    (place / "timm-9.9.dist-info").mkdir(parents=True)
    (place / "timm-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 9.9\n")
    (place / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    sys.modules.pop("timm", None)


def test_names_of_libraries_are_told_from_files() -> None:
    assert library.named("timm:mobilenetv2_100") and library.named("torchvision:resnet50.x")
    assert not any(library.named(text) for text in ("resnet50", "timm:", "net.py:resnet", "timm:a/b", "hf:timm:x"))


def test_a_name_becomes_a_file_with_random_weights_once(timm: Path) -> None:
    spec = recognise("timm:small")
    file = Path(spec.path)
    assert (file.name, spec.kind, spec.factory) == ("timm-small-random.pt", "torch-state-dict", "timm:small")
    assert "timm-9.9-torch-" in file.parent.name and spec.options == {"weights": "random"}
    assert spec.input_shape == (3, 32, 32) and spec.preprocess and spec.preprocess["text"] == PREPROCESS
    digest, made = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns
    time.sleep(0.01)
    assert recognise("timm:small", input_shape="3x40x40", preprocess="raw").input_shape == (3, 40, 40)
    assert file.stat().st_mtime_ns == made
    file.with_suffix(".json").write_text("{")  # what is damaged is made again, and is the same
    assert recognise("timm:small").path == spec.path and hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert file.stat().st_mtime_ns > made
    assert library.name_of(file) == "timm:small" and library.beside(file, "x.onnx") == timm / "x.onnx"
    assert library.name_of(timm / "x.pt") is None and library.beside(timm / "x.pt", "x.onnx") == timm / "x.onnx"


def test_what_the_library_does_not_tell_is_left_open(timm: Path) -> None:
    squashed = recognise("timm:squash")
    assert squashed.preprocess is None and squashed.input_shape == (3, 32, 32)
    assert recognise("timm:small", task="tensors").preprocess is None


def test_mistakes_are_told(timm: Path) -> None:
    with pytest.raises(UsageError, match="no model of timm has that name"):
        recognise("timm:smal")
    assert not list((timm.parent / "cache").rglob("*smal*"))
    with pytest.raises(UsageError, match="names its module itself"):
        recognise("timm:small", factory="resnet18")
    (timm / "timm:small").write_bytes(b"\x89PNG")
    with pytest.raises(Exception, match="an image"):
        recognise("timm:small")  # a file of that name is a file


def test_a_library_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "version_of", lambda name: "" if name == "torchvision" else "1")
    with pytest.raises(IncompatibleError, match="needs torchvision") as missing:
        recognise("torchvision:resnet50")
    assert missing.value.hint == "pip install torchvision"


def test_a_library_that_does_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(IncompatibleError, match="nms does not exist") as caught:
        library_model("torchvision:resnet50")
    assert "pip install torchvision" in caught.value.hint


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """ImageNet's way: a folder a class, photographs of all sizes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("n01440764", "n01443537"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for n in range(20):
            height, width = rng.integers(30, 90, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{n}.png")
    return tmp_path / "images"


@pytest.mark.slow
def test_a_named_model_is_built_and_measured_as_random(timm: Path, folder: Path) -> None:
    done = api.build("timm:odd", precision="fp32", batch="1,4", backend="onnxruntime", data=str(folder))
    (bundle,) = done.bundles
    assert bundle.path.parent == timm / "timm-odd-random.optimized"
    assert "random weights" in bundle.manifest["flags"] and bundle.manifest["model"]["name"] == "timm-odd-random.pt"
    assert bundle.manifest["preprocess"]["text"] == PREPROCESS
    assert bundle.manifest["model"]["sha256"] == hashlib.sha256(Path(done.model).read_bytes()).hexdigest()
    assert any("weights are random" in line for line in done.warnings)
    assert "--baseline timm:odd " in api.next_command(done, data=str(folder))
    asked = {"rounds": 1, "warmup": 0.0, "duration": 0.02, "out": None}
    run, failures = api.bench([bundle.path], "1,4", baseline="timm:odd", data=str(folder), **asked)
    assert failures == []
    for row in run["rows"]:
        assert "random weights" in row["flags"] and row["dataset"]["n"] > 0 and row["agreement"] in (None, 1.0)
    assert {row["role"] for row in run["rows"]} == {"engine", "original"}


REAL = (
    ("timm:mobilenetv2_100", (3, 224, 224), "resize=256,crop=224,interp=bicubic"),
    ("timm:efficientvit_b0", (3, 224, 224), "resize=235,crop=224,interp=bicubic"),
    ("torchvision:resnet18", (3, 224, 224), "resize=256,crop=224,interp=bilinear"),
    ("torchvision:lraspp_mobilenet_v3_large", (3, 520, 520), None),
)


@pytest.mark.parametrize(("name", "shape", "preprocess"), REAL)
def test_the_real_libraries(name: str, shape: Any, preprocess: Any, tmp_path: Path, monkeypatch: Any) -> None:
    try:
        library_model(name)
    except IncompatibleError as error:
        pytest.skip(error.message)
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path))
    spec = recognise(name)
    assert spec.input_shape == shape and ((spec.preprocess or {}).get("text") or "").startswith(preprocess or "")
    assert (spec.preprocess is None) is (preprocess is None)
    loaded = child.call("optimize.exporters.trial:load", {"spec": spec.to_json()})
    assert loaded is not None or os.path.getsize(spec.path) > 1e6
