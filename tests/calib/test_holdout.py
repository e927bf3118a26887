"""Hold-out images: read once or again, any part of them, against the graph itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from calib import graph, holdout, ranges
from calib.calibrate import image_input
from calib.datasets import open_dataset
from calib.holdout import Holdout
from calib.preprocess import apply, parse
from engines.errors import ModelError
from tests.calib.architectures import Net

Build = Callable[..., Path]
PRE = parse("resize=16,unit")


def make(path: Path, count: int = 50, task: str = "classify") -> Holdout:
    data = open_dataset("synthetic", "holdout", count)
    return Holdout(data, PRE, image_input(graph.load(path), str(path)), str(path), task)


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_a_part_gives_the_outputs_of_its_images(
    resnet: Build, monkeypatch: pytest.MonkeyPatch, kept: int, batch: Any
) -> None:
    monkeypatch.setattr(holdout, "_KEEP_BYTES", kept)
    path = resnet(batch=batch)
    images = make(path)
    session = ranges.session(path)

    def query(feeds: Any) -> Any:
        return list(session.run(None, feeds))

    data = open_dataset("synthetic", "holdout", 50)
    expected = ranges.session(resnet()).run(None, {"image": apply(PRE, data.images(range(50)), "NHWC")})[0]
    whole = images.measure(query)
    np.testing.assert_allclose(whole.error, 0, atol=1e-6)
    for start, stop in ((0, None), (0, 20), (20, 50), (33, 900)):
        part = images.measure(query, start, stop)
        assert (part.agreement == 1.0).all() and len(part) == len(expected[start:stop])
        np.testing.assert_array_equal(part.right, whole.part(start, stop).right)
    right = expected.argmax(axis=1) == data.labels
    np.testing.assert_array_equal(whole.right, right)
    assert images.top1(30) == right[:30].mean()
    assert len(images) == 50


def test_an_image_is_compared_with_its_own_answer(resnet: Build) -> None:
    images = make(resnet(), 40)
    labels = open_dataset("synthetic", "holdout", 40).labels
    assert labels is not None
    given = iter(np.eye(10, dtype=np.float32)[labels[10:]])

    def perfect(feeds: Any) -> Any:
        return [np.stack([next(given) for _ in feeds["image"]])]

    assert images.measure(perfect, 10).mean().top1 == 1.0
    without = make(resnet(), 40, "tensors")
    assert without.top1(40) is None
    assert without.measure(lambda feeds: [np.ones((len(feeds["image"]), 10), np.float32)], 0, 9).right is None


def test_an_output_without_an_entry_for_each_image_is_left_out(tmp_path: Path) -> None:
    net = Net(1)
    y = net.node("Flatten", [net.node("GlobalAveragePool", [net.conv("image", "a", 3, 4)], "gap")], "flat")
    anchors = net.node("Identity", [net.const("table", np.ones((1, 5, 4), np.float32))], "anchors")
    path = net.save(tmp_path / "net.onnx", ["N", 3, 16, 16], {anchors: [1, 5, 4], y: ["N", 4]})
    session = ranges.session(path)
    for task in ("classify", "tensors"):
        found = make(path, 40, task).measure(lambda feeds: list(session.run(None, feeds)))
        assert len(found) == 40 and found.mean().agreement == pytest.approx(1)
    nothing = Net(1)
    y = nothing.node("ReduceMean", [nothing.conv("image", "a", 3, 4)], "mean", keepdims=0)
    with pytest.raises(ModelError, match="for each image"):
        make(nothing.save(tmp_path / "none.onnx", ["N", 3, 16, 16], {y: []}), 40)


def test_large_answers_are_kept_of_fewer_images(resnet: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdout, "_REFERENCE_BYTES", 4 * 10 * 40)
    few = make(resnet(), 100)
    assert len(few) == 64 and few.top1(1000) == few.top1(64)
    assert len(make(resnet(), 40)) == 40
