"""`optimize wcet`: measured engines, imported timings, and what does not go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import runs
from engines.errors import UsageError
from optimize import reporting, worstcase


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Times as another tool may have written them."""
    times = 1 + np.random.default_rng(0).exponential(0.05, 5000)
    path = tmp_path / "times.csv"
    path.write_text("latency_ms\n" + "\n".join(f"{value:.6f}" for value in times))
    return path


def test_timings_of_another_tool_are_looked_at(csv: Path) -> None:
    found = worstcase.wcet(csv, deadline_ms=1.3, probabilities=(1e-3, 1e-5))
    (one,) = found["series"]
    assert found["schema"] == "optimize.tail/1" and one["n"] == 5000 and one["refused"] is None
    for each in one["estimates"]:
        assert each["low_ms"] < 1 - 0.05 * np.log(each["p"]) < each["high_ms"]
    share = float(np.exp(-0.3 / 0.05))
    assert one["deadline"]["interval"][0] < share < one["deadline"]["interval"][1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        *(({"interference": "cpu:50"}, "--interference"), ({"layers": True}, "--layers")),
        *(({"data": "synthetic"}, "--data"), ({"samples": 500}, "--samples")),
    ],
)
def test_what_needs_an_engine_is_refused_for_timings(csv: Path, more: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        worstcase.wcet(csv, **more)
    with pytest.raises(UsageError, match="nothing is measured"):
        worstcase.wcet(csv, out=csv.parent / "kept.json")


def test_models_and_bundles_are_no_timings(tiny_onnx: Path, csv: Path, tmp_path: Path) -> None:
    assert worstcase.is_timings(csv)
    (tmp_path / "wide.csv").write_text(csv.read_text(), encoding="utf-16")
    assert worstcase.is_timings(tmp_path / "wide.csv")
    assert (
        not worstcase.is_timings(tiny_onnx)
        and not worstcase.is_timings(tmp_path)
        and not worstcase.is_timings(tmp_path / "none")
    )


@pytest.mark.journey
def test_an_engine_is_measured_quiet_and_beside_a_load_and_kept(tiny_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "wcet.json"
    found = worstcase.wcet(
        tiny_onnx,
        samples=1500,
        interference="cpu:30",
        warmup_s=0.0,
        layers=True,
        deadline_ms=1e3,
        out=out,
        backend="onnxruntime",
    )
    quiet, loaded = found["series"]
    assert (quiet["interference"], loaded["interference"]) == ("", "cpu:30")
    assert quiet["n"] == loaded["n"] == 1500 and quiet["first_ms"] > 0 and quiet["deadline"]["count"] == 0
    (slower,) = found["slowdowns"]
    assert slower["median"] == pytest.approx(loaded["median_ms"] / quiet["median_ms"])
    assert quiet["layers"]["layers"] and loaded["layers"] is None
    kept = runs.read(out)
    assert [row["tail"]["interference"] for row in kept["rows"]] == ["", "cpu:30"]
    assert kept["rows"][1]["interference"]["loads"][0]["kind"] == "cpu"
    again = worstcase.wcet(out)
    for before, after in zip(found["series"], again["series"]):
        assert after["hwm_ms"] == pytest.approx(before["hwm_ms"]) and after["interference"] == before["interference"]
    text = reporting.report_texts([out], "md")["md"]
    assert "high-water mark" in text and "beside cpu:30" in text
    json.dumps(found, allow_nan=False)


def test_a_file_that_cannot_be_written_is_told_first(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        worstcase.wcet(tiny_onnx, out=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"deadline_ms": 0.0}, "deadline"), ({"probabilities": (0.5,)}, "probability 0.5")]
)
def test_wrong_options_are_told_before_anything_is_measured(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any, words: str
) -> None:
    monkeypatch.setattr(worstcase.longrun, "measure_many", lambda *given: pytest.fail("it was measured"))
    with pytest.raises(UsageError, match=words):
        worstcase.wcet(tiny_onnx, **wrong)
