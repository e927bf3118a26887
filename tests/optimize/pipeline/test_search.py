"""INT8 that fails its gate: the layer at fault stays float, the engine that passes is kept, none is searched twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import optimize


@pytest.fixture(scope="module")
def hard_onnx(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier behind a layer that makes green 3,000 times as large, which the next layer takes back.

    One scale for the three colours leaves nothing of red and blue, by any calibration; only equalising takes it back.
    """
    model = onnx.load(str(tiny_onnx))
    factors = np.array([1, 3000, 1], np.float32)
    for item in model.graph.initializer:
        if item.name == "w1":
            value = numpy_helper.to_array(item) / factors[None, :, None, None]
            item.CopyFrom(numpy_helper.from_array(value.astype(np.float32), "w1"))
    model.graph.initializer.append(numpy_helper.from_array(np.diag(factors)[:, :, None, None], "w0"))
    model.graph.node[0].input[0] = "r0"
    model.graph.node.insert(0, helper.make_node("Relu", ["c0"], ["r0"], "relu0"))
    model.graph.node.insert(0, helper.make_node("Conv", ["image", "w0"], ["c0"], "conv0"))
    path = tmp_path_factory.mktemp("hard") / "hard.onnx"
    onnx.save(model, str(path))
    return path


ASKED = {"precision": "int8", "batch": (1, 8), "preprocess": "unit", "samples": 100, "max_drop": 5.0}
PLAIN = {**ASKED, "without": ("equalization",)}


@pytest.mark.journey
def test_the_layer_at_fault_stays_float_and_the_gate_is_met(hard_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = optimize.build(hard_onnx, data=str(cifar), out=out, **PLAIN)
    (built,) = done.bundles
    about = built.manifest
    kept = about["calibration"]["keep_float"]
    assert about["gate"]["passed"] and "conv1" in kept and len(kept) <= 2
    searches = about["search"]["searches"]
    assert searches[0]["plain"]["drop"] > 5 and kept in [one["kept"] for one in searches[-1]["sets"]]
    plain, *others = about["variants"]
    assert (plain["name"], plain["passed"], plain["kept"]) == ("int8", False, False)
    assert [one["passed"] for one in others if one["kept"]] == [True]
    assert about["achieved"]["int8"] == plain["achieved"]["int8"] - len(kept)
    again = optimize.build(hard_onnx, data=str(cifar), out=out, **PLAIN)
    assert again.bundles[0].reused and again.bundles[0].manifest["search"] == about["search"]


@pytest.mark.journey
def test_equalising_leaves_nothing_to_search(hard_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    (built,) = optimize.build(hard_onnx, data=str(cifar), out=tmp_path / "out", **ASKED).bundles
    about = built.manifest
    assert about["gate"]["passed"] and "search" not in about and about["calibration"]["keep_float"] == []
    found = about["calibration"]["equalization"]
    assert found["kept"] and found["layers"] == ["conv0"]
    assert found["equalized"]["agreement"] > 0.9 > found["plain"]["agreement"]


@pytest.mark.slow
def test_a_search_goes_on_from_the_equalised_graph(hard_onnx: Path, cifar: Path, tmp_path: Path) -> None:
    asked = {**ASKED, "max_drop": None, "min_agreement": 100.0, "samples": 1}
    (built,) = optimize.build(hard_onnx, data=str(cifar), out=tmp_path / "out", **asked).bundles
    assert built.manifest["gate"]["passed"]
    found = built.manifest["search"]["searches"][0]
    assert 0.3 < found["plain"]["agreement"] < 1  # plain INT8 agrees on a tenth, and one image is not enough
    mixes = [one["agreement"] for one in found["tried"] if "conv1" in one["kept"] and "conv0" not in one["kept"]]
    assert max(mixes) > 0.9


@pytest.mark.journey
def test_without_a_search_the_gate_fails(
    hard_onnx: Path, cifar: Path, tmp_path: Path, optimize_command: Callable[..., Any]
) -> None:
    words = ["build", hard_onnx, "--precision", "int8", "--batch", 8, "--data", cifar, "--preprocess", "unit"]
    words += ["--without", "equalization"]
    found = optimize_command(*words, "--samples", 100, "--search-budget", 0, "-o", tmp_path / "out")
    assert found.exit_code == 3 and "top-1 drops by" in found.stderr
    found = optimize_command(*words, "--search-budget", -1)
    assert found.exit_code == 2 and "--search-budget -1" in found.stderr
    found = optimize_command(*words, "--without", "luck")
    assert found.exit_code == 2 and "equalization, bias-correction" in found.stderr
