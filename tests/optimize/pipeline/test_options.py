"""What a user asks of a build is checked before any work is done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import UsageError
from optimize.api import seconds
from optimize.pipeline.options import BuildOptions, parse_batches, parse_precisions


def test_precisions_repeat_or_use_commas() -> None:
    assert parse_precisions(["fp32,int8", "fp16", "int8"]) == ("fp32", "int8", "fp16")


@pytest.mark.parametrize("words", [[], [""], ["fp8"], ["fp16", "FP32"]])
def test_bad_precisions(words: list) -> None:
    with pytest.raises(UsageError, match="--precision"):
        parse_precisions(words)


@given(st.lists(st.integers(1, 65536), min_size=1))
def test_batches_are_sorted_and_unique(sizes: list) -> None:
    assert parse_batches([",".join(map(str, sizes))]) == tuple(sorted(set(sizes)))


@pytest.mark.parametrize(
    ("words", "sizes"),
    [("1..64", (1, 2, 4, 8, 16, 32, 64)), ("1..6,3", (1, 2, 3, 4, 6)), ("8..8", (8,)), ("3..13", (3, 6, 12, 13))],
)
def test_a_range_doubles(words: str, sizes: tuple) -> None:
    assert parse_batches([words]) == sizes


@pytest.mark.parametrize(
    "words",
    [["0"], ["-1"], ["1.5"], ["x"], [""], ["1", "0"], ["65537"], ["²"], ["4..1"], ["..8"], ["1.."], ["1..2..4"]],
)
def test_bad_batches(words: list) -> None:
    with pytest.raises(UsageError, match="--batch"):
        parse_batches(words)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precisions": ("int8",)}, "INT8 needs images"),
        ({"max_drop": 1.0}, "--max-drop"),
        ({"min_agreement": 99.0}, "--min-agreement"),
        ({"max_drop": -1.0, "data": "x"}, "--max-drop"),
        ({"min_agreement": 101.0, "data": "x"}, "--min-agreement"),
        ({"max_drop": float("nan"), "data": "x"}, "--max-drop"),
        ({"opset": 12}, "--opset"),
        ({"opset": 18}, "--opset"),
        ({"layout": "CHWN"}, "--layout"),
        ({"samples": 0}, "--samples"),
    ],
)
def test_bad_options_are_usage_errors(options: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        BuildOptions(**options)


def test_the_default_gate_is_one_point() -> None:
    assert BuildOptions().drop_gate == 1.0 and BuildOptions(max_drop=0.0, data="x").drop_gate == 0.0


@pytest.mark.parametrize(("text", "value"), [("200ms", 0.2), ("1s", 1.0), ("1.5", 1.5), (2, 2.0), (0.5, 0.5)])
def test_times(text: object, value: float) -> None:
    assert seconds(text) == pytest.approx(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "fast", "1m", "-1s", "1 2"])
def test_bad_times(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text)
