"""Operations of real Keras and SavedModel functions, timed by TensorFlow's profiler in a fresh process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from engines import child

PROBES = str(Path(__file__).parent / "probes")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("tensorflow")
    sys.path.append(PROBES)
    try:
        folder = str(tmp_path_factory.mktemp("tensorflowprofile"))
        env = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        return child.call("tensorflowprofile_probe:run", {"folder": folder}, env=env)
    finally:
        sys.path.remove(PROBES)


@pytest.mark.parametrize("way", ["function {}", "predict {}", "function savedmodel"])
def test_operations_have_their_names_types_and_times(seen: Any, way: str) -> None:
    layers = seen["layers"][way.format(seen["kind"])]
    assert all(layer["ms"] >= 0 and layer["type"] for layer in layers)
    found = [layer for layer in layers if "Conv" in layer["type"]]
    assert [any(word in layer["name"] for layer in found) for word in ("first", "half")] == [True, True]
    assert [layer["precision"] for layer in found] == ["f32", "f16"]
    assert any("top" in layer["name"] and "MatMul" in layer["type"] for layer in layers)
    assert not any("PartitionedCall" in layer["type"] for layer in layers), "what it calls would count twice"
    assert sum(layer["ms"] for layer in found) > 0
    names = [layer["name"] for layer in layers]
    assert names.index(found[0]["name"]) < names.index(found[1]["name"]), "in the order they run"


def test_xla_makes_one_of_all(seen: Any) -> None:
    (layer,) = seen["layers"]["xla savedmodel"]
    assert "forward" in layer["name"] and layer["ms"] > 0


def test_a_gpu_is_timed_by_its_kernels_and_not_by_their_launch(seen: Any) -> None:
    assert seen["gpu"] == [
        {"name": "net/conv", "type": "Conv2D", "precision": "f16", "ms": 6.0},  # 2 kernels of 2, then 4 ms
        {"name": "net/relu", "type": "Relu", "precision": "", "ms": 9.0},
    ]
