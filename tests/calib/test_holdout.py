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
    for start, stop in ((0, None), (0, 20), (20, 50), (33, 900)):
        (found,) = images.run(query, start, stop)
        np.testing.assert_allclose(found, expected[start:stop], atol=1e-5)
        same = images.compare([found], start)
        assert same.agreement == 1.0 and same.error < 1e-6
    assert len(images) == 50


def test_labels_are_those_of_the_part(resnet: Build) -> None:
    images = make(resnet(), 40)
    labels = open_dataset("synthetic", "holdout", 40).labels
    assert labels is not None
    perfect = np.eye(10, dtype=np.float32)[labels]
    assert images.compare([perfect]).top1 == images.compare([perfect[25:]], 25).top1 == 1.0
    assert make(resnet(), 40, "tensors").compare([perfect]).top1 is None
