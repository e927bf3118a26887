"""The page of a choice: everything that the choice says, in tables and charts, and hostile names as text only."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict

import pytest

from bench.report.html import choices
from optimize.selection import choice, choose
from tests.bench.report import made
from tests.bench.report.test_html import Page

TABLES = Path(__file__).resolve().parents[2] / "optimize/selection/tables"


@pytest.fixture(scope="module")
def imported() -> Dict[str, Any]:
    """The user's own table, of summaries: no sizes, no replicates."""
    return choose.select([TABLES / "rtx-3080-ti.json"])


def with_times(imported: Dict[str, Any]) -> Dict[str, Any]:
    """The same with every term of the time, and a bandwidth at which the choice flips."""
    value = copy.deepcopy(imported)
    for place, one in enumerate(value["candidates"]):
        one.update(size_bytes=45_000_000 * (place + 1), joules_per_image=0.01 * (place + 1))
        one["times"].update(transfer_s=4.0, load_s=1.0, first_s=0.5)
        one["times"]["sources"].update(transfer="given", load="measured", first="measured")
    names = [one["target"] for one in value["candidates"]]
    value["sensitivity"] = {
        "terms": ["transfer", "inference"],
        "highest": names[1],
        "flips": [{"mbps": 12.5, "above": names[1], "below": names[0]}],
        "verdict_mbps": [40.0],
        "lines": [
            {"target": n, "size_bytes": 10**7 * (i + 1), "start_s": 30.0 - 10 * i} for i, n in enumerate(names[:2])
        ],
    }
    choice.validate(value)
    return value


@pytest.fixture(scope="module")
def whole(imported: Dict[str, Any]) -> Dict[str, Any]:
    return with_times(imported)


def test_the_verdict_and_its_numbers_are_there(imported: Dict[str, Any]) -> None:
    page = Page(choices.text(imported))
    told = {row[0]: row[1] for row in page.tables["Verdict"][1:]}
    assert told["baseline, the most accurate"] == imported["baseline"] and imported["verdict"] in page.words
    assert told["time saved, mean of ratios"] == "45.4%" and told["accuracy lost, points"] == "4.07"
    assert "no replicates" in told["its 90% interval over 0 rounds"]
    assert len(page.tables["Candidates"]) == 1 + len(imported["candidates"])
    assert {row[0] for row in page.tables["Rejected"][1:]} == {one["target"] for one in imported["rejected"]}
    for word in imported["unknown"]:
        assert word in page.words


def test_what_is_unknown_has_no_chart_and_is_called_so(imported: Dict[str, Any]) -> None:
    page = Page(choices.text(imported))
    assert "What the bandwidth changes" not in page.words
    sizes = page.tables["Candidates"][0].index("size MB")
    assert {row[sizes] for row in page.tables["Candidates"][1:]} == {"unknown"}


def test_the_terms_of_the_time_are_stacked_and_the_flip_is_told(whole: Dict[str, Any]) -> None:
    page = Page(choices.text(whole))
    bars = [one for one in page.attributes if one.get("class", "").startswith("stack ")]
    assert len(bars) == 4 * len(whole["candidates"]) and {one["class"] for one in bars} == {
        f"stack s{i}" for i in range(4)
    }
    assert "the saving passes through the limit at 40 Mbit/s" in page.words
    flip = whole["sensitivity"]["flips"][0]
    assert f"{flip['above']} is the fastest above 12.5 Mbit/s, {flip['below']} below" in page.words
    row = page.tables["Terms of the total time"][1]
    assert row[1:4] == ["4.000", "1.000", "0.500"] and "load measured" in row[-1]


def test_a_hostile_name_is_text(whole: Dict[str, Any]) -> None:
    value = copy.deepcopy(whole)
    old = value["candidates"][0]["target"]
    value["candidates"][0]["target"] = old + made.HOSTILE
    value["why"] += made.HOSTILE
    value["rejected"][0]["reason"] += made.HOSTILE
    page = Page(choices.text(value))
    assert page.tags.count("script") == 1 and "img" not in page.tags and made.HOSTILE in page.words


def test_nothing_chosen_has_a_page_too(imported: Dict[str, Any]) -> None:
    value = copy.deepcopy(imported)
    value.update(
        dict.fromkeys(("baseline", "chosen", "saving", "saving_of_means", "interval", "drop_points", "drop_share"))
    )
    value.update(
        verdict="FAIL", front=[], rejected=[{"target": c["target"], "reason": "x"} for c in value["candidates"]]
    )
    choice.validate(value)
    assert "FAIL" in Page(choices.text(value)).words
