from __future__ import annotations

from typing import Any

import pytest

from optimize.selection.choose import select
from optimize.selection.words import lines, next_step, steps

from .conftest import TABLES, Write, noisy, row


def test_the_first_line_is_the_verdict_with_its_limits_and_scope() -> None:
    first, why, *_ = lines(select([TABLES / "nuc.json"], max_drop="10%"))
    assert first == (
        "PASS: ResNet-101 -> ResNet-18 saves 64.2% and loses 5.01 points (at least 20% asked, 10% of the baseline's "
        "accuracy may be lost); inference only: 10,000 images, batch unknown"
    )
    assert why.startswith("why: point estimate")


def test_bandwidths_and_flags_are_told(write: Write) -> None:
    rows = [
        row("big", 0.95, [2.0] * 10, size_bytes=10_000_000),
        row("small", 0.94, [4.0] * 10, size_bytes=1_000_000, flags=["unstable", "batch unknown"]),
    ]
    text = "\n".join(lines(select([write(rows)], bandwidth="1Mbps", images=1000)))
    assert "with the transfer counted: below 36 Mbps small is the fastest, above it big" in text
    assert "the saving passes through 20% at" in text and "flags of small: unstable\n" in f"{text}\n"


def test_a_device_that_takes_none(write: Write) -> None:
    found = select([write([row(n, 0.9, noisy(1), size_bytes=9 << 20) for n in "ab"])], limit_memory="1MiB")
    assert lines(found) == ["FAIL: no candidate is left: does not fit: its file alone has 9 MiB, the limit is 1 MiB"]
    assert steps(found)[-1].startswith("verdict: FAIL") and "feasible: 0 of them" in steps(found)


@pytest.mark.parametrize(
    ("chosen", "policy", "needed", "step"),
    [
        ("a", "budget", None, "--policy greedy, or --min-saving 0"),
        ("a", "greedy", None, "--min-saving 0"),
        ("b", "budget", 24, "optimize bench ENGINE... --rounds 24"),
        ("b", "budget", None, ""),
        (None, "budget", None, ""),
    ],
)
def test_what_to_type_where_it_is_no_pass(chosen: Any, policy: str, needed: Any, step: str) -> None:
    found = {"chosen": chosen, "baseline": "a", "asked": {"policy": policy}, "rounds_needed": needed}
    told = next_step(found)
    assert told.startswith(step) and bool(told) == bool(step)
