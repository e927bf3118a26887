"""Golden inputs on real engines: the same answers again, near the float graph, or refused with figures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import onnx
import pytest

from engines import jsonfile, manifest
from engines.device import device_key
from engines.errors import DamagedError, IncompatibleError
from optimize.ship import golden, goldenfile, prepare, shipment
from tests.optimize.ship import small


@pytest.fixture(scope="module")
def made(built: Any, cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`made("int8")`: the shipment of a real build, with the images of its data as golden inputs."""
    room, known = tmp_path_factory.mktemp("golden"), {}

    def make(precision: str) -> Path:
        if precision not in known:
            bundle = next(one.path for one in built.bundles if one.precision == precision)
            prepare.prepare(bundle, room / precision, f"tiny-{precision}", data=str(cifar))
            known[precision] = room / precision
        return known[precision]

    return make


def _write(folder: Path, change: Callable[[Dict[str, Any]], None]) -> None:
    """Change golden.npz as a whole shipment would have it."""
    value = shipment.read(folder)
    about = manifest.read(folder)
    specs = golden._tensors(about)
    inputs, engine, float_ = goldenfile.read(folder / "golden.npz", value["golden"]["n"], *specs)
    groups: Dict[str, Any] = {"input": inputs, "engine": engine, "float": float_}
    change(groups)
    goldenfile.write(
        folder / "golden.npz", groups.pop("input"), {name: group for name, group in groups.items() if group is not None}
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_gives_its_golden_answers_again_at_every_batch(made: Callable[[str], Path], precision: str) -> None:
    found = golden.run(made(precision))
    assert found["passed"], found["reasons"]
    assert (found["against"], found["n"], found["batches"]) == ("engine", 16, [1, 8])
    assert found["relative"] < 0.05
    assert found["top1_agreement"] == 1.0
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert found["recorded_ms"]["batch"] == 1


def test_an_engine_of_other_weights_is_refused_with_figures(
    made: Callable[[str], Path], tmp_path: Path, same_process: None
) -> None:
    folder = Path(shutil.copytree(made("fp32"), tmp_path / "it"))

    def other(groups: Dict[str, Any]) -> None:
        groups["engine"] = [np.ascontiguousarray(array[::-1]) for array in groups["engine"]]

    _write(folder, other)
    found = golden.run(folder)
    assert not found["passed"]
    assert "differ by" in found["reasons"][0] and "is the most" in found["reasons"][0]
    assert found["top1_agreement"] < 1


def test_without_its_own_answers_those_of_the_float_graph_count(
    made: Callable[[str], Path], tmp_path: Path, same_process: None
) -> None:
    folder = Path(shutil.copytree(made("int8"), tmp_path / "it"))
    _write(folder, lambda groups: groups.update(engine=None))
    found = golden.run(folder)
    assert found["passed"]
    assert found["against"] == "float"
    assert found["cosine"] > 0.9
    assert golden.against_float(folder, folder)["against"] == "float"


def test_an_engine_of_another_model_is_far_from_the_float_answers(
    made: Callable[[str], Path], tmp_path: Path, same_process: None
) -> None:
    folder = Path(shutil.copytree(made("fp32"), tmp_path / "it"))

    def wrong(groups: Dict[str, Any]) -> None:
        groups.update({"engine": None, "float": [-array for array in groups["float"]]})

    _write(folder, wrong)
    found = golden.run(folder)
    assert not found["passed"]
    assert found["cosine"] < 0


def test_an_engine_that_answers_no_number_is_refused(tmp_path: Path, same_process: None) -> None:
    folder = small.made(tmp_path / "it", answers=False)
    model = onnx.load(str(folder / "model.onnx"))
    weight = np.full((small.CLASSES, int(np.prod(small.SHAPE))), np.nan, np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(model, str(folder / "model.onnx"))
    about = manifest.read(folder)
    entry = {"sha256": jsonfile.sha256(folder / "model.onnx"), "bytes": (folder / "model.onnx").stat().st_size}
    manifest.write(folder, {**about, "files": [{**about["files"][0], **entry}]})
    found = golden.run(folder)
    assert (found["passed"], found["against"]) == (False, "none")
    assert "scores holds no number" in found["reasons"][0]


def test_without_golden_answers_it_passes_by_answering(tmp_path: Path, same_process: None) -> None:
    found = golden.run(small.made(tmp_path / "it", answers=False))
    assert (found["passed"], found["against"], found["relative"]) == (True, "none", None)


def test_an_engine_that_became_slow_is_warned_of(tmp_path: Path, same_process: None) -> None:
    folder = small.made(tmp_path / "it")
    value = json.loads((folder / shipment.NAME).read_text())
    value["golden"]["latency_ms"] = {"batch": 1, "p50": 1e-7, "p99": 2e-7}
    (folder / shipment.NAME).write_text(json.dumps(value))
    found = golden.run(folder)
    assert found["passed"]
    assert "ms here, and took" in found["warnings"][0]


def test_golden_arrays_that_are_none_are_refused_before_the_engine_opens(
    tmp_path: Path, same_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small.made(tmp_path / "it")
    (folder / "golden.npz").write_bytes(b"no archive")
    monkeypatch.setattr(golden, "_engine", None)
    with pytest.raises(DamagedError, match=r"golden\.npz"):
        golden.run(folder)


def test_an_engine_of_another_device_is_not_opened(tmp_path: Path) -> None:
    foreign = replace(device_key("onnxruntime"), version="0.1").to_json()
    folder = small.bundle(tmp_path / "it", device=foreign)
    with pytest.raises(IncompatibleError, match=r"0\.1"):
        golden.run(folder)
    assert golden.record(folder, None, tmp_path / "golden.npz") is None


def test_seeded_inputs_are_the_same_every_time(tmp_path: Path, same_process: None) -> None:
    one, two = small.made(tmp_path / "one"), small.made(tmp_path / "two")
    assert (one / "golden.npz").read_bytes() == (two / "golden.npz").read_bytes()


def test_large_inputs_are_fewer() -> None:
    from engines.spec import TensorSpec

    image, scores = TensorSpec("image", (None, 3, 1024, 1024)), TensorSpec("scores", (None, 1000))
    assert golden._samples([image], [scores]) == 2
    assert golden._samples([scores], [scores]) == golden.SAMPLES
