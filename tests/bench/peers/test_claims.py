from __future__ import annotations

import numpy as np
import pytest

from bench import stats
from bench.peers.claims import FAILS, HOLDS, SPREAD, UNKNOWN, _claim, claims


@pytest.mark.parametrize(
    ("value", "interval", "limit", "most", "verdict"),
    [
        (0.2, [0.0, 0.5], 0.3, True, HOLDS),
        (0.4, [0.2, 0.6], 0.3, True, SPREAD),
        (0.4, [0.35, 0.6], 0.3, True, FAILS),
        (0.2, None, 0.3, True, UNKNOWN),
        (1.1, [0.9, 1.3], 1.0, False, HOLDS),
        (0.9, [0.8, 1.1], 1.0, False, SPREAD),
        (0.9, [0.8, 0.95], 1.0, False, FAILS),
    ],
)
def test_verdicts(value, interval, limit, most, verdict):
    assert _claim("x", value, interval, limit, most)["verdict"] == verdict


def row(name, tool, drop, **ratios):
    accuracy = {"top1_drop": drop, "drop_interval": [drop - 0.5, drop + 0.5]}
    found = {"name": name, "tool": tool, "accuracy": accuracy, "latency": {"1": {}}}
    if tool != "ours":
        found["ours_worse"] = {"top1_drop": 0.1 - drop, "drop_interval": [-0.2 - drop, 0.4 - drop]}
        found["ratios"] = {
            key: {"ratio": value, "pairs": [[value * (1 + 0.01 * turn), 1.0] for turn in range(-3, 4)]}
            for key, value in ratios.items()
        }
    return found


def test_the_best_of_the_others_is_the_one_to_beat():
    rows = [
        row("ours, OpenVINO placement", "ours", 0.1),
        row("NNCF, performance", "nncf", 0.3, seconds=1.5, peak_bytes=1.2, latency_b1=1.1),
        row("NNCF, mixed", "nncf", -0.2, seconds=1.4, peak_bytes=1.3, latency_b1=1.2),
        row("ONNX Runtime, entropy", "onnxruntime", 9.0, seconds=2.0, peak_bytes=5.0, latency_b1=0.9),
        {"name": "ModelOpt, max", "tool": "modelopt", "failed": "no wheel"},
    ]
    found = {one["claim"]: one for one in claims({"trained": True, "wide": True, "rows": rows})}
    assert found["top-1 that INT8 costs, points"]["verdict"] == HOLDS
    # The point says 0.3 worse than the best; the paired interval reaches 0.
    worse = found["top-1 lost against the best of the others (NNCF, mixed), points"]
    assert worse["value"] == pytest.approx(0.3) and worse["verdict"] == SPREAD
    assert found["time of calibration, NNCF, mixed to ours"]["value"] == 1.4
    assert found["peak memory, NNCF, performance to ours"]["verdict"] == HOLDS
    assert found["time of calibration, ONNX Runtime, entropy to ours"]["verdict"] == FAILS
    assert found["peak memory, ONNX Runtime, entropy to ours"]["verdict"] == HOLDS
    assert found["latency at batch 1, ONNX Runtime, entropy to ours"]["verdict"] == FAILS
    others = [one["claim"] for one in claims({"trained": True, "wide": False, "rows": rows})]
    assert [one for one in found if one not in others] == [
        "time of calibration, ONNX Runtime, entropy to ours",
        "peak memory, ONNX Runtime, entropy to ours",
    ]  # they are claimed where activations are large


def test_the_luckiest_of_many_alike_does_not_break_a_claim() -> None:
    rng = np.random.default_rng(1)
    rows = [row("ours, OpenVINO placement", "ours", 0.1)]
    for place in range(7):
        rows.append(row(f"tool {place}", "other", 0.1, latency_b1=1.0))
        rows[-1]["ratios"]["latency_b1"]["pairs"] = rng.lognormal(0, 0.1, (7, 2)).tolist()
    ratios = [stats.ratio_interval(*(np.array(r["ratios"]["latency_b1"]["pairs"]).T[:, :, None])) for r in rows[1:]]
    for one, ratio in zip(rows[1:], ratios):
        one["ratios"]["latency_b1"]["ratio"] = ratio.ratio
    (claim,) = (one for one in claims({"trained": False, "wide": False, "rows": rows}))
    assert claim["value"] == min(ratio.ratio for ratio in ratios) < 1 and claim["verdict"] == SPREAD
    alone = min(ratios, key=lambda ratio: ratio.ratio)
    assert claim["interval"][1] > alone.high


def test_rounds_measured_after_the_choice_speak_of_it() -> None:
    rows = [row("ours, OpenVINO placement", "ours", 0.1), row("a", "other", 0.1, latency_b1=0.9)]
    rows.append(row("b", "other", 0.1, latency_b1=1.1))
    rows[1]["again"] = {"1": {"ratio": 0.99, "interval": [0.97, 1.01]}}
    (claim,) = claims({"trained": False, "wide": False, "rows": rows})
    assert (claim["value"], claim["interval"], claim["verdict"]) == (0.99, [0.97, 1.01], SPREAD)


def test_random_weights_make_no_claim_about_accuracy():
    rows = [row("ours, OpenVINO placement", "ours", 0.0), row("NNCF, mixed", "nncf", 0.0, latency_b1=1.2)]
    assert [one["claim"] for one in claims({"trained": False, "wide": False, "rows": rows})] == [
        "latency at batch 1, NNCF, mixed to ours"
    ]
    assert claims({"trained": False, "wide": False, "rows": rows[1:]}) == []
