from __future__ import annotations

import json
import re

import numpy as np
import pytest

from bench.peers import comparison, environments, models, quantisers
from bench.peers.contenders import CONTENDERS, OURS, QUICK, TENSORRT, Contender, _ort
from engines import jsonfile
from engines.errors import OptimizeError

pytest.importorskip("openvino", reason="the quantised graphs are measured on openvino")

TIMES = {"seconds", "process_seconds", "cpu_seconds", "peak_bytes"}


@pytest.fixture(scope="module")
def done(model, images, tmp_path_factory):
    """Ours and ONNX Runtime's on a small model, through the command."""
    out = tmp_path_factory.mktemp("out") / "found.json"
    words = ["--quick", "--models", str(model), "--data", str(images), "--tools", "ours,onnxruntime", "-o", str(out)]
    return quantisers.main(words), out


@pytest.mark.slow
def test_everyone_is_measured(done):
    code, out = done
    found = jsonfile.read(out, quantisers.SCHEMA)
    assert code == 0 and not found["failures"] and found["environment"]["cpu"]
    (model,) = found["models"]
    names = [OURS, TENSORRT, *(f"ONNX Runtime, {method}" for method in ("minmax", "entropy", "percentile"))]
    assert [row["name"] for row in model["rows"]] == names
    for row in model["rows"]:
        assert "failed" not in row, row
        (once,) = row["runs"]
        assert set(once) >= TIMES and once["peak_bytes"] > once["start_bytes"] > 1e6 and once["seconds"] > 0
        assert row["ir_bytes"] > 0 and row["file_bytes"] > 0 and row["versions"]["onnx"]
        assert row["accuracy"]["agreement"] > 0.8 and row["accuracy"]["cosine"] > 0.99
        low, high = row["accuracy"]["drop_interval"]
        assert low <= row["accuracy"]["top1_drop"] <= high
        assert set(row.get("latency", {})) == (set() if row["name"] == TENSORRT else {"1", "64"})
    assert model["calibration"]["n"] == 40 and model["test"]["n"] == 70  # half of the training images
    assert model["fp32"]["top1"] == pytest.approx(50 / 70)


@pytest.mark.slow
def test_ratios_are_theirs_to_ours(done):
    (model,) = jsonfile.read(done[1])["models"]
    rows = {row["name"]: row for row in model["rows"]}
    ours, theirs = rows[OURS], rows["ONNX Runtime, minmax"]
    assert "ratios" not in ours
    for name in TIMES:
        assert theirs["ratios"][name]["ratio"] == pytest.approx(theirs["runs"][0][name] / ours["runs"][0][name])
    medians = [row["latency"]["64"]["medians_ms"][0] for row in (theirs, ours)]
    assert theirs["ratios"]["latency_b64"]["ratio"] == pytest.approx(medians[0] / medians[1])
    assert theirs["ratios"]["latency_b64"]["interval"] is None  # one round says nothing of the spread


@pytest.mark.slow
def test_claims_and_table_say_the_same_numbers(done):
    (model,) = jsonfile.read(done[1])["models"]
    text = done[1].with_suffix(".md").read_text(encoding="utf-8")
    claims = {one["claim"]: one for one in model["claims"]}
    peers = [row for row in model["rows"] if row["tool"] == "onnxruntime"]
    fastest = min(peers, key=lambda row: row["ratios"]["latency_b1"]["ratio"])
    claim = claims[f"latency at batch 1, {fastest['name']} to ours"]
    assert claim["value"] == fastest["again"]["1"]["ratio"] and claim["limit"] == 1
    assert not any("time of calibration" in name for name in claims)  # against entropy on wide activations only
    assert "NNCF" not in text.split("## ")[1]
    for row in model["rows"]:
        assert re.search(re.escape(row["name"]) + r" \|", text)
    assert all(one["verdict"] in text for one in model["claims"])


@pytest.mark.slow
def test_files_name_no_place(done, tmp_path):
    written = done[1].read_text(encoding="utf-8")
    assert str(tmp_path.parent) not in written and "/tmp" not in written
    assert json.loads(written)["settings"]["repeats"] == 1


@pytest.mark.slow
def test_a_tool_that_fails_is_a_row_with_its_reason(model, images, monkeypatch, tmp_path):
    refused = _ort("None")
    absent = Contender("absent", "onnxruntime", ({},), "nowhere")
    ours = CONTENDERS[0]
    monkeypatch.setattr(comparison, "CONTENDERS", (ours, refused, absent, _ort("MinMax")))
    works, calls = comparison.Comparison.quantise, []

    def once(self, tool, options, interpreter):
        calls.append(options.get("method"))
        if calls.count("MinMax") > 1:
            raise OptimizeError("not a second time")
        return works(self, tool, options, interpreter)

    monkeypatch.setattr(comparison.Comparison, "quantise", once)
    broken = environments.Environment((("--no-index", "no-such-package"),))
    monkeypatch.setitem(environments.TABLE, "nowhere", broken)
    settings = QUICK._replace(samples=8, images=20, batches=(1,), seconds=0.01)
    kept = []
    found = quantisers.compare([str(model)], settings, str(images), folder=tmp_path / "environments", keep=kept.append)
    assert [one["models"] for one in kept] == [found["models"]]
    first, second, third, last = found["models"][0]["rows"]
    assert last["failed"] == "not a second time" and "accuracy" not in last
    assert first["latency"]["1"] and second["failed"].startswith("KeyError")
    assert "no-such-package" in third["failed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "resnet34"], "../shared"),
        (["--models", "nothing"], "no model 'nothing'"),
        (["--tools", "nncf"], "ours is needed"),
    ],
)
def test_what_is_missing_is_said(words, said, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "SHARED", tmp_path / "none")
    assert quantisers.main([*words, "-o", str(tmp_path / "x.json")]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.glob("x*"))


def test_stored_images_are_the_calibration_images(model, images, tmp_path):
    from calib.datasets import open_dataset
    from calib.preprocess import apply, parse

    about = comparison.store(str(images), parse("unit").to_json(), str(model), 33, 5, str(tmp_path / "x.npy"))
    dataset = open_dataset(str(images), "calibration", 33, 5)
    expected = apply(parse("unit"), dataset.images(range(33)), "NHWC", (8, 8))
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected)
    assert about["sha256"] == dataset.sha256 and about["input"] == "image" and about["layout"] == "NHWC"
