from __future__ import annotations

import json

import pytest

from bench.peers import benchmark_app, turns
from engines.errors import UsageError

pytest.importorskip("openvino", reason="benchmark_app comes with openvino")


@pytest.mark.journey
def test_both_measure_the_same_model(model, capsys):
    code = benchmark_app.main([str(model), "--batch", "2", "--rounds", "1", "--seconds", "1"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["verdict"] == turns.SAME else 3)
    assert len(found["ours_ms"]) == len(found["theirs_ms"]) in (1, 2, 3)
    assert found["ratio"] == pytest.approx(found["ours_ms"][0] / found["theirs_ms"][0])
    assert 0 < found["ours_alike_ms"][0] < 3 * found["ours_mean_ms"][0]
    assert found["alike"]["ratio"] == pytest.approx(found["ours_alike_ms"][0] / found["theirs_ms"][0])
    assert found["interval"] is None and found["inference_precision"] == "f32" and found["batch"] == 2


def test_more_rounds_are_added_while_the_interval_crosses_a_limit(model, monkeypatch):
    rounds = iter([[1.0] * 6, [0.9] * 5 + [1.1], [1.0] * 60])

    def measure(target, batch, stage, arguments, count, seconds, progress, also):
        assert stage == benchmark_app.STAGE and arguments["batch"] == batch and arguments["seconds"] == 2
        assert also == benchmark_app.OURS
        theirs = next(rounds)
        wall, said = [1.2] * len(theirs), [1.0] * len(theirs)
        return turns._result(
            {"median_ms": wall, "mean_ms": wall, "alike_ms": said}, {"median_ms": theirs, "mean_ms": theirs}
        )

    monkeypatch.setattr(turns, "measure", measure)
    found = benchmark_app.compare(model)
    assert (found["verdict"], found["rounds"]) == (turns.SAME, 6)
    assert found["ratio"] == pytest.approx(1.2) and found["alike"]["ratio"] == pytest.approx(1.0)
    found = benchmark_app.compare(model)  # open at first, and settled by what was added
    assert (found["verdict"], found["rounds"]) == (turns.SAME, 66)


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError):
        benchmark_app.compare(tmp_path / "a.txt")
    assert benchmark_app.main([str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
