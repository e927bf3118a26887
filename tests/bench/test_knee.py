from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import knee, report, runs
from bench.stats import VERDICT_ROUNDS

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def pipeline(half, rounds=5, spread=0.0, seed=0, batches=BATCHES):
    """Rates of Hockney's pipeline: n_1/2 is `half`; each round is off by some share, and each batch within it."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, 0.1, rounds)
    return {b: list(1e4 * b / (b + half) * np.exp(drift + rng.normal(0, spread, rounds))) for b in batches}


def expected(rates):
    """The definition, without noise."""
    middle = {b: float(np.exp(np.mean(np.log(r)))) for b, r in rates.items()}
    return min(b for b, rate in middle.items() if rate >= knee.SHARE * max(middle.values()))


@pytest.mark.parametrize(("half", "batch"), [(0.4, 4), (1.0, 8), (2.0, 16), (3.0, 32)])
def test_a_pipeline_levels_off_where_hockney_says(half, batch):
    found = knee.knee(pipeline(half))
    assert found.batch == batch == expected(pipeline(half))
    assert found.best == 64 and found.share == pytest.approx(batch / (batch + half) * (64 + half) / 64)
    assert "90% of the highest" in found.why


def test_curves_without_a_knee():
    assert "still rise at batch 64" in knee.knee({b: [100.0 * b] * 5 for b in BATCHES}).why
    flat = knee.knee({b: [100.0 + b / 64] * 5 for b in BATCHES})
    assert flat.batch is None and "batch 1 has 99%" in flat.why
    assert "fewer than 4 batches" in knee.knee({b: [1.0] * 5 for b in (1, 2, 4)}).why
    few = knee.knee(pipeline(1.0, rounds=VERDICT_ROUNDS - 1))
    assert few.batch is None and "fewer than 5 rounds (4)" in few.why


def test_a_curve_that_falls_again_has_its_knee_before_or_at_the_peak():
    peak = {1: 50.0, 2: 80.0, 4: 100.0, 8: 70.0, 16: 60.0}
    assert knee.knee({b: [r] * 5 for b, r in peak.items()})[:2] == (4, 4)


@given(
    half=st.floats(0.05, 100),
    spread=st.sampled_from([0.0, 0.01, 0.1]),
    seed=st.integers(0, 99),
    factor=st.floats(1e-6, 1e6),
)
def test_units_and_the_order_of_rounds_and_batches_do_not_matter(half, spread, seed, factor):
    rates = pipeline(half, 6, spread, seed)
    found = knee.knee(rates)
    order = random.Random(seed).sample(range(6), 6)
    items = list(rates.items())
    random.Random(seed).shuffle(items)
    other = knee.knee({b: [factor * values[i] for i in order] for b, values in items})
    assert (other.batch, other.best, other.why) == (found.batch, found.best, found.why)
    if found.batch is not None:
        assert other.share == pytest.approx(found.share)
        assert found.batch == expected(rates)
        assert BATCHES[0] < found.batch < BATCHES[-1] and found.share >= knee.SHARE


@given(half=st.floats(0.05, 20), more=st.floats(1.2, 5))
def test_a_slower_start_never_moves_the_knee_down(half, more):
    one, other = (knee.knee(pipeline(h)).batch for h in (half, half * more))
    assert one is None or other is None or one <= other


def test_noise_makes_it_unknown_and_not_wrong():
    told = {spread: [knee.knee(pipeline(2.0, 5, spread, s)) for s in range(200)] for spread in (0.005, 0.05, 0.3)}
    right = {spread: sum(f.batch == 16 for f in found) for spread, found in told.items()}
    wrong = {spread: sum(f.batch not in (None, 16) for f in found) for spread, found in told.items()}
    assert right[0.005] > 180 and wrong[0.005] == 0
    assert wrong[0.05] <= 20 and wrong[0.3] <= 20  # the level: one in ten
    assert right[0.3] < 20 and "vary too much" in told[0.3][0].why


def levelling(make_run, count=5):
    """A run whose engine levels off at batch 8, its original not at all."""
    run = make_run(count, batches=(1, 2, 4, 8, 16, 32))
    for row in run["rows"]:
        if row["role"] == "engine":
            ms = (row["batch"] + 1.0) / 10
            rounds = [{**entry, "samples_ms": [ms, ms * 1.01]} for entry in row["rounds"]]
            samples = [ms, ms * 1.01] * count
            row.update(runs.stats.summary(samples), rounds=rounds, samples_ms=samples)
    runs.validate(run)
    return run


def test_the_knees_of_a_run_are_in_every_report(make_run):
    run = levelling(make_run)
    found = {(one["target"], one["form"]): one for one in knee.knees(run)}
    assert found["int8", ""]["batch"] == 8 and found["int8", ""]["batches"] == [1, 2, 4, 8, 16, 32]
    assert found["net.keras", "predict"]["batch"] is None  # its time is proportional to the batch
    text = report.FORMATS["md"](run)
    assert "## Knee batch" in text and "int8 int8: 8 (9" in text and "net.keras predict fp32: none: more images" in text
    assert json.loads(report.FORMATS["json"](run))["knees"] == knee.knees(run)


def test_rounds_that_lack_a_batch_do_not_count(make_run):
    run = levelling(make_run)
    row = next(r for r in run["rows"] if r["role"] == "engine" and r["batch"] == 16)
    row["rounds"] = row["rounds"][1:]
    assert "fewer than 5 rounds (4)" in next(k for k in knee.knees(run) if k["role"] == "engine")["why"]


def test_few_batches_are_not_spoken_of(make_run):
    run = make_run(batches=(1, 8, 64))
    assert knee.knees(run) == []
    assert "Knee" not in report.FORMATS["md"](run)
    assert json.loads(report.FORMATS["json"](run))["knees"] == []


def test_merged_runs_keep_their_knees_apart(make_run):
    run = levelling(make_run)
    lines = knee.notes(runs.merge([run, run]))
    assert lines[0].startswith("run 1, ") and lines[-1].startswith("run 2, ") and len(lines) == 6
