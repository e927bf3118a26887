"""Tails in reports: what was seen, tested and extrapolated, or why it was not."""

from __future__ import annotations

import copy
from typing import Any, Dict

import numpy as np
import pytest

from bench import report, runs
from bench.tail import deadline, estimate
from engines.errors import DamagedError
from tests.bench.report import made
from tests.bench.report.test_html import Page


def tail(samples: np.ndarray) -> Dict[str, Any]:
    """As `optimize wcet` puts it into a row."""
    return {
        "name": "int8",
        "source": "measured",
        "first_ms": 5.0,
        "interference": "",
        **estimate.estimate(samples),
        "deadline": deadline.misses(samples, 1.2),
        "out_of_sample": estimate.out_of_sample(samples),
        "layers": {
            "slow": 20,
            "queries": 2000,
            "layers": [{"name": "conv1", "median_ms": 0.5, "max_ms": 2.0, "share": 0.7}],
            "outside": {"median_ms": 0.1, "max_ms": 0.3, "share": 0.3},
        },
    }


def with_tail(samples: np.ndarray) -> Dict[str, Any]:
    run = made.run(batches=(1,), threads=(None,), rounds=1, targets=[("int8", "engine", "", "int8", 1.0, None)])
    row = run["rows"][0]
    row["rounds"][0]["samples_ms"] = row["samples_ms"] = [float(f"{value:.6g}") for value in samples]
    row.update(runs.stats.summary(row["samples_ms"]), tail=tail(np.array(row["samples_ms"])))
    runs.validate(run)
    return run


@pytest.fixture(scope="module")
def sound() -> Dict[str, Any]:
    return with_tail(1 + np.random.default_rng(0).exponential(0.05, 5000))


@pytest.fixture(scope="module")
def drifting() -> Dict[str, Any]:
    rng = np.random.default_rng(0)
    return with_tail(1 + 0.02 * np.abs(rng.normal(0, 1, 5000)) + np.linspace(0, 0.1, 5000))


def test_the_page_has_the_estimates_the_tests_and_both_charts(sound: Dict[str, Any]) -> None:
    page = Page(report.FORMATS["html"](sound))
    found = sound["rows"][0]["tail"]
    estimates = next(rows for name, rows in page.tables.items() if name.startswith("Tail estimates"))
    assert [row[0] for row in estimates[1:]] == ["1,000", "1,000,000", "1,000,000,000"]
    assert float(estimates[2][1]) == pytest.approx(found["estimates"][1]["ms"], rel=1e-3)
    assert "extrapolated" in estimates[2][5] and estimates[1][5] == "no" and "[" in estimates[1][4]
    tests = next(rows for name, rows in page.tables.items() if name.startswith("Tests of the tail"))
    assert len(tests) == 1 + len(found["tests"])
    assert "How seldom a latency is exceeded" in page.words and "Threshold stability" in page.words
    chosen = next(rows for name, rows in page.tables.items() if name.startswith("Thresholds"))
    assert [row[-1] for row in chosen].count("yes") == 1
    layers = next(rows for name, rows in page.tables.items() if name.startswith("Layers of the 20 slowest of 2000"))
    assert layers[1] == ["conv1", "0.500", "2.000", "70.0"] and layers[2][0] == "outside the layers"
    assert "no number of samples makes them a bound" in page.words and "guaranteed" not in page.words


def test_a_refusal_is_told_and_draws_no_fit(drifting: Dict[str, Any]) -> None:
    page = Page(report.FORMATS["html"](drifting))
    reason = drifting["rows"][0]["tail"]["refused"]["reason"]
    assert reason in page.words and not any(name.startswith("Tail estimates") for name in page.tables)
    assert "How seldom a latency is exceeded" in page.words


def test_markdown_tells_the_same(sound: Dict[str, Any], drifting: Dict[str, Any]) -> None:
    text = report.FORMATS["md"](sound)
    assert "## Tail of int8, batch 1" in text and "one in 1,000,000:" in text and "missed it" in text
    assert "no estimate" in report.FORMATS["md"](drifting)


def test_a_row_measured_beside_a_load_is_called_so(sound: Dict[str, Any]) -> None:
    run = copy.deepcopy(sound)
    loaded = copy.deepcopy(run["rows"][0])
    one = {"kind": "cpu", "tool": "own", "version": "1", "settings": {"percent": 50}}
    loaded["interference"] = {"kinds": "cpu:50", "words": "50% of each core", "loads": [one]}
    run["rows"].append(loaded)
    runs.validate(run)
    page = Page(report.FORMATS["html"](run))
    assert "int8 beside cpu:50" in page.words and "int8 beside cpu:50" in report.FORMATS["md"](run)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.update(estimates=[{"p": "x"}]), "tail.estimates"),
        (lambda t: t.update(refused={"reason": 1}), "tail.refused"),
        (lambda t: t.pop("curve"), "tail.curve"),
        (lambda t: t["tests"][0].update(p=2.0), "tail.tests"),
    ],
)
def test_a_damaged_tail_is_refused(sound: Dict[str, Any], change: Any, named: str) -> None:
    run = copy.deepcopy(sound)
    change(run["rows"][0]["tail"])
    with pytest.raises(DamagedError, match=named):
        runs.validate(run)
