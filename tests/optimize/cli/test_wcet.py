"""`optimize wcet` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def times(tmp_path: Path) -> Any:
    def write(samples: np.ndarray, name: str = "times.csv") -> Path:
        path = tmp_path / name
        path.write_text("latency_ms\n" + "\n".join(f"{value:.6f}" for value in samples))
        return path

    return write


def exponential(n: int = 5000) -> np.ndarray:
    return 1 + np.random.default_rng(0).exponential(0.05, n)


def test_the_answer_tells_what_was_seen_and_what_is_extrapolated(optimize_command: Any, times: Any) -> None:
    done = optimize_command("wcet", times(exponential()), "--deadline", "1.3ms")
    assert done.exit_code == 0
    for words in ("high-water mark", "deadline 1.3 ms", "all 11 passed", "extrapolated", "1,000,000,000"):
        assert words in done.stdout
    assert "guaranteed" not in done.stdout


def test_a_refusal_is_exit_3_with_its_reason_and_the_facts_all_the_same(optimize_command: Any, times: Any) -> None:
    drifting = times(exponential() + np.linspace(0, 0.5, 5000))
    done = optimize_command("wcet", drifting, "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 3 and told["error"]["exit_code"] == 3
    shown = optimize_command("wcet", drifting)
    assert "no estimate" in shown.stdout and "high-water mark" in shown.stdout and "error: no estimate" in shown.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--probability", "often"), "--probability"),
        (("--probability", "0.5"), "probability 0.5"),
        (("--deadline", "soon"), "not a time"),
        (("--column", "none"), "no column"),
    ],
)
def test_wrong_options(optimize_command: Any, times: Any, options: Any, words: str) -> None:
    done = optimize_command("wcet", times(exponential()), *options)
    assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_few_constant_and_coarse_samples(optimize_command: Any, times: Any) -> None:
    for samples, words in (
        (exponential(500), "too few"),
        (np.ones(5000), "alike"),
        (np.round(exponential(), 1), "too coarse"),
    ):
        done = optimize_command("wcet", times(samples))
        assert done.exit_code == 3 and words in done.stderr
