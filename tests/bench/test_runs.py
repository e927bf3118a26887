from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import runs, stats
from engines.errors import DamagedError, UsageError

FIELDS = (
    *("target", "role", "form", "backend", "precision", "achieved", "batch", "images", "dataset", "origin"),
    *("size_bytes", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "mean_ms", "images_per_s"),
    *("rounds", "samples_ms", "device", "top1", "top1_drop", "agreement", "speedup", "flags"),
)


def test_a_run_survives_the_file(make_run, tmp_path):
    run = make_run()
    runs.write(tmp_path / "runs.json", run)
    assert runs.read(tmp_path / "runs.json") == run
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_rows_have_every_field(make_run):
    run = make_run()
    assert set(run) >= {"schema", "created", "environment", "rows"}
    assert run["schema"] == "optimize.run/1"
    assert set(run["environment"]) >= {"cpu", "python", "packages", "before", "after"}
    for row in run["rows"]:
        assert set(row) >= set(FIELDS)
        assert row["device"] is None and row["top1"] is None
        assert row["samples_ms"] == [ms for entry in row["rounds"] for ms in entry["samples_ms"]]
        assert {k: row[k] for k in runs.LATENCIES} == stats.summary(row["samples_ms"])
        queries = len(row["samples_ms"])
        assert row["images"] == row["batch"] * queries
        assert row["images_per_s"] == pytest.approx(row["batch"] * queries / (sum(row["samples_ms"]) / 1000))


def test_speedups_are_against_the_fastest_form_at_the_same_batch(make_run):
    run = make_run()
    for batch in (1, 8):
        engine, predict, function = (r for r in run["rows"] if r["batch"] == batch)
        assert runs.fastest_original(run["rows"], batch) is function
        assert engine["speedup"] == function["p50_ms"] / engine["p50_ms"] == pytest.approx(3, rel=0.01)
        assert predict["speedup"] == pytest.approx(3 / 8, rel=0.01)
        assert function["speedup"] == 1 and function["interval"] is None
        low, high = engine["interval"]
        assert 2.9 < low <= engine["speedup"] <= high < 3.1


def test_a_tensorrt_row_is_flagged_where_its_original_ran_on_the_cpu(make_run):
    for where, flagged in (("cpu", True), ("gpu", False), (None, False)):
        rows = copy.deepcopy(make_run()["rows"])
        for row in rows:
            row.update({"backend": "tensorrt"} if row["role"] == "engine" else {"on": where})
        runs.add_speedups(rows)
        assert all((runs.ORIGINAL_ON_CPU in row["flags"]) == (flagged and row["role"] == "engine") for row in rows)


def test_few_rounds_give_a_ratio_without_an_interval(make_run):
    for row in make_run(count=4)["rows"]:
        assert row["speedup"] is not None and row["interval"] is None


def test_no_original_no_speedup(make_run):
    run = make_run()
    rows = [{**r, "speedup": None} for r in run["rows"] if r["role"] == "engine"]
    runs.add_speedups(rows)
    assert [r["speedup"] for r in rows] == [None, None]


def test_flags(make_run):
    run = make_run()
    template = run["rows"][0]
    from bench.rounds import Target
    from engines.spec import RunnerSpec

    target = Target("a", "engine", "", "fp16", "openvino", {}, 1, RunnerSpec("a", "onnx"), ("no-fast-fp16",))
    rounds = copy.deepcopy(template["rounds"])
    rounds[0]["flags"] = ["busy"]
    rounds[1]["flags"] = ["busy", "throttled"]
    rounds[2]["samples_ms"] = [3 * v for v in rounds[2]["samples_ms"]]
    kept = ["no-fast-fp16", "busy", "throttled", "unstable"]
    assert runs.row(target, 1, rounds, {})["flags"] == [*kept, "unsettled"]
    calm = [*rounds, *copy.deepcopy(template["rounds"][:3])]
    assert runs.row(target, 1, calm, {})["flags"] == kept  # the last three are what counts


def test_what_trtexec_calls_unstable_is_flagged(make_run):
    from bench.rounds import Target
    from engines.spec import RunnerSpec

    template = make_run()["rows"][0]
    target = Target("a", "engine", "", "fp16", "tensorrt", {}, 1, RunnerSpec("a", "onnx"))
    for percent, flags in ((0.9, []), (1.1, ["GPU unstable"])):
        device = {"compute_ms": {"median": 1.0}, "variation_percent": percent, "how": {"tensorrt": "8.5.2"}}
        rounds = [{**entry, "device": device} for entry in copy.deepcopy(template["rounds"])]
        assert runs.row(target, 1, rounds, {})["flags"] == flags


def test_accuracy_goes_into_the_rows_of_its_target(make_run):
    run = make_run()
    about = {"name": "images", "n": 70, "sha256": "0" * 64}
    accuracy = {"top1": 0.7, "top1_drop": 0.1, "agreement": 0.9, "dataset": about, "top5": 0.9, "predictions": "x"}
    runs.add_accuracy(run["rows"], "net.keras", accuracy, form="predict")
    for row in run["rows"]:
        mine = row["form"] == "predict"
        assert (row["top1"], row["dataset"]) == ((0.7, about) if mine else (None, None))
        assert ("accuracy" in row) is mine
    assert run["rows"][1]["accuracy"]["top5"] == 0.9 and "predictions" not in run["rows"][1]["accuracy"]
    runs.validate(run)


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_named(make_run, name):
    run = make_run(batches=(1,))
    del run["rows"][1][name]
    with pytest.raises(DamagedError, match=name):
        runs.validate(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("batch", True),
        ("role", "peer"),
        ("p50_ms", "1"),
        ("p50_ms", None),
        ("p99_ms", 12345.0),
        ("achieved", {"f32": -1}),
        ("dataset", {"name": "x"}),
        ("flags", "busy"),
        ("origin", "guessed"),
        ("samples_ms", [1.0]),
        ("samples_ms", [-1.0]),
        ("min_ms", -1.0),
        ("rounds", []),
        ("device", []),
        ("top1", 77),
        ("top1_drop", -101),
        ("agreement", float("nan")),
        ("interval", [1.0]),
        ("interval", "x"),
        ("variation", []),
        ("load_ms", -1.0),
        ("first_ms", "soon"),
    ],
)
def test_a_wrong_field_is_named(make_run, tmp_path, name, value):
    run = make_run(batches=(1,))
    run["rows"][0][name] = value
    with pytest.raises(DamagedError, match=r"rows\[0\]"):
        runs.validate(run)
    (tmp_path / "bad.json").write_text(json.dumps(run))
    with pytest.raises(DamagedError, match=r"bad\.json"):
        runs.read(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["created", "environment", "rows"])
def test_a_run_needs_its_parts(make_run, name):
    run = make_run(batches=(1,))
    del run[name]
    with pytest.raises(DamagedError, match=name):
        runs.validate(run)


@pytest.mark.parametrize(("name", "value"), [("settings", []), ("failures", [{"target": 1}]), ("environments", [1])])
def test_a_part_that_a_run_may_lack_must_be_whole(make_run, name, value):
    with pytest.raises(DamagedError, match=name):
        runs.validate({**make_run(batches=(1,)), name: value})


def test_a_run_of_before_has_no_cold_start_and_a_rounds_own_must_be_whole(make_run):
    run = make_run(batches=(1,))
    assert all(row.pop(name) is None for row in run["rows"] for name in runs.COLD)
    runs.validate(run)
    for name, value in (("load_ms", "long"), ("first_ms", -1), ("round", 0.5)):
        broken = make_run(batches=(1,))
        broken["rows"][0]["rounds"][1][name] = value
        with pytest.raises(DamagedError, match=rf"rounds\[1\]\.{name}"):
            runs.validate(broken)


def test_another_schema_and_another_shape_are_refused(make_run):
    with pytest.raises(DamagedError, match=r"optimize\.run/2"):
        runs.validate({**make_run(batches=(1,)), "schema": "optimize.run/2"})
    with pytest.raises(DamagedError):
        runs.validate([])


def test_unknown_fields_are_kept(make_run, tmp_path):
    run = make_run(batches=(1,))
    run["news"] = run["rows"][0]["news"] = {"a": 1}
    runs.write(tmp_path / "r.json", run)
    read = runs.read(tmp_path / "r.json")
    assert read["news"] == read["rows"][0]["news"] == {"a": 1}


def test_imported_rows_need_no_samples(make_run):
    run = make_run(batches=(1,))
    empty = dict.fromkeys((*runs.LATENCIES, "images_per_s", "speedup", "size_bytes"))
    run["rows"][0].update(empty, origin="imported", rounds=[], samples_ms=[], p50_ms=2.0)
    runs.validate(run)
    runs.add_speedups(run["rows"])
    assert run["rows"][0]["speedup"] is None


def test_merging_keeps_runs_apart(make_run):
    first, second = make_run(batches=(1,)), make_run(batches=(8,), failures=[("x", "broke")])
    merged = runs.merge([first, second])
    runs.validate(merged)
    assert [r["run"] for r in merged["rows"]] == [0, 0, 0, 1, 1, 1]
    assert len(merged["environments"]) == 2
    assert merged["failures"] == [{"target": "x", "message": "broke"}]
    assert runs.merge([first]) == first
    with pytest.raises(UsageError):
        runs.merge([])


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50))
def test_samples_keep_six_digits(ns):
    kept = runs.milliseconds(np.array(ns, np.int64))
    assert all(abs(ms * 1e6 - value) <= 5.1e-6 * value for ms, value in zip(kept, ns))
    assert all(len(repr(ms).replace(".", "").lstrip("0").split("e")[0].rstrip("0")) <= 6 for ms in kept)
