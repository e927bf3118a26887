from __future__ import annotations

import json

import pytest

from bench.peers import benchmark_app
from engines import child
from engines.errors import UsageError

pytest.importorskip("openvino", reason="benchmark_app comes with openvino")


def test_both_measure_the_same_model(model, capsys):
    code = benchmark_app.main([str(model), "--batch", "2", "--rounds", "1", "--seconds", "1"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["passed"] else 3)
    assert len(found["ours_ms"]) == len(found["theirs_ms"]) == 1
    assert found["ratio"] == pytest.approx(found["ours_ms"][0] / found["theirs_ms"][0])
    assert found["interval"] is None and found["inference_precision"] == "f32" and found["batch"] == 2


@pytest.mark.parametrize("theirs, passed", [(0.99, True), (0.9, False)])
def test_sides_take_turns(model, monkeypatch, theirs, passed):
    order = []

    def run(*_, **__):
        order.append("ours")
        return type("Done", (), {"failures": [], "rows": [{"p50_ms": 1.0, "images_per_s": 900.0}]})

    def call(*_, **__):
        order.append("theirs")
        return {"median_ms": theirs, "total_ms": 200.0, "iterations": 180}

    monkeypatch.setattr(benchmark_app, "run", run)
    monkeypatch.setattr(child, "call", call)
    found = benchmark_app.compare(model, rounds=6)
    assert order == ["ours", "theirs", "theirs", "ours"] * 3
    assert found["ratio"] == pytest.approx(1 / theirs) and found["passed"] is passed
    assert found["interval"] == [pytest.approx(1 / theirs)] * 2
    assert found["whole_query"] == {"ratio": pytest.approx(1.0), "interval": [pytest.approx(1.0)] * 2}


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError):
        benchmark_app.compare(tmp_path / "a.txt")
    assert benchmark_app.main([str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
