from __future__ import annotations

import io
from typing import Any, List, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engines.terminal import Column, fold, left_out_line, show


def shown(width: int, columns: Sequence[Column], rows: Sequence[Sequence[str]], leave_out: Sequence[str] = ()) -> Any:
    out = io.StringIO()
    left = show(Console(file=out, width=width), "a title", columns, rows, leave_out)
    return [line.rstrip() for line in out.getvalue().splitlines()], left


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("int8-openvino2026.4.1", 16, ["int8-", "openvino2026.4.1"]),
        ("resnet34_cifar10.keras *", 10, ["resnet34_", "cifar10.", "keras *"]),
        ("busy, unstable", 8, ["busy,", "unstable"]),
        ("drop -0.25 of 1.5", 5, ["drop", "-0.25", "of", "1.5"]),
        ("short", 10, ["short"]),
        ("", 3, [""]),
    ],
)
def test_names_fold_where_they_have_parts(text: str, width: int, lines: List[str]) -> None:
    assert fold(text, width).split("\n") == lines


@given(st.text(st.sampled_from("ab1-._/ "), max_size=40), st.integers(1, 20))
def test_folding_loses_nothing_but_blanks(text: str, width: int) -> None:
    assert fold(text, width).replace("\n", "").replace(" ", "") == text.replace(" ", "")


COLUMNS = [Column("name", least=6), Column("two words", right=True), Column("note"), Column("more", right=True)]
ROWS = [["fp16-engine", "1234.5678", "", "0.4321"], ["int8-engine", "-0.25", "", "77.5"]]


def test_what_has_no_room_is_left_out_in_order_and_what_is_empty_first() -> None:
    assert shown(80, COLUMNS, ROWS, ["more"])[1] == []
    lines, left = shown(31, COLUMNS, ROWS, ["more", "two words"])
    assert left == [] and "note" not in lines[1] and "more" in lines[1], "nothing is lost with an empty column"
    lines, left = shown(18, COLUMNS, ROWS, ["more", "two words"])
    assert left == ["more"] and "1234.5678" in "".join(lines)
    assert left_out_line(left, "--json has them") == ["left out, the terminal is narrow: more (--json has them)"]
    assert left_out_line([], "") == []


@pytest.mark.parametrize("width", range(1, 40))
def test_numbers_and_words_are_never_cut(width: int) -> None:
    lines, _ = shown(width, COLUMNS, ROWS, ["note"])
    whole = " ".join(lines).split()
    assert {"1234.5678", "-0.25", "0.4321", "77.5", "two", "words", "more"} <= set(whole)
    assert {"fp16-engine", "int8-engine"} <= set(whole) or {"fp16-", "engine", "int8-"} <= set(whole)


def test_long_columns_share_the_room() -> None:
    lines, _ = shown(62, [Column("a", least=5), Column("b", least=5)], [["word " * 12, "word " * 20]])
    assert [text.count("word") for text in lines[3:]] == [12, 12, 6, 2]


def test_two_columns_of_one_name_go_together() -> None:
    lines, left = shown(9, [Column("a"), Column("s"), Column("b"), Column("s")], [["1", "2", "3", "4"]], ["s"])
    assert left == ["s"] and lines[1].split() == ["a", "b"]


def test_control_characters_do_nothing() -> None:
    lines, _ = shown(80, [Column("name")], [["a\x1b[31m\nb"]])
    assert lines[-1] == "a [31m b"
