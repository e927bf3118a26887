"""The race of methods and the choice for single tensors, on a real graph whose ranges are spoilt on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import pytest

from calib import choice, graph, ranges
from calib.agreement import Agreement, PerImage
from calib.calibrate import image_input
from calib.datasets import open_dataset
from calib.feeds import batches
from calib.holdout import Holdout
from calib.methods import METHODS, Method, scale
from calib.placement import points
from calib.preprocess import parse
from calib.simulation import Simulation

PRE = parse("resize=16,unit")
Setting = Tuple[Holdout, Simulation, Dict[str, Any]]


@pytest.fixture(scope="module")
def setting(resnet: Callable[..., Path]) -> Setting:
    path = str(resnet())
    model = graph.load(path)
    place, image = points(model, "openvino"), image_input(model, path)
    data = open_dataset("synthetic", "calibration", 96)
    feeds = ({"image": x} for x, _ in batches(data, PRE, "NHWC", (16, 16), 32))
    seen = ranges.collect(path, place.measured(), feeds)
    images = Holdout(open_dataset("synthetic", "holdout", 160), PRE, image, path, "classify")
    return images, Simulation(path, place, [n for n, s in seen.items() if s.nonnegative], 8), seen


def scales(seen: Dict[str, Any], method: Method) -> Dict[str, float]:
    return {name: scale(found, method) for name, found in seen.items()}


def test_those_far_behind_are_out_after_few_images(setting: Setting) -> None:
    images, simulation, seen = setting
    tried = {method: scales(seen, method) for method in METHODS}
    bad = Method("percentile", 30.0)
    tried = {bad: scales(seen, bad), **tried}
    order = choice.race(images, simulation, tried)
    assert {entry.method for entry in order} == set(tried)
    assert order[-1].method == bad and len(order[-1].measured) == 10
    alive = [entry for entry in order if len(entry.measured) == 160]
    assert [entry.method for entry in alive] == [entry.method for entry in order[: len(alive)]] and len(alive) <= 2
    assert {len(entry.measured) for entry in order} == {10, 40, 160}
    errors = [entry.found.error for entry in alive]
    assert errors == sorted(errors)
    again = images.measure(simulation.query(tried[alive[0].method]))
    assert alive[0].found == again.mean()
    np.testing.assert_array_equal(alive[0].measured.error, again.error)


def entry(name: str, agreement: float, error: float, count: int) -> choice.Entry:
    right = np.arange(count) < round(agreement * count)
    measured = PerImage(right.astype(np.float64), np.full(count, error), None)
    return choice.Entry(Method(name), measured, measured.mean())


@pytest.mark.parametrize(
    ("agreements", "wins"), [((1.0, 0.9), "mse"), ((0.99, 1.0), "mse"), ((0.9, 1.0), "minmax"), ((0.9, 0.5), "mse")]
)
def test_the_least_error_wins_unless_answers_say_otherwise(
    setting: Setting, agreements: Tuple[float, float], wins: str
) -> None:
    images, _, _ = setting
    few = entry("entropy", 1.0, 0.01, 16)  # it dropped out
    entries = [few, entry("minmax", agreements[1], 0.2, 160), entry("mse", agreements[0], 0.1, 160)]
    assert choice.best(entries, images).method.name == wins


def test_a_tensor_with_a_spoilt_range_gets_another_method(setting: Setting) -> None:
    images, simulation, seen = setting
    good = scales(seen, Method("minmax"))
    spoilt = {**good, "b1_relu1_out": good["b1_relu1_out"] / 20}
    tails = choice.heavy_tails(seen, spoilt)
    assert tails == ["b1_relu1_out"]
    others = [(Method("peaks", 99.9), spoilt), (Method("mse"), good)]
    bad, fine = (images.measure(simulation.query(tried)) for tried in (spoilt, good))
    assert choice.per_tensor(images, simulation, spoilt, bad, others, tails) == {"b1_relu1_out": Method("mse")}
    assert choice.per_tensor(images, simulation, good, fine, [(Method("peaks", 1.0), spoilt)], tails) == {}
    assert choice.per_tensor(images, simulation, spoilt, bad, others, []) == {}


def test_heavy_tails_come_in_the_order_of_their_weight(setting: Setting) -> None:
    _, _, seen = setting
    found = scales(seen, Method("minmax"))
    first, second = list(found)[:2]
    found[first], found[second] = found[first] / 2, found[second] / 3
    assert choice.heavy_tails(seen, found) == [second, first]


@pytest.mark.parametrize(
    ("agreement", "error", "better"), [(0.9, 0.09, True), (0.9, 0.1, False), (0.89, 0.01, False), (1.0, 0.2, False)]
)
def test_better_in_one_figure_and_worse_in_none(agreement: float, error: float, better: bool) -> None:
    assert choice.improves(Agreement(agreement, error, None), Agreement(0.9, 0.1, None)) is better


@pytest.mark.parametrize(("lost", "better"), [(0, True), (4, True), (6, True), (8, False), (60, False)])
def test_a_few_answers_fewer_are_chance(lost: int, better: bool) -> None:
    base, found = Agreement(251 / 256, 0.1, None), Agreement((251 - lost) / 256, 0.09, None)
    assert choice.improves(found, base, 256) is better
    assert not choice.improves(found._replace(error=0.11), base, 256)


def test_a_hold_out_smaller_than_a_stage(resnet: Callable[..., Path], setting: Setting) -> None:
    _, simulation, seen = setting
    path = str(resnet())
    few = Holdout(open_dataset("synthetic", "holdout", 10), PRE, image_input(graph.load(path), path), path, "tensors")
    tried = {method: scales(seen, method) for method in METHODS[:3]}
    order = choice.race(few, simulation, tried)
    assert len(order[0].measured) == 10 and {len(entry.measured) for entry in order} <= {4, 8, 10}
    assert np.isfinite([entry.found.error for entry in order]).all()
    single = Holdout(open_dataset("synthetic", "holdout", 1), PRE, image_input(graph.load(path), path), path, "tensors")
    assert [len(entry.measured) for entry in choice.race(single, simulation, tried)] == [1, 1, 1]
