"""What a build says: how ranges were found, what a search came to, and what to do where a gate fails."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest
from rich.console import Console

from engines.errors import GateError
from engines.spec import RunnerSpec
from engines.terminal import show
from optimize.cli import built
from optimize.pipeline.results import Build, Built
from optimize.pipeline.search import _STRICTER


def searched(complete: bool, tried: int = 3, kept: Optional[List[str]] = None) -> Dict[str, Any]:
    one = {"complete": complete, "tried": [{}] * tried, "took_s": 12.3, "layers": [{}] * 20}
    return {"search": {"searches": [one]}, "calibration": {"keep_float": kept or []}}


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (searched(True, kept=["conv7"]), "1 of 20 layers stay float: conv7 (3 mixes measured in 12 s)"),
        (searched(False, kept=["a", "b"]), "2 of 20 layers stay float: a, b (3 mixes measured in 12 s, stopped by"),
        (searched(True, 1), "no set of layers is enough (1 mix measured in 12 s)"),
        (searched(False, 1), "stopped by --search-budget before a set of layers was found (1 mix measured in 12 s)"),
    ],
)
def test_a_search_that_was_stopped_establishes_nothing(about: Dict[str, Any], words: str) -> None:
    assert built._searched(about).startswith(words)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (
            {
                **{"method": {"name": "peaks", "percentile": 95.0}, "candidates": [{}] * 11},
                **{"samples": 172, "dataset": {"name": "cifar10"}},
            },
            "peaks:95 of 11 methods, from 172 images of cifar10",
        ),
        ({"method": {"name": "mse", "percentile": None}, "samples": 9, "dataset": {"name": "d"}}, "mse, from 9 images"),
        ({"method": "entropy calibrator", "samples": 512}, "entropy calibrator"),
    ],
)
def test_the_ranges_say_how_they_were_found(calibration: Dict[str, Any], words: str) -> None:
    assert built._ranges(calibration).startswith(words)


def test_ways_of_int8_have_names() -> None:
    names = [
        built._variant({"name": name, "keep_float": kept})
        for name, kept in (("int8", []), ("float1", ["a"]), ("float2", ["a", "b"]), ("implicit", []))
    ]
    assert names == ["every layer in int8", "1 layer in float", "2 layers in float", "implicit"]


def failing(precision: str = "int8", drop: float = 2.0, agreement: float = 0.97, **more: Any) -> Built:
    about = {
        "gate": {"passed": False, "max_drop": 1.0, "min_agreement": 99.0, "reasons": ["why"]},
        "accuracy": {"top1_drop": drop, "agreement": agreement},
        "calibration": {"imported": None} if precision == "int8" else None,
        **more,
    }
    return Built(Path("b"), precision, about, False)


@pytest.mark.parametrize(
    ("bundle", "said", "unsaid"),
    [
        (failing(), ["--search-budget 300", "more --samples", "wider --max-drop", "lower --min-agreement"], []),
        (failing(drop=0.5), ["lower --min-agreement"], ["--max-drop"]),
        (failing(agreement=0.995), ["wider --max-drop"], ["--min-agreement"]),
        (failing(**searched(False)), ["a longer --search-budget"], ["--search-budget 300"]),
        (failing(**searched(True)), ["more --samples"], ["--search-budget"]),
        (failing(calibration={"imported": {"header": "TRT"}}), ["another --precision"], ["--samples"]),
        (failing("fp16"), ["another --precision"], ["--samples", "--search-budget"]),
    ],
)
def test_the_next_step_suits_the_gate_that_failed(bundle: Built, said: List[str], unsaid: List[str]) -> None:
    spec = RunnerSpec("m.onnx", "onnx")
    done = Build(Path("m"), Path("o"), "openvino", spec, {}, None, bundles=[bundle])
    with pytest.raises(GateError, match="why") as raised:
        built.judge([done], [])
    assert all(words in raised.value.hint for words in said)
    assert not any(words in raised.value.hint for words in unsaid)


def test_searches_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimize.pipeline import search

    budgets: List[float] = []

    def aim(job: Any, kept: Any, part: float, settle: bool, budget: float) -> Dict[str, Any]:
        budgets.append(budget)
        return {"sets": [], "outliers": ["a"], "complete": True, "took_s": 40.0, "tried": [], "layers": []}

    monkeypatch.setattr(search, "_aim", aim)

    job: Any = SimpleNamespace(options=SimpleNamespace(search_budget=100.0))
    found, journal = search.search(job)
    assert budgets == [100.0, 60.0, 20.0] and found == []
    assert [one["complete"] for one in journal["searches"]] == [True, True, False]
    budgets.clear()
    job.options.search_budget = 1e9
    search.search(job)
    assert len(budgets) == 3 * len(_STRICTER)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_narrow_table_breaks_no_word_and_keeps_the_gate(width: int) -> None:
    accuracy = {"top1": 0.6473, "top1_drop": 0.1, "agreement": 0.95, "drop_interval": [-0.25, 0.45]}
    about = {"precision": "int8", "achieved": {"int8": 38, "f32": 2}, "size_bytes": 21_400_000, "accuracy": accuracy}
    more = {"gate": {"passed": False}, "reused": False, "seconds": 21.4, "path": "x/int8-openvino2026.4.1"}
    unmeasured = {**about, **more, "accuracy": None, "gate": None, "flags": ["no-fast-fp16"]}
    rows = [built._row({**about, **more, "flags": []}), built._row(unmeasured)]
    text = io.StringIO()
    left_out = show(Console(file=text, width=width), "", built._COLUMNS, rows, built._LEAVE_OUT)
    shown = text.getvalue()
    assert all(len(line) <= width for line in shown.splitlines())
    for index, column in enumerate(built._COLUMNS):
        words = [*column.name.split(), *(word for row in rows for word in row[index].split() if column.least is None)]
        assert column.name in left_out or all(word in shown for word in words), shown
    assert "FAILED" in shown and "int8-" in shown and "openvino2026.4.1" in shown
    assert (width == 160) is not bool(left_out)
