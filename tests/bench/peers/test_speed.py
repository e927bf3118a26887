"""Ours beside real loops of others, on a small model and for a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.peers import benchmark_app, loops, models, speed
from bench.rounds import Target
from engines.spec import RunnerSpec


def cell(model: Path, **about: Any) -> speed.Cell:
    target = Target(
        "net", "engine", "", "fp32", "onnxruntime", {}, 0, RunnerSpec(str(model), "onnx", backend="onnxruntime")
    )
    given = {"path": str(model), **about}
    return speed.Cell(
        "net", "fp32", "ONNX Runtime, run()", speed.ONE, target, "bench.peers.loops:onnxruntime_run", given
    )


@pytest.mark.journey
def test_rows_have_both_sides_and_failures_their_reason(model: Path, tmp_path: Path) -> None:
    rows = speed.compare([cell(model), cell(tmp_path / "none.onnx")], [2], 1, 1)
    assert [row["batch"] for row in rows] == [2, 2] and "failed" not in rows[0]
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours_ms"][0] / rows[0]["theirs_ms"][0])
    assert "none.onnx" in rows[1]["failed"]
    shown = speed.text(rows).splitlines()
    assert shown[2].startswith("| net | fp32 | 2 | one query at a time | ONNX Runtime, run() |")
    assert f"{1 / rows[0]['ratio']:.3f}" in shown[2] and "none.onnx" in shown[3]


def test_the_table_says_how_much_faster_ours_is() -> None:
    row = {"model": "net", "precision": "int8", "batch": 64, "peer": "x", "load": speed.ONE}
    times = {"ours_ms": [1.0], "theirs_ms": [2.0], "ratio": 0.5, "interval": [0.4, 0.625]}
    line = speed.text([{**row, **times, "mean": {"ratio": 0.8, "interval": None}}]).splitlines()[2]
    assert "| 2.000 [1.600, 2.500] | 1.250 |" in line
    many = speed.text([{**row, "load": speed.MANY, **times, "mean": {"ratio": 0.8, "interval": None}}])
    assert "| - | - | - | 1.250 |" in many


@pytest.mark.journey
def test_many_queries_at_a_time_beside_benchmark_app(model: Path) -> None:
    pytest.importorskip("openvino", reason="benchmark_app comes with openvino")
    target, peer = benchmark_app.sides(model)
    many = target._replace(spec=target.spec.with_(options={**target.spec.options, "streams": 2}))
    (row,) = speed.compare(
        [
            speed.Cell(
                "net", "fp32", "benchmark_app", speed.MANY, many, benchmark_app.STAGE, {**peer, "throughput": True}
            )
        ],
        *([8], 1, 1),
    )
    assert "failed" not in row and 0 < row["theirs_mean_ms"][0] < 1e3


@pytest.mark.slow
def test_tensorflow_as_its_users_time_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from engines import child
    from engines.kerasgeneration import child_env
    from optimize import api
    from optimize.sources import recognise

    spec = recognise(str(api.zoo_make("resnet18", out=tmp_path / "r18.keras")))
    for stage in ("keras_predict", "tensorflow_function"):
        arguments = {"spec": spec.to_json(), "batch": 2, "seconds": 0.2}
        found = child.call(f"bench.peers.loops:{stage}", arguments, env=child_env(spec))
        assert 0 < found["median_ms"] < 1e5 and 0 < found["mean_ms"] < 1e5


def test_torch_by_its_own_benchmark(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()))
    module.save(str(tmp_path / "net.pt"))
    spec = RunnerSpec(str(tmp_path / "net.pt"), "torchscript", input_shape=(3, 8, 8))
    found = loops.torch_benchmark(spec.to_json(), 2, 0.1)
    assert 0 < found["median_ms"] < 1e4 and found["mean_ms"] > 0


def test_without_the_shared_models_it_says_what_is_missing(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(models, "SHARED", tmp_path / "shared")
    assert speed.main(["-o", str(tmp_path / "peers.json")]) == 2
    assert "not here" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.journey
def test_what_is_written_is_whole(model: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(speed, "shared_cells", lambda scratch, batches: [cell(model)])
    assert speed.main(["-o", str(tmp_path / "p.json"), "--rounds", "1", "--seconds", "1", "--batch", "1"]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["schema"] == speed.SCHEMA and found["environment"]["cores"]
    assert (tmp_path / "p.md").read_text() == capsys.readouterr().out == speed.text(found["rows"])
