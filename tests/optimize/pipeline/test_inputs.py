"""What identifies models and data: a change of anything that decides a result gives another key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.errors import UsageError
from engines.spec import RunnerSpec
from optimize.pipeline.inputs import data_inputs, source_inputs


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


def test_data_behind_links_and_labels_beside_it_count(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cats").symlink_to(tmp_path / "real")
    first = data_inputs(str(tmp_path / "set"))
    assert data_inputs(str(tmp_path / "set")) == first
    (tmp_path / "real" / "a.png").write_bytes(b"22")
    second = data_inputs(str(tmp_path / "set"))
    (tmp_path / "set.csv").write_text("a.png,cat")
    third = data_inputs(str(tmp_path / "set"))
    os.utime(tmp_path / "set.csv", (1, 1))
    assert len({first, second, third, data_inputs(str(tmp_path / "set"))}) == 4


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data set"):
        data_inputs(str(tmp_path / "nowhere"))
    assert data_inputs("synthetic") == "synthetic"
