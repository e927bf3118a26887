"""The comparison of two models: what passes, what does not, and on which inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.errors import UsageError
from engines.spec import RunnerSpec, TensorSpec
from optimize.exporters import check, inputs

UNIT = {"text": "unit"}


def spec(path: Path, **options: Any) -> Dict[str, Any]:
    return RunnerSpec(str(path), "onnx", backend="onnxruntime", layout="NCHW", **options).to_json()


def changed(path: Path, out: Path, factor: float = 1.0, **shifts: float) -> Path:
    """A copy whose constants are multiplied by `factor`, and those named shifted."""
    model = onnx.load(str(path))
    for item in model.graph.initializer:
        value = numpy_helper.to_array(item) * np.float32(factor) + np.float32(shifts.get(item.name, 0))
        item.CopyFrom(numpy_helper.from_array(value.astype(np.float32), item.name))
    onnx.save(model, str(out))
    return out


def test_a_model_equals_itself_on_seeded_and_real_images(tiny_onnx: Path, cifar: Path) -> None:
    one = spec(tiny_onnx, preprocess=UNIT)
    seeded = check.compare(one, one, n=70)
    assert seeded["passed"] and seeded["data"] == "seeded" and seeded["n"] == 70 and seeded["max_abs"] == 0
    real = check.against_source(one, str(tiny_onnx), str(cifar), n=30)
    assert real["passed"] and real["n"] == 30 and real["data"] != "seeded" and real["top1_agreement"] == 1
    assert real["precision"] == "fp32" and set(real["per_output"]) == {"scores"}


def test_a_wrong_weight_is_found_and_said_not_raised(tiny_onnx: Path, tmp_path: Path) -> None:
    wrong = changed(tiny_onnx, tmp_path / "wrong.onnx", w1=0.05)
    found = check.against_source(spec(tiny_onnx, preprocess=UNIT), str(wrong))
    assert not found["passed"] and found["max_abs"] > 1e-3 and any("scores" in reason for reason in found["reasons"])


def test_rounding_passes(tiny_onnx: Path, tmp_path: Path) -> None:
    near = changed(tiny_onnx, tmp_path / "near.onnx", factor=1 + 1e-6)
    assert check.against_source(spec(tiny_onnx, preprocess=UNIT), str(near))["passed"]


def test_half_precision_is_judged_by_its_own_tolerance(tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    rough = tmp_path / "rough.onnx"
    for item in model.graph.initializer:
        value = numpy_helper.to_array(item)
        bits = value.view(np.uint32) & np.uint32(0xFFFF0000)  # bfloat16, cut off
        item.CopyFrom(numpy_helper.from_array(bits.view(np.float32), item.name))
    onnx.save(model, str(rough))
    one, two = spec(tiny_onnx, preprocess=UNIT), spec(rough)
    assert not check.compare(one, two)["passed"]
    assert check.compare(one, two, precision="fp16")["passed"]


def test_a_flip_between_equal_scores_is_no_disagreement(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    weight = s.random.normal(0, 1, (6, 1)).repeat(2, 1)
    y = s.node("MatMul", "x", s.const(weight))
    onnx.save(s.model(["N", 6], {y: None}), str(tmp_path / "a.onnx"))
    onnx.save(s.model(["N", 6], {y: None}), str(tmp_path / "b.onnx"))
    other = changed(tmp_path / "a.onnx", tmp_path / "b.onnx")
    model = onnx.load(str(other))
    tilted = weight + np.array([0, 1e-6])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(tilted.astype(np.float32), "c0"))
    onnx.save(model, str(other))
    found = check.compare(spec(tmp_path / "a.onnx"), spec(other))
    assert found["passed"] and found["top1_agreement"] < 1 and found["flips_outside_margin"] == 0


def test_outputs_are_compared_by_name(sketch: Any, tmp_path: Path) -> None:
    for name, order in (("a", ("p", "q")), ("b", ("q", "p"))):
        s = sketch()
        nodes = {"p": s.node("Relu", "x"), "q": s.node("Neg", "x")}
        for node, key in zip(s.nodes, "pq"):
            node.output[0] = key
        assert nodes
        onnx.save(s.model(["N", 6], dict.fromkeys(order)), str(tmp_path / f"{name}.onnx"))
    one, two = (spec(tmp_path / f"{n}.onnx", task="tensors") for n in "ab")
    found = check.compare(one, two)
    assert found["passed"] and found["top1_agreement"] is None and set(found["per_output"]) == {"p", "q"}
    s = sketch()
    s.node("Relu", "x")
    s.nodes[0].output[0] = "p"
    onnx.save(s.model(["N", 6], {"p": None}), str(tmp_path / "c.onnx"))
    missing = check.compare(one, spec(tmp_path / "c.onnx"))
    assert not missing["passed"] and missing["reasons"] == ["q is missing"]


def test_what_is_not_finite_must_be_so_in_both(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    onnx.save(s.model(["N", 6], {s.node("Log", "x"): None}), str(tmp_path / "a.onnx"))
    same = spec(tmp_path / "a.onnx", task="tensors")
    assert check.compare(same, same)["passed"]
    s = sketch()
    s.node("Abs", "x")
    onnx.save(s.model(["N", 6], {s.node("Log", "abs0"): None}), str(tmp_path / "b.onnx"))
    other = check.compare(same, spec(tmp_path / "b.onnx"))
    assert not other["passed"] and "finite" in other["reasons"][0]


def test_two_answers_of_nothing_but_nan_are_no_agreement(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    broken = s.node("Div", s.node("Sub", "x", "x"), s.node("Sub", "x", "x"))
    onnx.save(s.model(["N", 6], {broken: None}), str(tmp_path / "nan.onnx"))
    found = check.compare(spec(tmp_path / "nan.onnx"), spec(tmp_path / "nan.onnx"))
    assert not found["passed"] and "no finite number" in found["reasons"][0]


def test_seeded_images_are_in_the_range_of_the_preprocessing() -> None:
    for text, low, high in (("unit", 0, 1), ("raw", 0, 255)):
        from calib.preprocess import parse

        given = RunnerSpec(
            "m", "onnx", layout="NHWC", preprocess=parse(text).to_json(), inputs=(TensorSpec("x", (None, 24, 20, 3)),)
        )
        batches = list(inputs.seeded(given, 10, 3, 4))
        assert [len(b["x"]) for b in batches] == [4, 4, 2]
        whole = np.concatenate([b["x"] for b in batches])
        assert whole.min() >= low and whole.max() <= high and whole.max() > high / 2
        again = np.concatenate([b["x"] for b in inputs.seeded(given, 10, 3, 4)])
        assert (again == whole).all()


def test_inputs_that_are_no_images() -> None:
    given = RunnerSpec(
        "m",
        "onnx",
        task="tensors",
        inputs=(TensorSpec("a", (None, 7)), TensorSpec("b", (None, 3), "int64"), TensorSpec("c", (None, 2), "bool")),
    )
    (batch,) = inputs.seeded(given, 50, 0, 64)
    assert batch["a"].min() < -1 and batch["a"].dtype == np.float32 and batch["b"].max() == 1
    assert batch["c"].dtype == np.bool_


def test_no_samples(tiny_onnx: Path) -> None:
    with pytest.raises(UsageError, match="0 samples"):
        check.compare(spec(tiny_onnx), spec(tiny_onnx), n=0)


@pytest.mark.parametrize(
    "original, other, words",
    [
        ([1, np.nan], [1, 2], "the original is not finite"),
        ([1, 2], [1, np.inf], "where the original is"),
        ([1, np.inf], [1, -np.inf], "neither is finite"),
        ([1, np.inf], [1, np.inf], ""),
    ],
)
def test_the_side_that_is_not_finite_is_named(original: Any, other: Any, words: str) -> None:
    totals = check.Totals()
    totals.add(np.array(original), np.array(other))
    assert words in totals.trouble and bool(words) == bool(totals.trouble) and totals.figures()["max_abs"] == 0
