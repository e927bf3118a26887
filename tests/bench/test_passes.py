"""Whole passes over real images through a real model, in batches that do not divide them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest

import engines
from bench import passes
from bench.inputs import feeds
from engines.errors import UsageError
from tests.bench.conftest import SIZE, scores_of, spec_of


def test_every_image_is_answered_as_if_alone(model: Path) -> None:
    with engines.open(spec_of(model)) as runner:
        images = np.random.default_rng(0).random((11, SIZE, SIZE, 3), dtype=np.float32)
        query = runner.bind_all({"image": images}, 4)
        for _ in range(2):
            assert np.allclose(query()["scores"], scores_of(model, images), atol=1e-5)
        images[7] = 0.5  # what the array holds now
        assert np.allclose(query()["scores"], scores_of(model, images), atol=1e-5)
        few = runner.bind_all({"image": images[:2]}, 4)()
        assert np.allclose(few["scores"], scores_of(model, images[:2]), atol=1e-5)


def test_passes_over_all_test_images_or_as_many_as_asked(model: Path, images: Path) -> None:
    told: List[Tuple[str, int, int]] = []
    spec = spec_of(model).to_json()
    found = passes.measure(spec, [1, 32], 3, str(images), label="net", progress=lambda *said: told.append(said))
    assert [(one["batch"], one["images"], len(one["seconds"])) for one in found] == [(1, 70, 3), (32, 70, 3)]
    for one in found:
        assert one["min_s"] <= one["mean_s"] <= one["max_s"] and one["mean_s"] == pytest.approx(np.mean(one["seconds"]))
        assert one["ms_per_image"] == pytest.approx(1e3 * one["mean_s"] / 70)
        assert one["images_per_s"] * one["ms_per_image"] == pytest.approx(1e3) and one["on"] == "cpu"
    assert told[-1] == ("net: passes at batch 32", 3, 3)
    (few,) = passes.measure(spec, [8], 1, images=9)
    assert few["images"] == 9 and few["mean_s"] == few["min_s"] == few["max_s"]


def test_images_beyond_the_memory_are_refused_with_a_number_that_fits(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.telemetry import proc

    each = 4 * SIZE * SIZE * 3
    monkeypatch.setattr(proc, "state", lambda: {"memory_available_bytes": 20 * each})
    with pytest.raises(UsageError, match="11 prepared images") as refused:
        passes.measure(spec_of(model).to_json(), [1], 1, images=11)
    assert refused.value.hint == "--images 10"
    assert passes.measure(spec_of(model).to_json(), [1], 1, images=10)


def test_the_same_images_as_single_queries_get(model: Path, images: Path) -> None:
    with engines.open(spec_of(model)) as runner:
        whole: Any = feeds(runner, 40, str(images))["image"]
        assert np.array_equal(whole[:8], feeds(runner, 8, str(images))["image"])
