"""What is measured beside the times, and with every setting that is asked for."""

from __future__ import annotations

import pytest

from engines import child
from engines.errors import IncompatibleError, UsageError
from optimize import api


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


@pytest.mark.journey
def test_whole_passes_stand_in_the_rows_and_reports_and_are_not_repeated(tiny_onnx, tmp_path, monkeypatch):
    from bench import runs
    from bench.report import FORMATS

    out, original = tmp_path / "runs.json", tmp_path / "original.onnx"
    original.write_bytes(tiny_onnx.read_bytes())
    asked = {"rounds": 1, "warmup": 0.0, "duration": 0.005, "images": 10, "out": out, "passes": 2, "baseline": original}
    real, calls = child.call, []

    def interrupted(stage, arguments, *rest, **named):
        if stage == "bench.passes:measure":
            calls.append(arguments["label"])
            if len(calls) == 2:
                raise KeyboardInterrupt
        return real(stage, arguments, *rest, **named)

    monkeypatch.setattr(child, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.bench([tiny_onnx], [1, 4], **asked)
    run, failures = api.bench([tiny_onnx], [1, 4], **asked)
    assert failures == [] and len(calls) == 3 and calls[1] == calls[2] != calls[0]  # the first one's were kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original.onnx", "runs.json"]
    for row in runs.read(out)["rows"]:
        assert row["passes"]["images"] == 10 and len(row["passes"]["seconds"]) == 2
        assert row["passes"]["batch"] == row["batch"]
    text = FORMATS["md"](run)
    assert "## Whole passes: 2 passes of 10 images\n" in text and "busy cores" in text
    heading, first, *_ = FORMATS["csv"](run).splitlines()
    line = dict(zip(heading.split(","), first.split(",")))
    assert float(line["passes_mean_s"]) == run["rows"][0]["passes"]["mean_s"]


def test_energy_without_a_sensor_is_refused_before_anything_is_measured(tiny_onnx, monkeypatch):
    from bench.telemetry import rails

    monkeypatch.setattr(rails, "rails", list)
    with pytest.raises(IncompatibleError, match="no power sensor"):
        api.bench([tiny_onnx], [1], out=None, energy=True)


def test_what_targets_use_is_shown_without_a_gpu_to_watch(tiny_onnx, tmp_path):
    from bench import runs
    from bench.report import FORMATS

    out = tmp_path / "runs.json"
    run, failures = api.bench([tiny_onnx], "1..2", rounds=1, warmup=0.0, duration=0.01, out=out, usage=True)
    rows = runs.read(out)["rows"]
    assert failures == [] and [row["batch"] for row in rows] == [1, 2]
    assert all(row["usage"]["busy"] > 0 and row["usage"]["peak_rss_bytes"] for row in rows)
    assert "% busy by cpu time" in FORMATS["md"](run)


@pytest.mark.journey
def test_layers_of_engines_stand_in_the_run_and_on_the_page(tiny_onnx, tmp_path):
    from bench import runs
    from bench.report import FORMATS

    out, original = tmp_path / "runs.json", tmp_path / "original.onnx"
    original.write_bytes(tiny_onnx.read_bytes())
    asked = {"rounds": 1, "warmup": 0.0, "duration": 0.005, "out": out, "layers": True}
    run, failures = api.bench([tiny_onnx], [1, 2], baseline=original, **asked)
    assert failures == []
    for row in runs.read(out)["rows"]:
        layers = row.get("layers")
        assert (layers is None) is (row["role"] == "original")
        assert layers is None or sum(layer["share"] for layer in layers) == pytest.approx(1)
    assert 'id="layers"' in FORMATS["html"](run)


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
    heading, *_, last = FORMATS["csv"](run).splitlines()
    assert dict(zip(heading.split(","), last.split(",")))["threads"] == "2"
    (one,) = compare(run, [("again", run)])["runs"]
    assert [cell["threads"] for cell in one["cells"]] == [1, 1, 2, 2] and one["lacking"] == []
    assert not (tmp_path / "runs.json.partial").exists()
    with pytest.raises(UsageError, match="--threads many"):
        api.bench([tiny_onnx], [1], threads="many", out=None)


@pytest.mark.journey
def test_everything_is_measured_with_each_number_of_streams(tiny_onnx, tmp_path):
    from bench.compare import compare
    from bench.report import FORMATS

    original = tmp_path / "original.onnx"
    original.write_bytes(tiny_onnx.read_bytes())
    asked = {"rounds": 1, "warmup": 0.0, "duration": 0.005, "out": None, "streams": "2,1", "passes": 1, "images": 4}
    run, failures = api.bench([tiny_onnx], [1], baseline=original, **asked)
    assert failures == [] and [(row["role"], row["streams"]) for row in run["rows"]] == [
        *(("engine", None), ("original", None), ("engine", 2), ("original", 2)),
    ]
    assert [bool(row.get("passes")) for row in run["rows"]] == [True, True, False, False]
    text = FORMATS["md"](run)
    assert "## Batch 1\n" in text and "## Batch 1, 2 queries at a time\n" in text
    (one,) = compare(run, [("again", run)])["runs"]
    assert [cell["streams"] for cell in one["cells"]] == [None, None, 2, 2]
    with pytest.raises(UsageError, match="--streams 0"):
        api.bench([tiny_onnx], [1], streams="0", out=None)
