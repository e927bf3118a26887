"""Runs beside a reference: cells matched, unlike machines refused, limits broken only where that is certain."""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats
from bench.compare import SCHEMA, compare, failures, match
from engines.errors import IncompatibleError, UsageError

Make = Callable[..., Dict[str, Any]]


def times(run: Dict[str, Any], factor: float, role: str = "engine", seed: int = 1) -> Dict[str, Any]:
    """The run with other samples: `factor` times as long in rows of a role."""
    rng = np.random.default_rng(seed)
    changed = copy.deepcopy(run)
    for row in changed["rows"]:
        by = factor if row["role"] == role else 1.0
        for entry in row["rounds"]:
            entry["samples_ms"] = [value * by * rng.uniform(0.999, 1.001) for value in entry["samples_ms"]]
        row["samples_ms"] = [value for entry in row["rounds"] for value in entry["samples_ms"]]
        row.update(stats.summary(row["samples_ms"]))
    return changed


def cells(found: Dict[str, Any]) -> List[Dict[str, Any]]:
    (one,) = found["runs"]
    return list(one["cells"])


def test_each_cell_gets_a_ratio_an_interval_and_a_verdict(make_run: Make) -> None:
    reference = make_run()
    found = compare(reference, [("new.json", times(reference, 0.5))])
    assert found["schema"] == SCHEMA and [one["name"] for one in found["runs"]] == ["new.json"]
    assert [(c["target"], c["form"], c["batch"]) for c in cells(found)] == [
        (row["target"], row["form"], row["batch"]) for row in reference["rows"]
    ]
    for cell in cells(found):
        expected = 2.0 if cell["precision"] == "int8" else 1.0
        assert cell["ratio"] == pytest.approx(expected, rel=0.002)
        assert cell["interval"][0] <= cell["ratio"] <= cell["interval"][1]
        assert cell["verdict"] == "faster" if expected == 2.0 else cell["verdict"] in ("no difference", "faster")
        assert cell["top1_change"] is None and cell["reference_ms"] / cell["ms"] == pytest.approx(cell["ratio"])
    mean = found["runs"][0]["geomean"]
    assert mean["ratio"] == pytest.approx(2 ** (1 / 3), rel=0.002) and mean["cells"] == 6
    assert mean["interval"][0] <= mean["ratio"] <= mean["interval"][1]


def test_few_rounds_give_a_ratio_without_a_verdict(make_run: Make) -> None:
    (first, *_) = cells(compare(make_run(3), [("new", make_run(5))]))
    assert first["interval"] is None and first["verdict"].startswith("no verdict")
    assert compare(make_run(3), [("new", make_run(5))])["runs"][0]["geomean"]["interval"] is None


@given(st.floats(0.2, 5), st.integers(0, 5))
def test_the_other_way_round_is_the_inverse(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        {
            **{"target": "a", "role": "engine", "form": "", "precision": "int8", "backend": "openvino", "batch": 1},
            **{"rounds": [{"samples_ms": list(side * rng.uniform(0.9, 1.1, 9))} for _ in range(5)]},
            **{"p50_ms": side, "top1": None, "flags": []},
        }
        for side in (1.0, factor)
    ]
    a, b = ({"environment": {}, "rows": [row]} for row in rows)
    (there,), (back,) = cells(compare(a, [("b", b)])), cells(compare(b, [("a", a)]))
    assert there["ratio"] * back["ratio"] == pytest.approx(1)
    assert there["verdict"] != back["verdict"] or there["verdict"] == "no difference"


def test_a_machine_of_which_nothing_is_known_is_unlike_one_that_is(make_run: Make) -> None:
    reference, new = make_run(), {**make_run(), "environment": {}}
    with pytest.raises(IncompatibleError, match=r"processor: .* and unknown"):
        compare(reference, [("new", new)])
    assert compare(new, [("new", new)])["runs"][0]["unlike"] == []


def test_a_bundle_whose_name_changed_is_matched_by_what_it_is(make_run: Make) -> None:
    reference, new = make_run(name="int8-openvino2026.4.1"), make_run(name="int8-openvino2026.5.0")
    found = compare(reference, [("new", new)])
    assert cells(found)[0]["before"] == "int8-openvino2026.4.1"
    assert cells(found)[0]["target"] == "int8-openvino2026.5.0"
    two = {**new, "rows": [*new["rows"], {**new["rows"][0], "target": "another"}]}
    pairs, left, right = match(reference["rows"], two["rows"])  # which of the two is it?
    assert len(pairs) == 5 and len(left) == 1 and len(right) == 2


def test_a_loaded_cell_is_another_than_a_quiet_one(make_run: Make) -> None:
    quiet, loaded = make_run(), make_run()
    loaded["rows"][0]["interference"] = {"kinds": "cpu:50", "words": "", "loads": []}
    (found,) = compare(quiet, [("loaded", loaded)])["runs"]
    assert (found["lacking"], found["added"]) == (["int8, batch 1"], ["int8, batch 1, beside cpu:50"])
    assert len(compare(loaded, [("again", loaded)])["runs"][0]["cells"]) == 6


def test_cells_of_one_side_are_named(make_run: Make) -> None:
    (one,) = compare(make_run(batches=(1, 8)), [("new", make_run(batches=(8, 64)))])["runs"]
    assert one["lacking"] == ["int8, batch 1", "net.keras predict, batch 1", "net.keras function, batch 1"]
    assert one["added"][0] == "int8, batch 64" and len(one["cells"]) == 3
    with pytest.raises(UsageError, match="no cell"):
        compare(make_run(batches=(1,)), [("new", make_run(batches=(64,)))])


@pytest.mark.parametrize(
    ("place", "key", "value", "words"),
    [
        ("", "cpu", "Another CPU", "processor"),
        ("", "board", "Orin Nano", "board"),
        ("", "gpu", "Another GPU", "GPU"),
        ("before", "clocks", "locked", "clocks: unknown and locked"),
    ],
)
def test_unlike_machines_and_states_are_refused(make_run: Make, place: str, key: str, value: str, words: str) -> None:
    reference, new = make_run(), make_run()
    (new["environment"][place] if place else new["environment"])[key] = value
    with pytest.raises(IncompatibleError, match=words) as refused:
        compare(reference, [("new", new)])
    assert "--force" in refused.value.hint
    (one,) = compare(reference, [("new", new)], force=True)["runs"]
    assert len(one["unlike"]) == 1 and words in one["unlike"][0] and len(one["cells"]) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_sha256": "{}" * 32}, "int8, batch 1: another model"),
        ({"dataset": {"name": "d", "n": 9, "sha256": "{}" * 32}}, "int8, batch 1: accuracy on other images"),
    ],
)
def test_other_models_and_data_are_refused(make_run: Make, changes: Dict[str, Any], words: str) -> None:
    reference, new = make_run(), make_run()
    for run, digit in ((reference, "aa"), (new, "bb")):
        for key, value in changes.items():
            filled = {**value, "sha256": digit * 32} if isinstance(value, dict) else digit * 32
            run["rows"][0][key] = filled
    with pytest.raises(IncompatibleError, match=words):
        compare(reference, [("new", new)])
    assert compare(reference, [("new", new)], force=True)["runs"][0]["unlike"] == [words]
    new["rows"][0] = {**new["rows"][0], **dict.fromkeys(changes)}  # unknown is not unlike
    assert compare(reference, [("new", new)])["runs"][0]["unlike"] == []


def test_a_cell_that_was_not_measured_breaks_any_limit(make_run: Make) -> None:
    reference, run = make_run(), make_run()
    run["rows"] = run["rows"][1:]
    (found,) = compare(reference, [("new", run)])["runs"]
    assert failures(found, None, None) == []
    assert any("not in this run" in words for words in failures(found, 0.5, None))


def test_a_cell_that_is_there_twice_is_named(make_run: Make) -> None:
    run = make_run()
    run["rows"] *= 2
    with pytest.raises(UsageError, match="is there twice"):
        compare(make_run(), [("new", run)])


def test_limits_are_broken_only_where_it_is_certain(make_run: Make) -> None:
    reference = make_run()
    (slower,) = compare(reference, [("new", times(reference, 1.2))])["runs"]
    assert failures(slower, 0.25, None) == []
    broken = failures(slower, 0.05, None)
    assert len(broken) == 2 and broken[0].startswith("int8, batch 1: 20.") and "5% are allowed" in broken[0]
    slower["cells"][0]["interval"] = [0.7, 1.01]
    assert len(failures(slower, 0.05, None)) == 1  # an accident, perhaps
    slower["cells"][0]["interval"] = None
    assert len(failures(slower, 0.05, None)) == 2  # one round: nothing says that it is one


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("factor", [0.0, 1e-310])
def test_a_median_of_zero_gives_no_ratio(make_run: Make, side: int, factor: float) -> None:
    sides = [make_run(), make_run()]
    sides[side] = times(sides[side], factor)
    (one,) = compare(sides[0], [("new", sides[1])])["runs"]
    assert (one["cells"][0]["ratio"], one["cells"][0]["verdict"]) == (None, "no ratio: a median of zero")
    assert one["geomean"]["cells"] == 4 and failures(one, 0.05, None) == []


def test_lost_accuracy_breaks_a_limit_and_so_does_an_unmeasured_one(make_run: Make) -> None:
    reference, new = make_run(), make_run()
    for run, top1 in ((reference, 0.90), (new, 0.893)):
        for row in run["rows"]:
            row["top1"] = top1
    new["rows"][1]["top1"] = None
    (one,) = compare(reference, [("new", new)])["runs"]
    assert one["cells"][0]["top1_change"] == pytest.approx(-0.7)
    assert failures(one, None, 1.0) == ["net.keras predict, batch 1: top-1 unmeasured, 1 are allowed"]
    assert len(failures(one, None, 0.5)) == 6 and "0.70 points lower" in failures(one, None, 0.5)[0]
