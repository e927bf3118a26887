from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench import rounds, runs
from bench.rounds import Target
from engines import child
from engines.errors import ModelError, UsageError
from engines.spec import RunnerSpec

QUICK = {"warmup_s": 0.0, "duration_s": 0.01, "iterations": 3}


def target(path: Path, name: str = "net", role: str = "engine", **about) -> Target:
    spec = RunnerSpec(path=str(path), kind="onnx", backend="onnxruntime", layout="NHWC", threads=1)
    return Target(name, role, about.pop("form", ""), "fp32", "onnxruntime", {"f32": 1}, 1, spec, **about)


def test_one_process_measures_all_batches(model):
    spec = target(model).spec.to_json()
    done = rounds.measure_target(spec, [1, 4], seed=0, describe=True, **QUICK)
    assert [cell["batch"] for cell in done["cells"]] == [1, 4]
    assert all(len(cell["samples_ms"]) >= 3 and min(cell["samples_ms"]) > 0 for cell in done["cells"])
    assert done["failed"] == []
    assert done["achieved"]
    assert all(cell["load_ms"] > 0 and cell["first_ms"] > 0 for cell in done["cells"])


def test_a_failing_batch_leaves_the_others(tmp_path, model):
    import onnx

    fixed = onnx.load(str(model))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, str(tmp_path / "fixed.onnx"))
    done = rounds.measure_target(target(tmp_path / "fixed.onnx").spec.to_json(), [1, 4], **QUICK)
    assert [cell["batch"] for cell in done["cells"]] == [1]
    assert [failure["batch"] for failure in done["failed"]] == [4]
    assert done["failed"][0]["message"]


def test_rounds_alternate_in_real_processes(model):
    seen = []
    done = rounds.run(
        [target(model, "a"), target(model, "b", "original", form="function")],
        [1, 4],
        rounds=2,
        on_cell=lambda t, batch, entry: seen.append((t.name, batch, entry["round"], entry["order"])),
        **QUICK,
    )
    assert done.failures == []
    assert seen == [
        *(("a", 1, 0, 0), ("a", 4, 0, 0), ("b", 1, 0, 1), ("b", 4, 0, 1)),
        *(("b", 1, 1, 0), ("b", 4, 1, 0), ("a", 1, 1, 1), ("a", 4, 1, 1)),
    ]
    assert [(r["target"], r["batch"]) for r in done.rows] == [("a", 1), ("b", 1), ("a", 4), ("b", 4)]
    assert all(len(r["rounds"]) == 2 and r["speedup"] for r in done.rows)
    for row in done.rows:  # what each fresh process paid once, and the median of it
        for name in runs.COLD:
            assert row[name] == sum(entry[name] for entry in row["rounds"]) / 2 > 0
    starts = [done.rows[i]["rounds"][r]["started"] for i, r in ((0, 0), (1, 0), (1, 1), (0, 1))]
    assert starts == sorted(starts)
    runs.validate(runs.make(done.rows, done.before, done.after))


def test_a_target_that_cannot_be_opened_does_not_stop_the_others(model, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    done = rounds.run([target(tmp_path / "bad.onnx", "bad"), target(model, "good")], [1], rounds=2, **QUICK)
    assert [r["target"] for r in done.rows] == ["good"]
    assert len(done.rows[0]["rounds"]) == 2
    assert [name for name, _ in done.failures] == ["bad (fp32, 1 thread)"]
    assert "bad.onnx" in done.failures[0][1]


def wrong_command(spec, batches, progress, **_):
    """A child that finds the command itself wrong, such as a custom object that was not named."""
    raise UsageError("net needs the custom object 'Block'", "--custom-objects FILE.py:Block")


@pytest.mark.parametrize("role", ["original", "engine"])
def test_an_original_that_was_typed_wrong_ends_the_run_at_once(model, monkeypatch, role):
    real, calls = child.call, []
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def call(name, arguments, progress=None, env=None):
        calls.append(name)
        return real("test_rounds:wrong_command", arguments)

    monkeypatch.setattr(child, "call", call)
    wrong = target(model)._replace(role=role)
    if role == "engine":
        done = rounds.run([wrong], [1, 8], rounds=2, **QUICK)
        assert not done.rows and "custom object 'Block'" in done.failures[0][1]
        return
    with pytest.raises(UsageError, match="custom object 'Block'") as caught:
        rounds.run([wrong], [1, 8], rounds=2, **QUICK)
    assert caught.value.hint and len(calls) == 1


def die_at_eight(spec, batches, progress, **_):
    """A child that is killed, as by the kernel when memory runs out, at batch 8."""
    if 8 in batches:
        os.kill(os.getpid(), signal.SIGKILL)
    cells = [{"batch": b, "started": "2024-05-01T12:00:00Z", "samples_ms": [1.0]} for b in batches]
    return {"cells": cells, "failed": [], "achieved": {}}


def test_a_child_that_dies_costs_only_the_batch_it_died_at(model, monkeypatch):
    calls = []
    real = child.call
    source = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(source)

    def call(name, arguments, progress=None, env=None):
        calls.append(list(arguments["batches"]))
        return real("test_rounds:die_at_eight", arguments)

    monkeypatch.setattr(child, "call", call)
    done = rounds.run([target(model)], [1, 8], rounds=2, **QUICK)
    assert calls == [[1, 8], [1], [8], [1]]
    assert [(r["batch"], len(r["rounds"])) for r in done.rows] == [(1, 2)]
    assert [name for name, _ in done.failures] == ["net (fp32, 1 thread) batch 8"]


def test_an_error_later_keeps_what_was_measured(model, monkeypatch):
    real, count = child.call, []

    def call(*arguments, **named):
        count.append(1)
        if len(count) == 2:
            raise ModelError("gone")
        return real(*arguments, **named)

    monkeypatch.setattr(child, "call", call)
    done = rounds.run([target(model)], [1], rounds=3, **QUICK)
    assert len(count) == 2
    assert len(done.rows[0]["rounds"]) == 1
    assert done.failures == [("net (fp32, 1 thread)", "gone")]


def test_targets_of_one_name_get_their_folder(tmp_path):
    pair = [target(tmp_path / place / "int8", "int8") for place in ("x.optimized", "y.optimized")]
    assert [t.name for t in rounds.distinct(pair)] == ["x.optimized/int8", "y.optimized/int8"]
    assert [t.name for t in rounds.distinct(pair[:1])] == ["int8"]
    with pytest.raises(UsageError, match="twice"):
        rounds.distinct([pair[0], pair[0]])
    with pytest.raises(UsageError, match="role"):
        rounds.distinct([pair[0]._replace(role="peer")])


@pytest.mark.parametrize("bad", [([], [1], 1), (["t"], [], 1), (["t"], [1], 0)])
def test_nothing_to_measure(model, bad):
    targets = [target(model) for _ in bad[0]]
    with pytest.raises(UsageError):
        rounds.run(targets, bad[1], bad[2])


def test_the_bytes_of_files_and_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"12")
    assert rounds.size_of(str(tmp_path)) == 5
    assert rounds.size_of(str(tmp_path / "y")) == 2
