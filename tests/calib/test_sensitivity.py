"""The search finds the layer that was made hard, keeps no other, and goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from calib import sensitivity
from calib.calibrate import calibrate
from calib.preprocess import parse
from calib.sensitivity import Goal, Journal, Measured, meets, search
from engines.errors import UsageError

Build = Callable[..., Path]
PRE = parse("resize=16,unit").to_json()


@pytest.fixture(scope="module")
def quantised(spread_cnn: Path, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantised") / "int8.onnx"
    calibrate(
        str(spread_cnn),
        data,
        PRE,
        "NHWC",
        "openvino",
        str(out),
        samples=60,
        methods=["minmax"],
        without=["equalization"],
    )
    return out


def asked(spread_cnn: Path, quantised: Path, data: str, journal: Path, **changes: Any) -> Dict[str, Any]:
    base: Dict[str, Any] = {
        "onnx": str(spread_cnn),
        "quantised": str(quantised),
        "data": data,
        "preprocess": PRE,
        "layout": "NHWC",
        "target": "openvino",
        "journal": str(journal),
        "min_agreement": 90.0,
    }
    return {**base, **changes}


def test_the_hard_layer_is_found_and_only_it_stays_float(
    spread_cnn: Path, quantised: Path, data: str, tmp_path: Path
) -> None:
    told: List[Any] = []
    journal = tmp_path / "new" / "journal.json"
    found = search(**asked(spread_cnn, quantised, data, journal), progress=lambda *a: told.append(a))
    assert json.loads(json.dumps(found)) == found
    assert found["complete"] and found["plain"]["agreement"] < 0.9
    assert [one["kept"] for one in found["sets"]] == [["b0_conv2"]]  # both orders end at the same set
    (best,) = found["sets"]
    assert best["agreement"] >= 0.9 and 0.5 < best["int8_share"] < 1
    assert found["outliers"] == ["b0_conv2"]
    costs = {one["name"]: (one["only"], one["without"]) for one in found["layers"]}
    assert len(costs) == 9 and max(costs, key=lambda name: costs[name][0]) == "b0_conv2"
    assert min(costs, key=lambda name: costs[name][1]) == "b0_conv2"
    assert ("measuring layers", 18, 18) in told and {"kept": [], **found["plain"]} in found["tried"]


def test_an_interrupted_search_measures_nothing_twice(
    spread_cnn: Path, quantised: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal.json"
    whole = search(**asked(spread_cnn, quantised, data, tmp_path / "other.json"))

    def stop(what: str, done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(**asked(spread_cnn, quantised, data, journal), progress=stop)
    before = json.loads(journal.read_text())["measured"]
    assert len(before) > 5
    counted: List[str] = []
    original = Journal.__call__

    def counting(self: Journal, name: str, measure: Callable[[], Measured]) -> Measured:
        def once() -> Measured:
            counted.append(name)
            return measure()

        return original(self, name, once)

    monkeypatch.setattr(Journal, "__call__", counting)
    again = search(**asked(spread_cnn, quantised, data, journal))
    assert not set(counted) & set(before) and counted
    assert {**again, "took_s": 0} == {**whole, "took_s": 0}
    del counted[:]
    search(
        **asked(spread_cnn, quantised, data, journal, min_agreement=None, max_drop=50.0)
    )  # another goal: same layers
    assert not [name for name in counted if not name.startswith("mix")]


def test_layers_that_make_most_of_the_error_are_named_first(
    spread_cnn: Path, quantised: Path, data: str, tmp_path: Path
) -> None:
    found = search(**asked(spread_cnn, quantised, data, tmp_path / "a.json", settle=False))
    assert found["sets"] == [] and found["outliers"] == ["b0_conv2"] and found["complete"]
    again = tmp_path / "again.onnx"
    keep = found["outliers"]
    calibrate(str(spread_cnn), data, PRE, "NHWC", "openvino", str(again), samples=60, keep_float=keep)
    after = search(**asked(spread_cnn, again, data, tmp_path / "b.json", settle=False, keep=keep))
    assert [one["kept"] for one in after["sets"]] == [keep] and after["layers"] == [] and after["outliers"] == []
    assert after["plain"]["error"] < found["plain"]["error"] / 2
    strict = search(**asked(spread_cnn, again, data, tmp_path / "b.json", keep=keep, min_agreement=100.0))
    assert all(set(one["kept"]) >= set(keep) for one in [*strict["sets"], *strict["tried"]])
    assert "b0_conv2" not in {one["name"] for one in strict["layers"]}


def test_without_time_the_search_says_so(spread_cnn: Path, quantised: Path, data: str, tmp_path: Path) -> None:
    found = search(**asked(spread_cnn, quantised, data, tmp_path / "journal.json", budget_s=0.0))
    assert not found["complete"] and found["sets"] == [] and found["layers"] == []


def test_a_goal_out_of_reach_gives_no_set(
    spread_cnn: Path, quantised: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "meets", lambda found, goal: False)
    found = search(**asked(spread_cnn, quantised, data, tmp_path / "journal.json"))
    assert found["complete"] and found["sets"] == []
    assert max(len(one["kept"]) for one in found["tried"]) == 9


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": "optimize.search/1"}', '{"schema": "optimize.search/1", "key": "k"}']
)
def test_a_damaged_journal_is_started_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(content)
    assert Journal(path, "k")("a", lambda: Measured(1.0, 0.5, None)) == Measured(1.0, 0.5, None)
    assert Journal(path, "k")("a", lambda: Measured(0.0, 0.0, None)) == Measured(1.0, 0.5, None)
    assert Journal(path, "other")("a", lambda: Measured(0.0, 0.0, None)) == Measured(0.0, 0.0, None)


@pytest.mark.parametrize(
    ("found", "goal", "right"),
    [
        (Measured(0.97, 0.1, 0.4), Goal(0.5), True),
        (Measured(0.97, 0.1, 0.6), Goal(0.5), False),
        (Measured(0.97, 0.1, 0.4), Goal(0.5, 98.0), False),
        (Measured(0.97, 0.1, -2.0), Goal(None, 97.0), True),
        (Measured(0.97, 0.1, None), Goal(2.0), False),
        (Measured(0.97, 0.1, None), Goal(3.5), True),
    ],
)
def test_goals(found: Measured, goal: Goal, right: bool) -> None:
    assert meets(found, goal) is right


def test_bad_arguments(spread_cnn: Path, quantised: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no placement"):
        search(**asked(spread_cnn, quantised, data, tmp_path / "journal.json", target="coreml"))
