"""Candidates: which rows are, how they are called, and what cannot stand in one table."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from bench import stats
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize.selection.choose import select

from .conftest import TABLES, Write, noisy, row


def test_accuracies_of_different_test_sets_are_refused(write: Write) -> None:
    other = {"name": "cifar10", "n": 10_000, "sha256": "cd" * 32}
    rows = [row("a", 0.9, [1.0]), row("b", 0.8, [1.0], dataset=other)]
    with pytest.raises(IncompatibleError, match="different test sets: a on 10000 images of cifar10 and b"):
        select([write(rows)])
    rows[1]["dataset"] = None  # unknown is not different
    assert "data set of the accuracy: b" in select([write(rows)])["unknown"]
    rows[1]["dataset"] = {"name": "cifar10", "n": 512, "sha256": None}
    with pytest.raises(IncompatibleError, match="512 images"):
        select([write(rows)])


def test_runs_of_two_files_are_not_paired_and_names_are_told_apart(write: Write) -> None:
    one = write([row("int8", 0.95, noisy(10))], "big.json", cpu="A CPU")
    two = write([row("int8", 0.94, noisy(5, seed=1))], "small.json", cpu="A CPU")
    found = select([one, two])
    assert (found["baseline"], found["chosen"], found["paired"]) == ("big: int8", "small: int8", False)
    assert "not paired" in found["why"] and found["verdict"] == "PASS"
    with pytest.raises(UsageError, match="twice"):
        select([one, one])
    with pytest.raises(IncompatibleError, match="processor: A CPU and Another"):
        select([one, write([row("int8", 0.94, [5.0])], "other.json", cpu="Another")])


def test_originals_of_two_processors_are_two_candidates(write: Write) -> None:
    about = {"role": "original", "form": "predict", "backend": "tensorflow"}
    rows = [row("net", 0.95, noisy(ms, seed=int(ms)), on=on, **about) for on, ms in (("cpu", 10.0), ("gpu", 5.0))]
    found = select([write(rows)])
    assert {one["target"] for one in found["candidates"]} == {"net predict on cpu", "net predict on gpu"}


@pytest.mark.parametrize("about", [{"before": []}, {"gpu": "a GPU"}, {"packages": 7}, {"features": [1]}])
def test_an_environment_that_is_none_is_damaged(write: Write, about: Dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="environment"):
        select([write([row("a", 0.9, [1.0]), row("b", 0.9, [2.0])], **about)])


def test_the_time_of_many_images_is_that_of_all_queries_as_in_images_a_second(write: Write) -> None:
    """A round of a fixed time has fewer queries where they are slow."""
    slow = row("a", 0.95, [2.0, 10.0])
    slow["rounds"][0]["samples_ms"] = [2.0] * 15
    slow["samples_ms"] = [2.0] * 15 + [10.0] * 3
    slow.update(stats.summary(slow["samples_ms"]))
    found = select([write([slow, row("b", 0.94, [1.0, 1.0])])])
    assert found["candidates"][0]["times"]["inference_s"] == pytest.approx(10 * (15 * 2 + 3 * 10) / 18)
    assert found["saving_of_means"] == pytest.approx(1 - 1 / (60 / 18))
    assert found["saving"] == pytest.approx(1 - (1 / 2 + 1 / 10) / 2)


def test_the_smallest_batch_that_all_have_is_taken(write: Write) -> None:
    rows = [
        row(name, top1, [ms * b] * 10, batch=b) for name, top1, ms in (("a", 0.95, 2), ("b", 0.94, 1)) for b in (4, 8)
    ]
    found = select([write([*rows, row("a", 0.95, [3.0], batch=1)])])
    assert found["asked"]["batch"] == 4 and [one["ms_per_image"] for one in found["candidates"]] == pytest.approx(
        [2, 1]
    )
    assert [one["times"]["inference_s"] for one in found["candidates"]] == pytest.approx([20, 10])
    odd = select([write(rows)], batch=8, images=9)["candidates"][0]["times"]
    assert odd["inference_s"] == pytest.approx(2 * 0.016), "the ninth image takes a query of its own"
    side = [row("a", 0.95, [2.0] * 10, streams=4), *(row(n, 0.9, [ms] * 10) for n, ms in (("b", 2.0), ("c", 1.0)))]
    assert [one["target"] for one in select([write(side)])["candidates"]] == ["b", "c"]
    with pytest.raises(UsageError, match="no batch size is in all rows"):
        select([write([row("a", 0.9, [1.0], batch=1), row("b", 0.9, [1.0], batch=2)])])


def test_the_users_two_devices_do_not_stand_in_one_table() -> None:
    with pytest.raises(IncompatibleError, match="unlike devices: board: Intel NUC"):
        select([TABLES / "nuc.json", TABLES / "rtx-3080-ti.json"])
