from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import runs
from engines.device import DeviceKey
from engines.errors import DamagedError, UsageError
from optimize.fleet import trtexec
from optimize.fleet.boards import Board

DOUBLE = Path(__file__).resolve().parents[2] / "doubles/trtexec82.py"
PROGRAM = "trtexec"


@pytest.fixture
def nano() -> Board:
    key = DeviceKey("tensorrt", "8.2.1", "linux", "aarch64", (), "5.3", "32.7.1", "tegra210")
    environment = {
        "board": "NVIDIA Jetson Nano Developer Kit",
        "packages": {"tensorrt": "8.2.1"},
        "before": {},
        "after": {},
    }
    return Board("nano", "trtexec", folder="/f", key=key, command=PROGRAM, environment=environment)


def call(words, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, str(DOUBLE), *words[1:]], cwd=folder, stdout=subprocess.PIPE)


def test_what_a_nano_measures_becomes_a_run_of_the_same_schema(nano, tmp_path, tiny_onnx):
    (tmp_path / trtexec.MODEL).write_bytes(tiny_onnx.read_bytes())
    (tmp_path / trtexec.CACHE).write_text("TRT-8201-EntropyCalibration2\nimage: 3c010a14\n")
    rows, said = [], []
    for cell in trtexec.cells(("fp32", "fp16", "int8", "best"), (1, 8), True):
        shape = trtexec.shapes(tiny_onnx, cell.batch)
        assert shape == f"image:{cell.batch}x3x32x32"
        measuring = trtexec.measure_words(PROGRAM, cell, shape, 3.0, 10)
        for words in [trtexec.build_words(PROGRAM, cell, shape, 512), *measuring]:
            done = call(words, tmp_path)
            assert done.returncode == 0, done.stdout
        said += measuring
        rows.append(trtexec.row(cell, tmp_path, tmp_path / cell.plan, nano, "tiny-" + cell.precision, "0" * 64))
    run = trtexec.run(nano, rows, said)
    runs.write(tmp_path / "runs.json", run)
    assert runs.read(tmp_path / "runs.json") == run
    assert [(row["precision"], row["batch"]) for row in rows] == [
        (precision, batch) for precision in ("fp32", "fp16", "int8") for batch in (1, 8)
    ]
    one = rows[0]
    # what trtexec measures is no wall time of a query, so none is told
    assert one["p50_ms"] is None and one["samples_ms"] == [] and one["origin"] == "imported"
    assert one["device"]["mode"] == "trt10" and 8 <= one["device"]["compute_ms"]["median"] <= 9
    assert one["layers"][0]["name"] == "conv1"


def test_queries_of_the_warm_up_are_dropped_where_the_file_has_them(nano, tmp_path, tiny_onnx):
    (tmp_path / trtexec.MODEL).write_bytes(tiny_onnx.read_bytes())
    cell = trtexec.Cell("fp16", 1)
    shape = trtexec.shapes(tiny_onnx, 1)
    call(trtexec.build_words(PROGRAM, cell, shape, 512), tmp_path)
    for words in trtexec.measure_words(PROGRAM, cell, shape, 3.0, 10):
        call(words, tmp_path)
    entries = json.loads((tmp_path / cell.times).read_text())
    late = [one for one in entries if one["startComputeMs"] >= trtexec.WARMUP_MS]
    assert 0 < len(late) < len(entries)
    found = trtexec.row(cell, tmp_path, tmp_path / cell.plan, nano, "tiny", "0" * 64)
    assert found["device"]["queries"] == len(late)


def test_int8_is_not_built_without_a_calibration_cache():
    assert [cell.precision for cell in trtexec.cells(("int8", "fp32"), (1,), False)] == ["fp32"]


def test_a_graph_that_fixes_its_batch_is_built_as_it_is(tmp_path):
    import onnx

    from tests.optimize.conftest import residual_classifier

    onnx.save(residual_classifier(batch=4), str(tmp_path / "fixed.onnx"))
    assert trtexec.shapes(tmp_path / "fixed.onnx", 4) == ""
    with pytest.raises(UsageError, match="its batch is 4, not 1"):
        trtexec.shapes(tmp_path / "fixed.onnx", 1)


HUGE = f'[{{"name": "a", "averageMs": {"9" * 400}}}]'
"""A whole number that no float takes."""


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '[{"name": "a"}]', '[{"name": "a", "averageMs": -1}]', HUGE])
def test_layers_of_something_else_are_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DamagedError):
        trtexec.layers(tmp_path / "p.json")


def unpacked(parcel: Path, target: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", str(parcel), str(target)], capture_output=True)


def test_a_parcel_unpacks_itself_with_a_shell_alone(tmp_path):
    source, parcel, target = tmp_path / "model.onnx", tmp_path / "p.sh", tmp_path / "there is/model.onnx"
    source.write_bytes(bytes(range(256)) * 5000 + b"\nexit 1\n")
    assert trtexec.parcel(source, parcel) == hashlib.sha256(source.read_bytes()).hexdigest()
    done = unpacked(parcel, target)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == source.read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_a_damaged_parcel_leaves_what_is_there(tmp_path):
    source, parcel, target = tmp_path / "model.onnx", tmp_path / "p.sh", tmp_path / "there.onnx"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")
    trtexec.parcel(source, parcel)
    parcel.write_bytes(parcel.read_bytes()[:-1])
    done = unpacked(parcel, target)
    assert done.returncode != 0 and b"damaged" in done.stderr
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "p.sh", "there.onnx"]


def kept(folder: Path, content: bytes, block: int) -> Path:
    """What tasks/raw_fetch.yml keeps of a file."""
    head = f"{len(content)}\r\n{hashlib.sha256(content).hexdigest()}  -\r\n"
    parts = [content[at : at + block] for at in range(0, max(len(content), 1), block)]
    for number, part in enumerate(parts):
        text = base64.encodebytes(part).decode()
        (folder / f"m.plan.{number}").write_text(head + text if number == 0 else text)
    return folder / "m.plan"


@pytest.mark.parametrize("size", [0, 1, 10, 25])
def test_blocks_of_a_file_are_put_together(tmp_path, monkeypatch, size):
    monkeypatch.setattr(trtexec, "_BLOCK", 10)
    content = bytes(range(size))
    target = kept(tmp_path, content, 10)
    trtexec.unpack(target)
    assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("harm", ["missing", "changed", "no base64", "no head"])
def test_a_file_that_did_not_come_whole_is_refused(tmp_path, monkeypatch, harm):
    monkeypatch.setattr(trtexec, "_BLOCK", 10)
    target = kept(tmp_path, bytes(range(25)), 10)
    second = tmp_path / "m.plan.1"
    if harm == "missing":
        second.unlink()
    elif harm == "changed":
        second.write_text(base64.encodebytes(bytes(10)).decode())
    elif harm == "no base64":
        second.write_text("{{ no }}")
    else:
        (tmp_path / "m.plan.0").write_text("sh: 1: wc: not found\n")
    with pytest.raises(DamagedError):
        trtexec.unpack(target)
    assert not target.exists()
