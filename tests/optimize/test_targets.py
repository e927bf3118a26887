"""Targets of `optimize bench`: where the originals run is checked before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines import child, driver
from engines.errors import IncompatibleError, UsageError
from optimize import api, benchmark
from optimize import targets as target_list

PROBES = str(Path(__file__).parent.parent / "engines" / "probes")


@pytest.fixture
def gpu(monkeypatch):
    """A driver that has a GPU: what the frameworks then really find is their own."""
    monkeypatch.setattr(target_list.driver, "ask", lambda index=0: (driver.Gpu("Orin", "8.7", True, "11.4", 8), ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture
def saved(tmp_path):
    pytest.importorskip("tensorflow")
    sys.path.append(PROBES)
    try:
        child.call("tensorflow_probe:saved", {"path": str(tmp_path / "saved")})
    finally:
        sys.path.remove(PROBES)
    return tmp_path / "saved"


def targets(path, device="auto", baseline=None):
    return target_list.bench_targets([path], baseline, None, "onnxruntime", 1, {}, device)


def test_without_a_driver_the_gpu_is_refused(tiny_onnx, monkeypatch):
    monkeypatch.setattr(target_list.driver, "ask", lambda: (None, "no driver"))
    with pytest.raises(IncompatibleError, match="--device gpu: no driver"):
        targets(tiny_onnx, "gpu")


def test_an_original_that_cannot_leave_the_cpu_is_refused(gpu, tiny_onnx, tmp_path):
    with pytest.raises(IncompatibleError, match=r"runs on the CPU only \(onnxruntime\)"):
        targets(tiny_onnx, "gpu", baseline=tiny_onnx)


def test_a_tensorflow_without_the_gpu_is_told_before_and_its_rows_say_where_it_ran(gpu, saved, tmp_path):
    with pytest.raises(IncompatibleError, match=r"--device gpu: TensorFlow 2\S* sees no GPU"):
        targets(saved, "gpu")
    run, failures = api.bench([saved], [1], rounds=1, warmup=0.0, duration=0.01, out=None)
    assert failures == [] and run["settings"]["device"] == "auto"
    assert [row["on"] for row in run["rows"]] == ["cpu"] and run["rows"][0]["rounds"][0]["on"] == "cpu"


@pytest.mark.parametrize("asked", [{"io": "zero-copy"}, {"cuda_graph": True}, {"spin": True}, {"transfers": False}])
def test_options_of_tensorrt_alone_are_not_taken_silently(tiny_onnx, asked):
    with pytest.raises(UsageError, match="only TensorRT has this"):
        api.bench([tiny_onnx], backend="onnxruntime", out=None, **asked)


def test_a_folder_without_bundles_says_what_makes_them():
    with pytest.raises(UsageError, match="no such file") as error:
        targets("resnet34.optimized/*")
    assert error.value.hint.startswith("optimize build MODEL")


def test_an_engine_that_was_built_from_another_file_is_flagged_and_told(built, tiny_onnx, squeezed_onnx):
    bundle = built.bundles[0].path
    assert target_list.OTHER_FILE not in targets(bundle, baseline=tiny_onnx)[0].flags
    told = []
    run, failures = api.bench(
        [bundle], [1], squeezed_onnx, rounds=1, warmup=0.0, duration=0.01, out=None,
        progress=lambda what, *_: told.append(what),
    )  # fmt: skip
    assert not failures and [target_list.OTHER_FILE in row["flags"] for row in run["rows"]] == [True, False]
    assert any("was built from another file than the original" in what for what in told)
    assert target_list.OTHER_FILE not in targets(bundle)[0].flags, "alone it is compared with nothing"


def test_originals_on_both_devices_are_targets_of_their_own(tiny_onnx, tmp_path, monkeypatch):
    original = tmp_path / "original.onnx"
    original.write_bytes(tiny_onnx.read_bytes())
    monkeypatch.setattr(target_list.driver, "ask", lambda index=0: (driver.Gpu("Orin", "8.7", True, "11.4", 8), ""))
    monkeypatch.setattr(target_list, "_check_gpu", lambda originals: None)
    found = targets(tiny_onnx, "cpu,gpu", original)
    assert [target.label for target in found] == [
        "tiny.onnx (fp32, 1 thread)",
        "original.onnx (fp32 on cpu, 1 thread)",
        "original.onnx (fp32 on gpu, 1 thread)",
    ]
    row = {"target": "original.onnx", "form": "", "precision": "fp32", "threads": 1, "streams": None}
    rows = [{**row, "on": on} for on in ("cpu", "gpu")]
    assert [benchmark._rows_of(rows, target) for target in found[1:]] == [[rows[0]], [rows[1]]]
    with pytest.raises(UsageError, match="--device auto,cpu"):
        targets(tiny_onnx, "auto,cpu")
