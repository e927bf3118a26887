"""Verdicts: like with like on made-up boards; anything else is not comparable, and says why."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import pytest

from bench import stats
from bench.suites import tables
from bench.suites.verdict import Verdict, machine, quantity, same_board, verdict
from engines import board

BOARDS = Path(__file__).resolve().parents[2] / "boards"


def commands_of(root: Path) -> board.Run:
    def run(words: Sequence[str]) -> str:
        return board.text(root / "commands" / words[0])

    return run


def here(name: str, **more: Any) -> Dict[str, Any]:
    """What a suite knows of a board of tests/boards."""
    return {**machine(BOARDS / name, commands_of(BOARDS / name)), **more}


def cell(suite: str, name: str, **conditions: Any) -> Dict[str, Any]:
    found = next(one for one in tables.read(suite)["cells"] if one["name"] == name)
    return {**found, "conditions": {**found["conditions"], **conditions}}


Make = Callable[..., Dict[str, Any]]


@pytest.fixture()
def row(make_run: Make) -> Make:
    """A row of TensorRT at FP16 and batch 1: five rounds with a median of about `ms`, each its own."""

    def make(ms: float, rounds: int = 5, spread: float = 0.002, compute_ms: float = 0.0, **more: Any) -> Dict[str, Any]:
        found = copy.deepcopy(make_run(count=rounds)["rows"][0])
        for number, entry in enumerate(found["rounds"]):
            drift = ms * (1 + spread * (number - (rounds - 1) / 2))
            entry["samples_ms"] = [drift * (1 + 0.001 * step) for step in (-1, 0, 1, -1, 0, 1)]
            if compute_ms:
                entry["device"] = {"compute_ms": _metric(compute_ms * drift / ms)}
        samples: List[float] = [one for entry in found["rounds"] for one in entry["samples_ms"]]
        found.update(
            backend="tensorrt",
            precision="fp16",
            flags=[],
            samples_ms=samples,
            images_per_s=1e3 * len(samples) / sum(samples),
            device=found["rounds"][0].get("device"),
            **stats.summary(samples),
        )
        return {**found, **more}

    return make


def _metric(ms: float) -> Dict[str, float]:
    return {"mean": ms, "median": ms, "p90": 1.1 * ms, "p99": 1.2 * ms}


def judged(one: Dict[str, Any], measured: Dict[str, Any], where: Dict[str, Any]) -> Verdict:
    return verdict(one, measured, where, 0.05, True)


@pytest.mark.parametrize(
    ("ms", "word"),
    [(1000 / 36, "reproduced"), (1000 / 37.5, "reproduced"), (1000 / 40, "faster"), (1000 / 30, "slower")],
)
def test_on_the_same_board_a_value_is_judged(row: Make, ms: float, word: str) -> None:
    found = judged(cell("jetson-nano", "resnet50"), row(ms), here("nano-jp4"))
    assert (found.word, found.why) == (word, ())
    assert found.value == pytest.approx(1000 / ms, rel=1e-3)
    assert found.ratio == pytest.approx(1000 / ms / 36, rel=1e-3)
    assert found.interval and found.interval[0] <= found.ratio <= found.interval[1]
    assert found.remarks[0] == "random weights"
    assert any("this board is in MAXN" in text for text in found.remarks), "the table states no power mode"


def test_within_the_spread_is_reproduced(row: Make) -> None:
    """Ten percent off is slower; unless the rounds differ by as much."""
    nano, one = here("nano-jp4"), cell("jetson-nano", "resnet50")
    assert judged(one, row(1000 / 32.4), nano).word == "slower"
    wide = judged(one, row(1000 / 32.4, spread=0.08), nano)
    assert wide.word == "reproduced" and wide.interval and wide.interval[0] < 1 < wide.interval[1]


def test_of_times_the_shorter_is_the_faster(row: Make) -> None:
    one = cell("mlperf-orin", "agx-orin-v3.1-singlestream")
    orin = here("agx-orin-jp6.1")
    found = judged(one, row(0.32, precision="int8"), orin)
    assert found.word == "faster" and found.ratio == pytest.approx(2, rel=0.02)
    assert {"JetPack 5.1.1 published, 6.1 here"} <= set(found.remarks)
    assert judged(one, row(0.9, precision="int8"), orin).word == "slower"


def test_few_rounds_give_a_ratio_and_no_verdict(row: Make) -> None:
    found = judged(cell("jetson-nano", "resnet50"), row(1000 / 36, rounds=4), here("nano-jp4"))
    assert (found.word, found.interval, found.why) == ("no verdict", None, ("fewer than 5 rounds",))
    assert found.ratio == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", ["orin-nano-jp5.1.2", "agx-orin-jp6.1", "xavier-nx-jp5", "thor-jp7", "rtx-desktop"])
def test_another_board_is_not_comparable_and_the_ratio_is_told(row: Make, name: str) -> None:
    found = judged(cell("jetson-nano", "resnet50"), row(1000 / 72), here(name))
    assert found.word == "not comparable" and len(found.why) == 1
    assert found.why[0].startswith(f"published on Jetson Nano, this is {here(name)['name']}")
    assert found.ratio == pytest.approx(2, rel=1e-3)


def test_this_machine_is_not_a_jetson(row: Make) -> None:
    """As the machines are on which this is developed; on a Nano it would be its own."""
    mine = machine()
    assert mine["name"]
    if not mine["module"]:
        for name in tables.names():
            for one in tables.read(name)["cells"]:
                assert not one["conditions"]["modules"] or not same_board(one["conditions"], mine)


def test_the_power_mode_must_be_the_same(row: Make) -> None:
    one, measured = cell("orin-nano", "resnet50-fp16-b1"), row(2.5, compute_ms=1.814)
    orin = here("orin-nano-jp6.2")
    found = judged(one, measured, orin)
    assert found.why == ("published in power mode MAXN_SUPER, this board is in 25W",)
    assert judged(one, measured, {**orin, "power_mode": "MAXN_SUPER"}).word == "reproduced"
    spelled = cell("orin-nano", "resnet50-fp16-b1", power_mode="15W")
    assert judged(spelled, measured, {**orin, "power_mode": "MODE_15W"}).word == "reproduced"


def test_the_gpus_time_is_held_against_the_gpus_time(row: Make) -> None:
    one, orin = cell("orin-nano", "resnet50-fp16-b1"), here("orin-nano-jp6.2", power_mode="MAXN_SUPER")
    found = judged(one, row(2.5, compute_ms=1.814), orin)
    assert (found.word, found.value) == ("reproduced", pytest.approx(1.814, rel=0.01))
    assert judged(one, row(1.814, compute_ms=2.5), orin).word == "slower"
    without = judged(one, row(1.814), orin)
    assert without.word == "not comparable" and "without copies" in without.why[0]
    assert without.value == pytest.approx(1.814, rel=0.01)


@pytest.mark.parametrize(
    ("more", "conditions", "words"),
    [
        ({"backend": "openvino"}, {}, "published with tensorrt, measured with openvino"),
        ({"backend": "tensorrt double"}, {}, "measured with tensorrt double"),
        ({"precision": "fp32"}, {}, "published in fp16, measured in fp32"),
        ({"flags": ["no-fast-fp16"]}, {}, "no fast 16-bit format"),
        ({"on": "cpu"}, {}, "published on the GPU, ran on the CPU"),
        ({}, {"processor": "GPU and DLA"}, "deep-learning accelerators"),
        ({}, {"timed": "stream"}, "many queries in flight"),
        ({}, {"timed": "pass"}, "one call over a whole data set"),
    ],
)
def test_what_is_unlike_on_the_same_board(row: Make, more: Any, conditions: Any, words: str) -> None:
    found = judged(cell("jetson-nano", "resnet50", **conditions), row(1000 / 36, **more), here("nano-jp4"))
    assert found.word == "not comparable" and len(found.why) == 1 and words in found.why[0]
    assert found.ratio == pytest.approx(1, rel=1e-3)


def test_a_network_that_was_guessed_is_not_comparable_and_one_that_was_given_is(row: Make) -> None:
    """On the board itself, by TensorRT, in the precision: all but the network."""
    one, nano = cell("jetson-nano", "super-resolution"), here("nano-jp4")
    found = verdict(one, row(1000 / 15), nano, 0.05, True)
    assert found.word == "not comparable" and found.ratio == pytest.approx(1, rel=1e-3)
    (why,) = found.why
    assert why.startswith("the source does not tell which network it was; assumed here: the sub-pixel network")
    assert verdict(one, row(1000 / 15), nano, 0.05, False).word == "reproduced"
    named = verdict(cell("jetson-nano", "tiny-yolo-v3"), row(1000 / 25), nano, 0.05, True)
    assert (named.word, named.remarks[0]) == ("reproduced", "random weights")


def test_whole_passes_are_held_against_whole_passes(row: Make) -> None:
    from bench.passes import summary

    one, orin = cell("resnet34-cifar10-orin-nano", "gpu"), here("orin-nano-jp5.1.2")
    single = row(3.0, precision="mixed", backend="tensorflow", on="gpu")
    assert judged(one, single, orin).word == "not comparable"
    for seconds, word in ((8.8, "reproduced"), (4.0, "faster"), (12.0, "slower")):
        passes = summary([seconds * more for more in (1.0, 1.01, 0.99, 1.0, 1.0)], 5000)
        found = judged(one, {**single, "passes": {**passes, "images": 5000}}, orin)
        assert (found.word, found.why) == (word, ()) and found.value == pytest.approx(2 * seconds)
        assert found.ratio == pytest.approx(17.61 / (2 * seconds)) and "5 passes of 5000 images" in found.remarks[1]


def test_every_reason_is_told_at_once(row: Make) -> None:
    found = judged(cell("jetson-nano", "resnet50"), row(9.0, backend="openvino"), here("rtx-desktop"))
    assert len(found.why) == 2


def test_flags_and_versions_are_remarks(row: Make) -> None:
    one = cell("orin-nano", "resnet50-fp16-b1", power_mode=None)
    orin = here("orin-nano-jp5.1.2", tensorrt="8.5.2")
    found = verdict(one, row(2.5, compute_ms=1.814, flags=["throttled"]), orin, 0.05, False)
    assert found.word == "reproduced"
    assert {"TensorRT 10.3 published, 8.5.2 here", "throttled"} <= set(found.remarks)
    assert "random weights" not in found.remarks


@pytest.mark.parametrize(
    ("conditions", "mine", "same"),
    [
        ({"modules": ["p3767-0003", "p3767-0005"]}, {"module": "p3767-0005"}, True),
        ({"modules": ["p3767-0003"]}, {"module": "p3767-0000"}, False),
        ({"modules": ["p3448"]}, {"module": ""}, False),
        ({"gpu": "RTX 3080 Ti"}, {"gpu": "NVIDIA GeForce RTX 3080 Ti"}, True),
        ({"gpu": "RTX 3080 Ti"}, {"gpu": "NVIDIA GeForce RTX 3080"}, False),
        ({"cpu": "N100"}, {"cpu": "Intel(R) N100"}, True),
        ({"gpu": "RTX 3080 Ti", "cpu": "N100"}, {"gpu": "NVIDIA GeForce RTX 3080 Ti", "cpu": "other"}, False),
        ({}, {"module": "p3448-0000", "gpu": "a", "cpu": "b"}, False),
    ],
)
def test_what_tells_a_board(conditions: Any, mine: Any, same: bool) -> None:
    conditions = {"modules": [], "gpu": None, "cpu": None, **conditions}
    assert same_board(conditions, {"module": "", "gpu": "", "cpu": "", **mine}) is same


def test_quantities(row: Make) -> None:
    found = row(4.0, batch=2, images_per_s=500.0, mean_ms=4.0, p50_ms=3.9, p90_ms=5.0, p99_ms=6.0)
    values = {name: quantity(name, found) for name in tables.QUANTITIES}
    assert values == {
        "images_per_s": 500.0,
        "mean_ms": 4.0,
        "median_ms": 3.9,
        "p90_ms": 5.0,
        "p99_ms": 6.0,
        "ms_per_image": 2.0,
        "s_per_10000_images": 20.0,
        "top1_percent": None,
    }
    spans = {**found, "device": {"compute_ms": _metric(1.0)}}
    assert quantity("images_per_s", spans, True) == 2000
    assert quantity("p99_ms", spans, True) == 1.2
    assert quantity("mean_ms", found, True) is None
