"""The procedure: the user's tables, made-up runs with known answers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from engines.errors import DamagedError, UsageError
from optimize.selection import choice
from optimize.selection.choose import select

from .conftest import TABLES, Write, noisy, row


def rejected(found: Dict[str, Any]) -> Dict[str, str]:
    return {one["target"]: one["reason"] for one in found["rejected"]}


def test_the_users_rtx_3080_ti() -> None:
    found = select([TABLES / "rtx-3080-ti.json"])
    assert (found["baseline"], found["chosen"], found["verdict"]) == ("ResNet-152", "ResNet-18", "PASS")
    assert round(100 * found["saving"], 1) == 45.4 and round(found["drop_points"], 2) == 4.07
    assert found["interval"] is None and "point estimate" in found["why"]
    assert found["scope"].startswith("inference only: 10,000 images")
    assert rejected(found) == {"ResNet-152": "slower than the chosen one: 30.79 s, not 16.8 s"}
    assert {"size: all", "replicates: all", "data set of the accuracy: all"} <= set(found["unknown"])


def test_the_users_nuc_whose_deepest_model_is_not_its_best() -> None:
    found = select([TABLES / "nuc.json"])
    assert (found["baseline"], found["chosen"], found["verdict"]) == ("ResNet-101", "ResNet-18", "PASS")
    assert round(100 * found["saving"], 1) == 64.2 and round(found["drop_points"], 2) == 5.01
    assert rejected(found)["ResNet-152"] == "its time is not known"
    greedy = select([TABLES / "nuc.json"], policy="greedy")
    assert greedy["chosen"] == "ResNet-101" and greedy["saving"] == 0 and greedy["verdict"] == "PASS"
    assert greedy["asked"]["min_saving"] == 0


def test_an_int8_engine_competes_with_a_smaller_model(write: Write) -> None:
    """A quantised ResNet-50 that is as fast as ResNet-18 and more accurate leaves no reason for ResNet-18."""
    runs = write(
        [
            row("r50", 0.94, noisy(10.0, seed=1), size_bytes=100_000_000),
            row("r50-int8", 0.938, noisy(3.0, seed=2), precision="int8", size_bytes=26_000_000),
            row("r18", 0.91, noisy(4.0, seed=3), size_bytes=45_000_000),
        ],
        cpu="A CPU",
    )
    found = select([runs])
    assert (found["baseline"], found["chosen"], found["verdict"]) == ("r50", "r50-int8", "PASS")
    assert found["paired"] and found["rounds"] == 10 and found["interval"][0] >= 0.2
    assert found["interval"][0] <= found["saving"] <= found["interval"][1]
    assert (
        rejected(found)["r18"].startswith("slower than the chosen one")
        and "dominated by r50-int8" in rejected(found)["r18"]
    )
    assert found["front"] == ["r50", "r50-int8"] and found["axes"] == ["accuracy", "latency", "size"]


def test_the_drop_limit_in_points_and_relative_are_two_limits(write: Write) -> None:
    """ImageNet's ResNet-152 and ResNet-18: 8.55 points, 10.9%."""
    runs = write([row("r152", 0.7831, noisy(9)), row("r18", 0.6976, noisy(2, seed=1))])
    assert select([runs], max_drop="10")["chosen"] == "r18"
    found = select([runs], max_drop="10%")
    assert found["chosen"] == found["baseline"] == "r152" and found["verdict"] == "FAIL"
    assert "over the drop limit: it loses 8.55 points" in rejected(found)["r18"]
    assert found["asked"]["max_drop"] == {"value": 0.1, "unit": "relative", "words": "10% of the baseline's accuracy"}


@pytest.mark.parametrize(
    ("factor", "rounds", "verdict"),
    [
        (0.7, 10, "PASS"),
        (0.9, 10, "FAIL"),
        (0.8, 10, "INCONCLUSIVE"),
        (0.7, 9, "INCONCLUSIVE"),
        (0.7, 1, "INCONCLUSIVE"),
    ],
)
def test_verdicts(write: Write, factor: float, rounds: int, verdict: str) -> None:
    runs = write([row("a", 0.95, noisy(10, rounds, 0.02)), row("b", 0.94, noisy(10 * factor, rounds, 0.02, 1))])
    found = select([runs])
    assert found["verdict"] == verdict
    assert (found["interval"] is None) == (rounds < 5)
    if rounds < 10:
        assert found["rounds_needed"] == 10 and f"{rounds} rounds, a verdict needs 10" in found["why"]


def test_pareto_takes_the_balanced_one_of_the_front(write: Write) -> None:
    def one(name: str, top1: float, ms: float, joules: float) -> Dict[str, Any]:
        energy = {"rail": "r", "watts": 1.0, "idle_watts": 0.1, "joules_per_image": joules}
        return row(name, top1, [ms] * 10, energy=energy, size_bytes=int(ms * 1e6))

    rows = [one("best", 0.95, 10, 1), one("even", 0.94, 3, 0.3), one("fast", 0.87, 2, 0.2), one("bad", 0.86, 4, 0.4)]
    found = select([write(rows)], policy="pareto")
    assert found["axes"] == ["accuracy", "latency", "energy", "size"] and found["front"] == ["best", "even", "fast"]
    assert found["chosen"] == "even" and rejected(found)["bad"] == "dominated by fast"
    assert "on the front" in rejected(found)["fast"]
    assert select([write(rows)], policy="budget")["chosen"] == "fast"
    assert select([write(rows)], policy="pareto", max_drop="0.5")["chosen"] == "best", (
        "nothing else is within the limit"
    )


def test_one_candidate_is_no_choice(write: Write) -> None:
    with pytest.raises(UsageError, match="only candidate"):
        select([write([row("a", 0.9, [1.0])])])
    with pytest.raises(UsageError, match="no row"):
        select([write([])])
    with pytest.raises(UsageError, match="no run file"):
        select([])


def test_a_device_that_takes_none_fails_with_every_reason(write: Write) -> None:
    rows = [row(name, 0.9, [1.0] * 10, size_bytes=3 << 20) for name in ("a", "b")]
    found = select([write(rows)], limit_memory="2MiB")
    assert found["chosen"] is found["baseline"] is found["saving"] is None and found["verdict"] == "FAIL"
    assert set(rejected(found)) == {"a", "b"} and "does not fit" in rejected(found)["a"]
    choice.validate(found)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"policy": "best"}, "budget, greedy, pareto"),
        ({"max_drop": "much"}, "--max-drop"),
        ({"min_saving": "200%"}, "--min-saving"),
        ({"bandwidth": "fast"}, "--bandwidth"),
        ({"bandwidth": "link"}, "no link"),
        ({"rtt": "soon"}, "--rtt"),
        ({"images": 0}, "--images"),
        ({"batch": 7}, "the run files have batch 1"),
        ({"limit_memory": "all"}, "--limit-memory"),
        ({"max_load": "2"}, "--max-load"),
        ({"device": "nowhere.json"}, "no such device file"),
    ],
)
def test_bad_options(write: Write, more: Dict[str, Any], words: str) -> None:
    runs = write([row("a", 0.9, [1.0]), row("b", 0.9, [2.0])])
    with pytest.raises(UsageError, match=words):
        select([runs], **more)


def test_the_choice_is_written_and_read_again(write: Write, tmp_path: Path) -> None:
    runs = write([row("a", 0.95, noisy(10)), row("b", 0.94, noisy(5, seed=1))])
    out = tmp_path / "sub" / "choice.json"
    found = select([runs], out=out)
    assert choice.read(out) == found == json.loads(out.read_text())
    with pytest.raises(UsageError, match="is a folder"):
        select([runs], out=tmp_path)
    with pytest.raises(UsageError, match="no such run file"):
        select([tmp_path / "none.json"])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DamagedError):
        select([tmp_path / "bad.json"])


def test_times_that_are_none_are_not_divided_by(write: Write) -> None:
    found = select([write([row("a", 0.95, [0.0] * 10), row("b", 0.94, [1.0] * 10), row("c", None, [1.0])])])
    assert found["baseline"] == "b" and found["verdict"] == "FAIL" and "saves nothing" in found["why"]
    assert rejected(found) == {
        "a": "its time is not above 0",
        "c": "accuracy unmeasured (optimize bench ... --data cifar10 measures it)",
    }
