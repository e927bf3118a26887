"""Checks of JSON fields name the field."""

from __future__ import annotations

import re
from typing import Any

import pytest

from engines import fields
from engines.errors import DamagedError

CHECKS = {
    "word": (fields.word, ["", "a"], [1, None, ["a"]]),
    "matching": (fields.matching(re.compile("a+"), "some a"), ["a", "aaa"], ["", "ab", "a\n", 1]),
    "one_of": (fields.one_of("x", "y"), ["x"], ["z", None, ["x"], {}]),
    "whole": (fields.whole(1, 5), [1, 5], [0, 6, 1.0, True, "1"]),
    "number": (fields.number, [0, -1.5], [True, "1", None]),
    "truth": (fields.truth, [True, False], [0, 1, None]),
    "an_object": (fields.an_object(a=fields.word), [{"a": "x"}, {"a": "", "b": 1}], [{}, [], {"a": 1}, None]),
    "null_or": (fields.null_or(fields.word), [None, "x"], [1]),
    "a_list": (fields.a_list(fields.word, 1), [["a"]], [[], "a", [1], {"a": 1}]),
    "counts": (fields.counts, [{}, {"f32": 3}], [{"f32": -1}, {"f32": True}, [], {"f32": "3"}]),
    "anything": (fields.anything, [None, 1, {}], []),
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_passes_and_what_does_not(name: str):
    check, good, bad = CHECKS[name]
    for value in good:
        check("f", value)
    for value in bad:
        with pytest.raises(DamagedError, match=r"(^|the field )f[\.\[:]"):
            check("f", value)


def test_the_path_of_a_field_is_named():
    check = fields.an_object(files=fields.a_list(fields.an_object(bytes=fields.whole(0, 9))))
    with pytest.raises(DamagedError, match=r"^m\.files\[1\]\.bytes: a whole number from 0 to 9 is expected, not -1$"):
        check("m", {"files": [{"bytes": 0}, {"bytes": -1}]})
    with pytest.raises(DamagedError, match=r"^the field m\.files\[0\]\.bytes is missing$"):
        check("m", {"files": [{}]})


def test_a_long_value_is_cut():
    with pytest.raises(DamagedError) as error:
        fields.truth("f", "x" * 10_000)
    assert len(error.value.message) < 150


def test_messages_are_one_line():
    value: Any = "a\nb"
    with pytest.raises(DamagedError) as error:
        fields.one_of("x")("f", value)
    assert "\n" not in error.value.message
