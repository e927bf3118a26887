from __future__ import annotations

import json

import pytest

from bench.peers import benchmark_app, turns
from engines import child
from engines.errors import OptimizeError, UsageError

pytest.importorskip("openvino", reason="benchmark_app comes with openvino")


@pytest.mark.journey
def test_both_measure_the_same_model(model, capsys):
    code = benchmark_app.main([str(model), "--batch", "2", "--rounds", "2", "--seconds", "1"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["verdict"] == turns.SAME else 3)
    assert len(found["ours_ms"]) == len(found["theirs_ms"]) == found["rounds"] in (2, 4, 6)
    assert 0.5 < found["alike"]["ratio"] < found["ratio"]  # the request is a part of the call
    assert 0.5 < found["mean"]["ratio"] < 2
    assert all(0 < alike < ours for alike, ours in zip(found["ours_alike_ms"], found["ours_ms"]))
    assert found["interval"] is None and found["inference_precision"] == "f32" and found["batch"] == 2


def test_what_is_compiled_otherwise_is_not_compared(model):
    target, peer = benchmark_app.sides(model)
    spec = target.spec.with_(options={**target.spec.options, "inference_precision": "bf16", "threads": 1})
    arguments = {**peer, "batch": 1, "seconds": 1, "ours_first": True, "spec": spec.to_json()}
    with pytest.raises(OptimizeError, match=r"other properties than benchmark_app's: .*INFERENCE_NUM_THREADS"):
        child.call(benchmark_app.BESIDE, arguments)


def test_more_rounds_are_added_while_the_interval_crosses_a_limit(model, monkeypatch):
    alike = iter([*[1.0] * 6, *[1.1] * 3, *[0.9] * 3, *[1.0] * 12, *[1.1] * 6])
    first = []

    def call(stage, given):
        first.append(given["ours_first"])
        assert (stage, given["batch"], given["seconds"]) == (benchmark_app.BESIDE, 1, 2)
        return {
            "ours_ms": 1.2,
            "ours_alike_ms": 1.0,
            "theirs_ms": 1.0,
            "ratio": 1.2,
            "alike": next(alike),
            "mean": 0.99,
        }

    monkeypatch.setattr(child, "call", call)
    found = benchmark_app.compare(model, rounds=6)
    assert (found["verdict"], found["rounds"]) == (turns.SAME, 6)
    assert found["ratio"] == pytest.approx(1.2) and found["alike"]["ratio"] == pytest.approx(1.0)
    assert first == [True, False] * 3
    found = benchmark_app.compare(model, rounds=6)  # open at first, and settled by what was added
    assert (found["verdict"], found["rounds"]) == (turns.SAME, 18)
    found = benchmark_app.compare(model, rounds=6)
    assert (found["verdict"], found["rounds"]) == (turns.DIFFERENT, 6)


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError):
        benchmark_app.compare(tmp_path / "a.txt")
    assert benchmark_app.main([str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
