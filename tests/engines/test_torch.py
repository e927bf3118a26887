"""PyTorch files in every kind run alike, and no pickle in them is ever executed."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import engines
from engines import torchfile
from engines.errors import IncompatibleError, ModelError, UsageError
from engines.spec import RunnerSpec

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)
    def forward(self, image):
        return self.fc(torch.relu(self.norm(self.conv(image))).mean((2, 3)))
class Two(Net):
    def forward(self, image):
        y = super().forward(image)
        return {"out": y, "aux": y * 2}
def broken():
    raise ValueError("no such width")
def number():
    return 3
"""


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def made(torch, tmp_path_factory):
    """One module in every kind of file, and what it gives for `x`."""
    root = tmp_path_factory.mktemp("torch")
    (root / "net.py").write_text(NET)
    sys.path.insert(0, str(root))
    try:
        net = importlib.import_module("net")
    finally:
        sys.path.remove(str(root))
    torch.manual_seed(0)
    module = net.Net(7).eval()
    state, x = module.state_dict(), torch.rand(2, 3, 8, 8)
    torch.save(state, root / "state.pt")
    torch.save(state, root / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, root / "checkpoint.pt")
    torch.save(module, root / "whole.pt")
    torch.save(module, root / "whole_old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(module), str(root / "script.pt"))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, str(root / "program.pt2"))
    with torch.inference_mode():
        return root, x.numpy(), module(x).numpy()


def spec(root: Path, name: str, kind: str = "torch-state-dict", **more) -> RunnerSpec:
    if kind == "torch-state-dict":
        more = {"factory": f"{root / 'net.py'}:Net", **more}
    if kind != "torch-pt2":
        more = {"input_shape": (3, 8, 8), **more}
    return RunnerSpec(str(root / name), kind, **more)


KINDS = [
    ("state.pt", "torch-state-dict"),
    ("old.pt", "torch-state-dict"),
    ("checkpoint.pt", "torch-state-dict"),
    ("script.pt", "torchscript"),
    ("program.pt2", "torch-pt2"),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_kind_gives_what_the_module_gives(made, name, kind):
    root, x, expected = made
    with engines.open(spec(root, name, kind)) as runner:
        assert [t.shape for t in runner.inputs] == [(None, 3, 8, 8)]
        assert [t.shape for t in runner.outputs] == [(None, 7)]
        assert runner.spec.layout == "NCHW"
        fed = x.copy()
        query = runner.bind({runner.inputs[0].name: fed})
        assert np.allclose(query()["output"], expected, atol=1e-6)
        fed[:] = 0
        assert not np.allclose(query()["output"], expected, atol=1e-4)
        one = runner.infer({runner.inputs[0].name: np.ascontiguousarray(x[:1])})
        assert np.allclose(one["output"], expected[:1], atol=1e-6)


def test_dictionaries_give_named_outputs(made):
    root, x, expected = made
    with engines.open(spec(root, "state.pt", factory=f"{root / 'net.py'}:Two")) as runner:
        assert [t.name for t in runner.outputs] == ["out", "aux"]
        result = runner.infer({"image": x})
    assert np.allclose(result["aux"], 2 * expected, atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "kind", "said"),
    [
        (None, UsageError, "without the module"),
        ("net.py:broken", UsageError, "no such width"),
        ("net.py:number", UsageError, "made a int"),
        ("net.py:Missing", UsageError, "has no 'Missing'"),
        ("net.py:Net,Two", UsageError, "one name"),
    ],
)
def test_factories_that_do_not_serve(made, factory, kind, said):
    root = made[0]
    with pytest.raises(kind, match=said):
        engines.open(spec(root, "state.pt", factory=factory and str(root / factory)))


def test_a_state_dict_of_another_module_is_told(made, torch):
    root = made[0]
    torch.save({"conv.weight": torch.zeros(8, 3, 5, 5)}, root / "other.pt")
    with pytest.raises(ModelError, match=r"does not fit net\.py:Net"):
        engines.open(spec(root, "other.pt"))
    torch.save({"epoch": 3}, root / "empty.pt")
    with pytest.raises(ModelError, match="no state_dict"):
        engines.open(spec(root, "empty.pt"))


@pytest.mark.parametrize("shape", [None, (3, 1, 1), (1, 8, 8)])
def test_the_input_shape_must_be_given_and_fit(made, shape):
    with pytest.raises(UsageError) as caught:
        engines.open(spec(made[0], "state.pt", input_shape=shape))
    assert "--input-shape" in caught.value.hint


def test_library_names_need_the_library(made):
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(IncompatibleError, match="torchvision or timm, which cannot be imported"):
            engines.open(spec(made[0], "state.pt", factory="resnet18"))
    else:
        with pytest.raises(UsageError, match="no model of torchvision"):
            engines.open(spec(made[0], "state.pt", factory="resnet19"))


@pytest.mark.parametrize("name", ["whole.pt", "whole_old.pt"])
def test_whole_modules_are_refused_with_the_way_to_save_them(made, name):
    root = made[0]
    with pytest.raises(ModelError, match="of the class Net") as caught:
        torchfile.check(str(root / name), "torch-state-dict")
    assert "state_dict()" in caught.value.hint
    with pytest.raises(ModelError):
        engines.open(spec(root, name))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def hostile_zip(path: Path, mark: Path, protocol: int) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"w": Hostile(str(mark))}, protocol))
        archive.writestr("a/version", "3")
    return str(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_hostile_pickles_are_never_executed(tmp_path, protocol):
    mark = tmp_path / "mark"
    path = hostile_zip(tmp_path / "m.pt", mark, protocol)
    with pytest.raises(ModelError, match="not executed"):
        torchfile.check(path, "torch-state-dict")
    pytest.importorskip("torch", reason="PyTorch is not installed (make setup TORCH=1)")
    with pytest.raises(ModelError):
        engines.open(RunnerSpec(path, "torch-state-dict", factory="x.py:y", input_shape=(3, 8, 8)))
    assert not mark.exists()


def test_hostile_pickles_inside_exported_programs_are_refused(made, tmp_path):
    root, mark = made[0], tmp_path / "mark"
    inner = Path(hostile_zip(tmp_path / "inner.pt", mark, 2)).read_bytes()
    changed = tmp_path / "program.pt2"
    with zipfile.ZipFile(root / "program.pt2") as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, inner if name.endswith(".pt") else old.read(name))
    with pytest.raises(ModelError, match="not executed"):
        engines.open(spec(tmp_path, "program.pt2", "torch-pt2"))
    assert not mark.exists()


def test_pickles_that_hide_their_names_are_refused(tmp_path):
    tricky = b"\x80\x04" + b"\x8c\x02os\x94" + b"\x8c\x05mkdir\x94" + b"\x93" + b"."
    aliased = b"\x80\x04" + b"\x8c\x02os\x94\x8c\x05mkdir\x940" + b"h\x00h\x01\x93."
    for number, data in enumerate((tricky, aliased)):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data)
        with pytest.raises(ModelError, match="not executed"):
            torchfile.check(str(path), "torch-state-dict")


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_files_are_damaged(made, tmp_path, name, kind, part):
    root = made[0]
    whole = (root / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ModelError):
        engines.open(spec(root, str(tmp_path / name), kind))
