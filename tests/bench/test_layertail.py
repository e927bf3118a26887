"""Which layers carry a tail: by construction, and on real engines in a process of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import layertail
from bench.layertail import carried
from engines.errors import UsageError
from engines.spec import RunnerSpec


def shares(found: Dict[str, Any]) -> List[Any]:
    return [layer["share"] for layer in [*found["layers"], found["outside"]]]


def test_the_layer_that_grows_in_slow_queries_carries_them():
    rng = np.random.default_rng(1)
    ms = np.full((2000, 3), [1.0, 2.0, 0.5])
    slow = rng.choice(2000, 20, replace=False)
    ms[slow, 1] += 3.0
    ms[slow, 2] += 1.0
    found = carried(ms, ms.sum(axis=1) + 0.25)
    assert (found["queries"], found["slow"]) == (2000, 20)
    assert shares(found) == pytest.approx([0, 0.75, 0.25, 0])
    assert [layer["excess_ms"] for layer in found["layers"]] == pytest.approx([0, 3, 1])
    assert [layer["median_ms"] for layer in found["layers"]] == [1, 2, 0.5]
    assert [layer["max_ms"] for layer in found["layers"]] == [1, 5, 1.5]
    assert found["layers"][1]["p999_ms"] == 5
    assert found["wall"]["excess_ms"] == pytest.approx(4)
    assert found["wall"]["median_ms"] == pytest.approx(3.75)
    assert found["outside"]["median_ms"] == pytest.approx(0.25)


def test_a_wait_between_layers_is_outside_of_them():
    ms = np.ones((200, 2))
    wall = ms.sum(axis=1) + 0.1
    wall[[3, 90]] += 5
    found = carried(ms, wall)
    assert shares(found) == pytest.approx([0, 0, 1])
    assert found["slow"] == 2
    assert found["outside"]["excess_ms"] == pytest.approx(5)
    assert found["layers"][0]["p999_ms"] is None  # of 200 queries it would be the maximum


def test_a_layer_that_is_quicker_in_slow_queries_has_a_negative_share():
    ms = np.tile([1.0, 1.0], (100, 1))
    ms[7] = [4.0, 0.0]
    found = carried(ms, ms.sum(axis=1))
    assert shares(found) == pytest.approx([1.5, -0.5, 0])


def test_queries_that_are_all_alike_have_no_shares():
    found = carried(np.ones((10, 2)), np.full(10, 2.5))
    assert shares(found) == [None, None, None]
    assert found["wall"]["excess_ms"] == 0


@given(st.integers(2, 300), st.integers(0, 5), st.integers(0, 1 << 30))
def test_shares_add_up_to_one(queries: int, layers: int, seed: int):
    rng = np.random.default_rng(seed)
    ms = rng.gamma(2.0, 1.0, (queries, layers))
    wall = ms.sum(axis=1) + rng.gamma(1.0, 0.1, queries)
    found = carried(ms, wall)
    told = shares(found)
    assert len(told) == layers + 1
    assert all(share is None for share in told) or sum(told) == pytest.approx(1)
    assert 1 <= found["slow"] <= max(queries // 50, 1)


def test_the_layers_of_a_real_engine_in_each_query(model: Path):
    pytest.importorskip("onnxruntime")
    spec = RunnerSpec(str(model), "onnx", backend="onnxruntime", layout="NHWC", threads=1)
    seen: List[Any] = []
    found = layertail.measure(spec, 2, 100, progress=lambda *told: seen.append(told))
    assert (found["batch"], found["queries"], found["slow"]) == (2, 100, 1)
    assert found["layers"] and all(layer["name"] for layer in found["layers"])
    assert {"name", "type", "precision", "median_ms", "p999_ms", "max_ms", "excess_ms", "share"} == set(
        found["layers"][0]
    )
    assert sum(layer["median_ms"] for layer in found["layers"]) <= 1.5 * found["wall"]["median_ms"]
    assert found["wall"]["max_ms"] >= found["wall"]["median_ms"] > 0
    assert seen[-1] == ("layers of slow queries", 100, 100)


def test_an_engine_that_tells_means_only_is_refused(model: Path):
    pytest.importorskip("openvino")
    with pytest.raises(UsageError, match="tells means of its layers") as caught:
        layertail.measure(RunnerSpec(str(model), "onnx", backend="openvino", layout="NHWC"), 2, 100)
    assert "--backend onnxruntime" in caught.value.hint


@pytest.mark.parametrize("queries", [1, 0, layertail.MOST + 1])
def test_one_query_has_no_spread_and_the_memory_an_end(model: Path, queries: int):
    with pytest.raises(UsageError, match="2 to 100000 are possible"):
        layertail.measure(RunnerSpec(str(model), "onnx", backend="onnxruntime"), 1, queries)
