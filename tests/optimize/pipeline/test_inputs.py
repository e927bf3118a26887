"""What identifies a model: a change of anything that decides a result gives another key."""

from __future__ import annotations

from pathlib import Path

import onnx

from engines.spec import RunnerSpec
from optimize.pipeline.inputs import source_files, source_inputs


def test_a_module_that_the_users_file_imports_counts(tmp_path: Path) -> None:
    for name in ("model.pt", "net.py", "parts.py"):
        (tmp_path / name).write_text(f"{name} = 1")
    spec = RunnerSpec(str(tmp_path / "model.pt"), "torch-state-dict", factory=f"{tmp_path / 'net.py'}:make")
    before = source_inputs(spec)
    assert source_inputs(spec) == before
    (tmp_path / "parts.py").write_text("parts = 2")
    assert source_inputs(spec) != before


def test_options_of_the_source_count(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("x")
    spec = RunnerSpec(str(tmp_path / "m.pt"), "torchscript")
    seen = [source_inputs(spec.with_(**change)) for change in ({}, {"input_shape": (3, 8, 8)}, {"task": "tensors"})]
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_weights_beside_an_onnx_file_count(tiny_onnx: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(str(tiny_onnx)), str(tmp_path / "m.onnx"), save_as_external_data=True, size_threshold=0)
    (weights,) = (p for p in tmp_path.iterdir() if p.name != "m.onnx")
    spec = RunnerSpec(str(tmp_path / "m.onnx"), "onnx")
    before = source_inputs(spec)
    assert weights in source_files(spec)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert source_inputs(spec)["model"] == before["model"] and source_inputs(spec) != before


def test_every_file_that_is_read_is_listed(tmp_path: Path) -> None:
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    for name in ("saved/saved_model.pb", "saved/variables/w", "net.py", "parts.py"):
        (tmp_path / name).write_text("1")
    spec = RunnerSpec(str(tmp_path / "saved"), "savedmodel", factory=f"{tmp_path / 'net.py'}:make")
    assert {p.name for p in source_files(spec)} == {"saved_model.pb", "w", "net.py", "parts.py"}
    assert source_files(spec.with_(path=str(tmp_path / "gone"), factory="resnet18")) == [tmp_path / "gone"]
