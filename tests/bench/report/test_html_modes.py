"""Curves over power modes: from runs of one machine in several of them, and from nothing else."""

from __future__ import annotations

import copy
import re
from typing import Any, Dict, List, Optional

import pytest

from bench import runs
from bench.report import cells
from bench.report.html import modes, page
from tests.bench.report import made

BOARD = "NVIDIA Jetson Orin Nano Developer Kit"


def run(mode: Optional[str], factor: float = 1.0, board: str = BOARD, **about: Any) -> Dict[str, Any]:
    """A run in a power mode, as many times as fast and as thirsty as the first."""
    found = made.run(**{"batches": (1,), "threads": (None,), "rounds": 1, "samples": 10, **about})
    found["environment"].update(board=board, before={"power_mode": mode}, after={"power_mode": mode})
    for row in found["rows"]:
        row["images_per_s"] *= factor
        if row["energy"]:
            row["energy"]["joules_per_image"] *= factor
    return found


def captions(shown: str) -> List[str]:
    return re.findall(r"<figcaption>([^<]+)</figcaption>", shown)


def test_each_quantity_has_a_chart_over_the_modes() -> None:
    merged = runs.merge([run("MAXN", 2.0), run("15W"), run("7W", 0.5)])
    shown = modes.section(merged)
    assert captions(shown) == [
        f"{words} over power modes, batch 1." for words in ("images/s", "p50, ms", "mJ an image")
    ]
    (row,) = [row for row in merged["rows"] if row["run"] == 0 and row["precision"] == "int8"]
    rates = [cells.number(row["images_per_s"] / 2 * factor) for factor in (0.5, 1, 2)]
    told = f"1: 7W {rates[0]}, 15W {rates[1]}, MAXN {rates[2]}"
    assert told in shown, "by watts, what names none last"
    assert "1: 7W 3.000, 15W 6.000, MAXN 12.00" in shown, "energy of the one that it was measured of"
    assert shown.count('<td class=n data-v="3.0">') == 1 and shown.count("<td class=n>unknown</td>") == 3 * 4
    assert '<section id="modes"' in page.text(merged)


def test_a_target_has_one_line_and_one_number_however_many_modes() -> None:
    shown = modes.section(runs.merge([run("15W"), run("25W"), run("MAXN")]))
    expected = [cells.name(row) for _, rows in cells.groups(run("15W")) for row in rows]
    names = re.findall(r"<b>(\d+)</b> <span>([^<]+)</span>", shown)
    assert names == [(str(number), name) for number, name in enumerate(expected, 1)]
    chart = shown.split("<figure>")[1].split("<details>")[0]
    assert chart.count('class="line') == len(expected) and chart.count('class="mark') == 3 * len(expected)


def test_batches_and_threads_are_charts_of_their_own() -> None:
    many = {"batches": (1, 8), "threads": (1, 2)}
    shown = modes.section(runs.merge([run("15W", **many), run("25W", **many)]))
    assert len(captions(shown)) == 2 * 2 * 3
    headings = re.findall(r"<h3>([^<]+)</h3>", shown)
    assert headings[0] == "Batch 1, 1 CPU thread" and headings[-1] == "Batch 8, 2 CPU threads"


@pytest.mark.parametrize(
    "found",
    [
        [run("15W")],
        [run("15W"), run("15W")],
        [run("15W"), run(None)],
        [run("15W"), run("25W", board="NVIDIA Jetson AGX Orin Developer Kit")],
        [run("15W"), run("25W", batches=(8,))],
    ],
)
def test_without_two_modes_of_one_machine_there_is_nothing(found: List[Dict[str, Any]]) -> None:
    assert modes.section(runs.merge(found)) == ""


def test_two_machines_are_told_apart() -> None:
    other = "NVIDIA Jetson AGX Orin Developer Kit"
    four = [run("15W"), run("25W"), run("15W", board=other), run("MAXN", board=other)]
    headings = re.findall(r"<h3>([^<]+)</h3>", modes.section(runs.merge(four)))
    assert headings == [f"{other}, batch 1", f"{BOARD}, batch 1"]


def test_a_mode_that_changed_meanwhile_is_none() -> None:
    changed = run("15W")
    changed["environment"]["after"]["power_mode"] = "25W"
    assert modes.section(runs.merge([changed, run("25W")])) == ""


def test_what_a_file_says_is_only_text() -> None:
    """And a row that points to no run is left out."""
    merged = copy.deepcopy(runs.merge([run(made.HOSTILE, word=made.HOSTILE), run("15W", word=made.HOSTILE)]))
    merged["rows"][0]["run"] = 9
    shown = modes.section(merged)
    assert "&lt;script&gt;" in shown and "<script" not in shown and "<img" not in shown
    runs.validate(merged)
