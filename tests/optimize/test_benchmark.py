"""Targets of `optimize bench`: where the originals run is checked before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines import child, driver
from engines.errors import IncompatibleError, UsageError
from optimize import api, benchmark

PROBES = str(Path(__file__).parent.parent / "engines" / "probes")


@pytest.fixture
def gpu(monkeypatch):
    """A driver that has a GPU: what the frameworks then really find is their own."""
    monkeypatch.setattr(benchmark.driver, "ask", lambda index=0: (driver.Gpu("Orin", "8.7", True, "11.4", 8), ""))
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
    return benchmark.bench_targets([path], baseline, None, "onnxruntime", 1, {}, device)


def test_without_a_driver_the_gpu_is_refused(tiny_onnx, monkeypatch):
    monkeypatch.setattr(benchmark.driver, "ask", lambda: (None, "no driver"))
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


@pytest.mark.journey
def test_energy_stands_in_the_rows_and_reports(tiny_onnx, tmp_path, monkeypatch):
    from bench import energy, runs
    from bench.report import FORMATS
    from bench.telemetry import rails

    monkeypatch.setattr(rails, "rails", lambda: [rails.Rail("VDD_IN", lambda: 7.5, True)])
    monkeypatch.setattr(energy.measure, "__defaults__", (0.0, 0.2, 0.2, "", 0, None, 50.0))  # not 7 s
    out = tmp_path / "runs.json"
    run, failures = api.bench([tiny_onnx], [1, 4], rounds=1, warmup=0.0, duration=0.01, out=out, energy=True)
    assert failures == [] and [row["energy"]["rail"] for row in run["rows"]] == ["VDD_IN"] * 2
    for row in runs.read(out)["rows"]:
        assert row["energy"]["watts"] == pytest.approx(7.5) and row["energy"]["idle_watts"] == pytest.approx(7.5)
        assert row["energy"]["joules_above_idle_per_image"] == pytest.approx(0, abs=1e-9)
    text = FORMATS["md"](run)
    assert "energy by VDD\\_IN: 7.50 W (7.50 W idle)" in text and "images/J" in text
    heading, first, _ = FORMATS["csv"](run).splitlines()
    assert "joules_above_idle_per_image" in heading and ",VDD_IN,7.5" in first


def test_energy_without_a_sensor_is_refused_before_anything_is_measured(tiny_onnx, monkeypatch):
    from bench.telemetry import rails

    monkeypatch.setattr(rails, "rails", list)
    with pytest.raises(IncompatibleError, match="no power sensor"):
        api.bench([tiny_onnx], [1], out=None, energy=True)


@pytest.mark.journey
def test_everything_is_measured_with_each_number_of_threads(tiny_onnx, tmp_path):
    from bench import runs
    from bench.compare import compare
    from bench.report import FORMATS

    out, original = tmp_path / "runs.json", tmp_path / "original.onnx"
    original.write_bytes(tiny_onnx.read_bytes())
    asked = {"rounds": 1, "warmup": 0.0, "duration": 0.005, "out": out, "threads": "2,1"}
    run, failures = api.bench([tiny_onnx], [1], baseline=original, **asked)
    assert failures == [] and [(row["role"], row["threads"]) for row in runs.read(out)["rows"]] == [
        *(("engine", 1), ("original", 1), ("engine", 2), ("original", 2)),
    ]
    for engine, base in (run["rows"][:2], run["rows"][2:]):  # against the original with as many threads
        assert engine["speedup"] == pytest.approx(base["p50_ms"] / engine["p50_ms"])
    text = FORMATS["md"](run)
    assert "## Batch 1, 1 CPU thread\n" in text and "## Batch 1, 2 CPU threads\n" in text
    assert FORMATS["csv"](run).splitlines()[3].endswith(",2")
    (one,) = compare(run, [("again", run)])["runs"]
    assert [cell["threads"] for cell in one["cells"]] == [1, 1, 2, 2] and one["lacking"] == []
    assert not (tmp_path / "runs.json.partial").exists()
    with pytest.raises(UsageError, match="--threads many"):
        api.bench([tiny_onnx], [1], threads="many", out=None)
