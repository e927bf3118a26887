from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.interference import Kind, kinds
from engines.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu:50,memory:2,io", ["cpu:50", "memory:2", "io:1"]),
        ("io", ["io:1"]),
        ("cpu", ["cpu:50"]),
        (" memory:64 , cpu:100 ,", ["memory:64", "cpu:100"]),
        ("cpu:1", ["cpu:1"]),
    ],
)
def test_kinds_and_their_numbers(text, expected):
    assert [str(kind) for kind in kinds(text)] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a kind"),
        (" , ", "needs a kind"),
        ("gpu", "gpu: cpu, memory, io are known"),
        ("CPU:5", "are known"),
        ("cpu:0", "1 to 100 percent"),
        ("cpu:101", "1 to 100 percent"),
        ("cpu:", "1 to 100 percent"),
        ("cpu:5.5", "1 to 100 percent"),
        ("cpu:-5", "1 to 100 percent"),
        ("cpu:\u0665", "1 to 100 percent"),
        ("memory:65", "1 to 64 workers"),
        ("io:9999999999999999999999", "1 to 64 workers"),
        ("io,io:2", "io is given twice"),
    ],
)
def test_what_cannot_be_read_comes_with_an_example(text, words):
    with pytest.raises(UsageError, match=words) as error:
        kinds(text)
    assert "cpu:50,memory:2,io" in error.value.hint


@given(st.integers(1, 100), st.integers(1, 64), st.integers(1, 64), st.permutations(["cpu", "memory", "io"]))
def test_what_is_written_is_read_again(percent, memory, io, order):
    amounts = {"cpu": percent, "memory": memory, "io": io}
    asked = [Kind(name, amounts[name]) for name in order]
    assert kinds(",".join(map(str, asked))) == asked
