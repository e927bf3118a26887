from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.text import counted, plain


@given(st.text())
def test_what_is_printed_cannot_act_on_a_terminal(text):
    assert plain(text).isprintable() and len(plain(text)) == len(text)


def test_an_escape_and_a_line_break_become_blanks():
    assert plain("a\x1b[2Jb\nc") == "a [2Jb c"


def test_one_thing_is_not_many():
    assert [counted(number, "key") for number in (0, 1, 2)] == ["0 keys", "1 key", "2 keys"]
