"""What is told of a file of weights is what PyTorch finds in it; nothing of the file runs."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict

import pytest

from engines import torchstate
from engines.errors import ModelError

torch = pytest.importorskip("torch")


def _state() -> Dict[str, Any]:
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    state = dict(layer.state_dict())
    state["2.half"] = torch.zeros(5, dtype=torch.float16)
    state["2.brain"] = torch.zeros(2, 0, 3, dtype=torch.bfloat16)
    state["2.parameter"] = torch.nn.Parameter(torch.zeros(7, 2))
    return state


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("around", [lambda s: s, lambda s: {"epoch": 3, "optimizer": {"lr": 0.1}, "model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_it_tells_what_pytorch_reads(tmp_path: Path, zipped: bool, around: Any, prefix: str) -> None:
    state = _state()
    path = tmp_path / "w.pt"
    torch.save(around({prefix + k: v for k, v in state.items()}), path, _use_new_zipfile_serialization=zipped)
    found = torchstate.read(str(path))
    assert list(found) == list(state)
    told = [(one.shape, f"torch.{one.dtype}") for one in found.values()]
    assert told == [(tuple(v.shape), str(v.dtype)) for v in state.values()]


def test_dtypes_that_a_storage_does_not_tell(tmp_path: Path) -> None:
    names = [n for n in ("uint16", "float8_e4m3fn") if hasattr(torch, n)] or ["int16"]
    torch.save({n: torch.zeros(3, dtype=torch.uint8).to(getattr(torch, n)) for n in names}, tmp_path / "w.pt")
    found = torchstate.read(str(tmp_path / "w.pt"))
    assert [(name, one.dtype, one.shape) for name, one in found.items()] == [(n, n, (3,)) for n in names]


def test_tied_weights_and_statistics_are_no_further_parameters(tmp_path: Path) -> None:
    weight = torch.zeros(4, 3)
    state = {"a.weight": weight, "b.weight": weight, "c.weight": weight.t(), "bn.running_mean": torch.zeros(4)}
    torch.save(state, tmp_path / "w.pt")
    assert torchstate.parameters(torchstate.read(str(tmp_path / "w.pt"))) == 12


def test_no_pytorch_is_imported(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "w.pt")
    code = "import sys; from engines import torchstate as t; t.read(sys.argv[1]); assert 'torch' not in sys.modules"
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "w.pt")], check=True, cwd=root)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_cut_file_is_damaged(tmp_path: Path, part: float) -> None:
    for zipped in (True, False):
        torch.save(_state(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        content = (tmp_path / "w.pt").read_bytes()
        head = content[: int(len(content) * part)] if zipped else content[: 100 + int(300 * part)]
        (tmp_path / "w.pt").write_bytes(head)
        with pytest.raises(ModelError):
            torchstate.read(str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    "text",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\n(I-3\nttR.",
        b"ctorch\nfloat32\n(tR.",
        b"(dS'a'\nI1\ns.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(I1\nI1\nI1\nI1\ntR.",
    ],
)
def test_pickles_that_make_no_sense_are_model_errors(tmp_path: Path, text: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", text)
    with pytest.raises(ModelError):
        torchstate.read(str(tmp_path / "w.pt"))


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    import os

    class Harmful:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was-run"),)

    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"a": Harmful()}))
    with pytest.raises(ModelError, match="wants to run"):
        torchstate.read(str(tmp_path / "w.pt"))
    assert not (tmp_path / "was-run").exists()
