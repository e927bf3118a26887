"""The total time, term by term."""

from __future__ import annotations

import pytest

from optimize.selection.choose import select

from .conftest import Write, noisy, row


def test_the_whole_time_from_the_transfer_to_the_last_image(write: Write) -> None:
    """10 MB at 8 Mbps take 10 s, and 0.5 s to begin; 1 s to load, 0.2 s, and 1000 queries of 2 ms."""
    cold = {"load_ms": 1000.0, "first_ms": 200.0}
    runs = write(
        [
            row("big", 0.95, [2.0] * 10, size_bytes=10_000_000, **cold),
            row("small", 0.94, [4.0] * 10, size_bytes=1_000_000, **cold),
        ]
    )
    found = select([runs], bandwidth="8Mbps", rtt="500ms", images=1000)
    big, small = (one["times"] for one in found["candidates"])
    assert (big["transfer_s"], big["load_s"], big["first_s"], big["inference_s"]) == pytest.approx((10.5, 1, 0.2, 2))
    assert big["cold_s"] == big["total_s"] == pytest.approx(13.7) and big["cached_s"] == pytest.approx(3.2)
    assert small["cold_s"] == pytest.approx(1.5 + 1.2 + 4)
    assert big["sources"] == {"transfer": "given", "load": "measured", "first": "measured", "inference": "measured"}
    assert found["chosen"] == "small" and found["saving"] == pytest.approx(1 - 6.7 / 13.7)
    assert found["scope"] == "transfer + load + first inference + inference: 1,000 images, batch 1"
    (flip,) = found["sensitivity"]["flips"]
    assert (flip["above"], flip["below"]) == ("big", "small") and flip["mbps"] == pytest.approx(36)
    above = select([runs], bandwidth="37Mbps", rtt="500ms", images=1000)
    assert above["chosen"] == "big" and above["sensitivity"]["flips"] == found["sensitivity"]["flips"]
    cached = select([runs], cached=True, images=1000)
    assert cached["chosen"] == "big" and cached["candidates"][1]["times"]["total_s"] == pytest.approx(5.2)
    assert cached["scope"].startswith("load + first inference + inference (cached)")
    assert select([runs], images=1000)["scope"].startswith("inference only")


def test_without_a_size_or_a_bandwidth_the_transfer_is_left_out(write: Write) -> None:
    rows = [row("a", 0.95, noisy(10), size_bytes=5), row("b", 0.94, noisy(5, seed=1))]
    found = select([write(rows)], bandwidth="10Mbps")
    assert found["terms"] == ["inference"] and "transfer: a size is unknown" in found["why"]
    assert "size: b" in found["unknown"] and found["sensitivity"] is None
    assert found["candidates"][1]["times"]["sources"]["transfer"] == "unknown"
    rows[1]["size_bytes"] = 4
    bare = select([write(rows)])
    assert "the bandwidth is not given" in bare["why"] and bare["sensitivity"] is not None
    assert "bandwidth (--bandwidth 10Mbps)" in bare["unknown"]
    whole = select([write(rows)], bandwidth="10Mbps")
    assert whole["terms"] == ["transfer", "inference"] and "load: not known of all candidates" in whole["left_out"]
