from __future__ import annotations

import pytest

from bench.peers import latency
from bench.peers.comparison import to_ir
from bench.peers.contenders import QUICK
from engines.spec import quiet

pytest.importorskip("openvino", reason="the latencies are OpenVINO's")

SETTINGS = QUICK._replace(rounds=2, again=3, seconds=0.01, batches=(1, 2))


def _row(name, file, folder):
    to_ir(str(file), str(folder / f"{name}.xml"))
    return {"name": name, "ir": str(folder / f"{name}.xml"), "ir_bytes": 1}


@pytest.mark.slow
def test_the_fastest_of_the_others_is_measured_again_beside_ours(model, tmp_path):
    ours, *others = rows = [_row(name, model, tmp_path) for name in ("ours", "first", "second")]
    latency.measure(rows, "NHWC", "f32", SETTINGS, quiet)
    assert all(len(row["latency"][batch]["medians_ms"]) == 2 for row in rows for batch in ("1", "2"))
    others[0]["ratios"] = {"latency_b1": {"ratio": 0.9}, "latency_b2": {"ratio": 1.1}}
    others[1]["ratios"] = {"latency_b1": {"ratio": 1.1}, "latency_b2": {"ratio": 0.9}}
    latency.again(ours, others, "NHWC", "f32", SETTINGS, quiet)
    assert [list(row["again"]) for row in others] == [["1"], ["2"]] and "again" not in ours
    found = others[0]["again"]["1"]
    assert found["rounds"] == 3 and found["interval"] is None
    assert found["range"][0] <= found["ratio"] <= found["range"][1]


@pytest.mark.slow
def test_one_that_does_not_run_says_why_and_is_not_chosen(model, tmp_path):
    ours, absent = _row("ours", model, tmp_path), {"name": "absent", "ir": str(tmp_path / "no.xml"), "ir_bytes": 1}
    latency.measure([ours, absent], "NHWC", "f32", SETTINGS, quiet)
    assert absent["latency"] == {} and absent["latency_failed"]
    latency.again(ours, [absent], "NHWC", "f32", SETTINGS, quiet)
    assert "again" not in absent
