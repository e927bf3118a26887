"""A model, the user's code or data that change while a build reads them end it, and nothing of that stage is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Tuple

import pytest

import optimize
from engines.errors import DataError, ModelError, OptimizeError, outcome
from engines.spec import RunnerSpec
from optimize.pipeline.watch import Watch


def rewrite(file: Path, content: bytes) -> None:
    """Other bytes of the same size, with the old time put back."""
    about = file.stat()
    assert len(content) == about.st_size
    file.write_bytes(content)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.fixture
def source(tmp_path: Path) -> RunnerSpec:
    for name in ("m.pt", "net.py", "parts.py"):
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / name).write_text("1")
    return RunnerSpec(str(tmp_path / "code" / "m.pt"), "torch-state-dict", factory=f"{tmp_path / 'code/net.py'}:make")


@pytest.mark.parametrize("name", ["m.pt", "net.py", "parts.py"])
def test_a_source_that_changes(source: RunnerSpec, name: str) -> None:
    watch = Watch(source, None)
    file = Path(source.path).with_name(name)
    watch.unchanged()
    os.utime(file, (1, 1))
    watch.unchanged()  # touched only
    rewrite(file, b"2")
    with pytest.raises(ModelError, match=f"{name} changed while it was being read") as caught:
        watch.unchanged()
    assert caught.value.exit_code == 1 and "again" in caught.value.hint


def test_a_source_that_goes_away_or_gets_company(source: RunnerSpec) -> None:
    watch = Watch(source, None)
    added = Path(source.path).with_name("added.py")
    added.write_text("1")
    with pytest.raises(ModelError, match=r"added\.py changed"):
        watch.source_unchanged()
    added.unlink()
    watch.source_unchanged()
    os.unlink(source.path)
    with pytest.raises(ModelError, match=r"m\.pt changed"):
        watch.source_unchanged()


def test_data_that_changes(source: RunnerSpec, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.png", "b.png"):
        (data / name).write_bytes(b"1")
    watch = Watch(source, str(data))
    watch.unchanged()
    rewrite(data / "a.png", b"2")
    with pytest.raises(DataError, match=r"a\.png changed while it was being read") as caught:
        watch.data_unchanged()
    assert caught.value.exit_code == 1 and "again" in caught.value.hint
    watch = Watch(source, str(data))
    (data / "b.png").unlink()
    with pytest.raises(DataError, match="data changed"):
        watch.data_unchanged()


def test_data_that_is_fetched_meanwhile_counts_from_then_on(
    source: RunnerSpec, tmp_path: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("OPTIMIZE_DATA", raising=False)
    watch = Watch(source, "cifar10")
    assert watch.data == "cifar10"
    place = tmp_path / "cache" / "cifar-10-batches-bin"
    shutil.copytree(cifar, place)
    watch.data_unchanged()
    assert watch.data == Watch(source, "cifar10").data != "cifar10"
    os.utime(place / "test_batch.bin", (1, 1))
    with pytest.raises(DataError, match=r"test_batch\.bin changed"):
        watch.data_unchanged()


@pytest.fixture
def files(tiny_onnx: Path, cifar: Path, tmp_path: Path) -> Tuple[Path, Path]:
    """A model and data that a test may change."""
    shutil.copyfile(tiny_onnx, tmp_path / "m.onnx")
    shutil.copytree(cifar, tmp_path / "data")
    return tmp_path / "m.onnx", tmp_path / "data"


def build(model: Path, data: Path, when: str, change: Callable[[], None]) -> Any:
    """Build, with a change at the first report that starts with `when`."""
    waiting = [change]

    def report(what: str, done: int, total: int) -> None:
        if waiting and what.startswith(when):
            waiting.pop()()

    return optimize.build(model, "fp32,int8", 1, str(data), preprocess="unit", samples=20, progress=report)


def stages(model: Path) -> set:
    return {p.name.rsplit("-", 1)[0] for p in (model.with_name("m.optimized") / ".optimize" / "stages").iterdir()}


@pytest.mark.parametrize("content", [b"another", b""])
def test_a_model_that_changes_while_it_is_exported(files: Tuple[Path, Path], content: bytes) -> None:
    model, data = files
    before = model.read_bytes()
    with pytest.raises(OptimizeError, match=r"m\.onnx changed while it was being read"):
        build(model, data, "cleaning up the graph", lambda: model.write_bytes(content and before + b"\0"))
    assert stages(model) == {"data"}
    assert [p.name for p in model.with_name("m.optimized").iterdir()] == [".optimize"]


@pytest.mark.journey
def test_data_that_change_while_they_calibrate(files: Tuple[Path, Path]) -> None:
    model, data = files
    file = data / "data_batch_1.bin"
    other = file.read_bytes()[::-1]
    done = build(model, data, "ranges", lambda: rewrite(file, other))
    assert [b.precision for b in done.bundles] == ["fp32"]
    ((precision, error),) = done.failures
    assert precision == "int8" and "data_batch_1.bin changed while it was being read" in outcome(error).message
    assert "calibrate" not in stages(model)
