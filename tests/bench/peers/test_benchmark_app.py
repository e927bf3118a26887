from __future__ import annotations

import json

import pytest

from bench.peers import benchmark_app, slices, turns
from engines.errors import UsageError

pytest.importorskip("openvino", reason="benchmark_app comes with openvino")


@pytest.mark.journey
def test_both_measure_the_same_model(model, capsys):
    code = benchmark_app.main([str(model), "--batch", "2", "--rounds", "1", "--seconds", "1"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["verdict"] == turns.SAME else 3)
    assert len(found["ours_ms"]) == len(found["theirs_ms"]) in (1, 2, 3)
    assert found["ratio"] == pytest.approx(found["ours_ms"][0] / found["theirs_ms"][0])
    assert 0 < found["ours_alike_ms"][0] < found["ours_ms"][0]  # the request is a part of the call
    assert found["alike"]["ratio"] == pytest.approx(found["ours_alike_ms"][0] / found["theirs_ms"][0])
    assert found["interval"] is None and found["inference_precision"] == "f32" and found["batch"] == 2


def test_more_rounds_are_added_while_the_interval_crosses_a_limit(model, monkeypatch):
    theirs = iter([*[1.0] * 6, *[0.9] * 3, *[1.1] * 3, *[1.0] * 12, *[0.9] * 6])
    first = []

    def measure(calls):
        first.append(calls[0][0])
        mine, other = {"median_ms": 1.2, "request_ms": 1.0}, {"median_ms": next(theirs)}
        by = {benchmark_app.OURS: mine, benchmark_app.STAGE: other}
        assert all(given["batch"] == 1 and given["seconds"] == 4 for _, given in calls)  # 2 s of each
        return [by[stage] for stage, _ in calls]

    monkeypatch.setattr(slices, "measure", measure)
    found = benchmark_app.compare(model, rounds=6)
    assert (found["verdict"], found["rounds"]) == (turns.SAME, 6)
    assert found["ratio"] == pytest.approx(1.2) and found["alike"]["ratio"] == pytest.approx(1.0)
    assert first == [benchmark_app.OURS, benchmark_app.STAGE] * 3
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
