from __future__ import annotations

from optimize.selection.choose import select
from optimize.selection.words import lines, steps

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
