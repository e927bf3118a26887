from __future__ import annotations

import shutil
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import manifest
from engines.errors import UsageError
from optimize import api, tuning


def row(batch: int, threads: Optional[int], streams: Optional[int], *p50: float, rate: float = 0.0) -> Dict[str, Any]:
    """Rounds of one query each; of several streams at a rate, queries a second."""
    rounds = [{"samples_ms": [ms], **({"queries_per_s": rate} if streams else {})} for ms in p50]
    made = {"batch": batch, "threads": threads, "streams": streams, "rounds": rounds}
    return {**made, "p50_ms": sorted(p50)[len(p50) // 2], "images_per_s": batch * (rate or 1e3 * len(p50) / sum(p50))}


@given(st.integers(1, 256))
def test_candidates_are_few_distinct_and_begin_with_the_default(cores: int) -> None:
    found = tuning.candidates(cores)
    assert found[0] == (0, 1) and len(set(found)) == len(found) <= 14
    assert all(threads == 0 or streams == 1 for threads, streams in found)
    assert all(threads < cores and streams <= max(cores, 1) for threads, streams in found)


def test_the_quickest_single_query_and_the_highest_rate_are_chosen_by_batch() -> None:
    rows = [
        *(row(1, None, None, 1.0), row(1, 1, None, 0.9), row(1, None, 2, 1.5, rate=1900)),
        *(row(64, None, None, 10.0), row(64, 1, None, 19.0), row(64, None, 2, 19.9, rate=100.8)),
        row(128, 1, None, 5.0),  # its default failed: nothing to compare with
    ]
    assert tuning.best(rows) == {
        "1": {"threads": 1, "p50_ms": 0.9, "streams": 2, "images_per_s": 1900},
        "64": {"threads": 0, "p50_ms": 10.0, "streams": 1, "images_per_s": 6400},  # 0.8% is not worth it
    }


def test_what_may_be_chance_is_not_chosen() -> None:
    usual = row(1, None, None, 1.0, 1.01, 1.02, 0.99, 1.0)
    luck, sure = row(1, 1, None, 0.7, 1.1, 0.9, 1.2, 0.8), row(1, 1, None, 0.9, 0.91, 0.9, 0.92, 0.9)
    assert tuning.best([usual, luck])["1"]["threads"] == 0
    assert tuning.best([usual, sure])["1"]["threads"] == 1


def test_a_bundle_keeps_what_suits_it_and_runs_with_it(built: Any, tmp_path: Any, monkeypatch: Any) -> None:
    import numpy as np

    import engines
    from engines import openvino
    from engines.spec import RunnerSpec

    bundle = tmp_path / "int8"
    shutil.copytree(next(b.path for b in built.bundles if b.precision == "int8"), bundle)
    said: List[str] = []
    monkeypatch.setattr(tuning, "settings", lambda: [(0, 1), (1, 1), (0, 2)])
    asked = {"rounds": 1, "warmup": 0.0, "duration": 0.01, "out": None, "tune": True}
    run, failures = api.bench([bundle], [1, 8], progress=lambda what, done, total: said.append(what), **asked)
    assert failures == [] and len(run["rows"]) == 6
    tuned = manifest.read(bundle)["options"]["tuned"]
    assert sorted(tuned) == ["1", "8"] and tuned == tuning.best(run["rows"])
    assert [line for line in said if line.startswith("int8, batch 8: ")]

    if manifest.read(bundle)["backend"] == "openvino":
        value = manifest.read(bundle)
        value["options"]["tuned"] = {"1": {**tuned["1"], "threads": 1}, "8": {**tuned["8"], "threads": 0}}
        manifest.write(bundle, value)
        threads: List[int] = []
        real = openvino._compile
        monkeypatch.setattr(openvino, "_compile", lambda *given: threads.append(given[4]) or real(*given))
        for asked_threads in (0, 2):
            with engines.open(RunnerSpec(str(bundle), "bundle", threads=asked_threads)) as runner:
                for batch in (1, 8):
                    shape = (batch, *(int(n or 0) for n in runner.inputs[0].shape[1:]))
                    runner.infer({runner.inputs[0].name: np.zeros(shape, np.float32)})
        assert threads == [1, 0, 2, 2]  # what is asked for goes first


@pytest.mark.journey
def test_the_same_build_again_keeps_it_and_another_engine_does_not(tiny_onnx: Any, tmp_path: Any) -> None:
    import optimize

    def again(batches: Any, **more: Any) -> Any:
        done = optimize.build(tiny_onnx, "fp32", batches, out=tmp_path, backend="onnxruntime", **more)
        return done.bundles[0], manifest.read(done.bundles[0].path)["options"].get("tuned")

    bundle, none = again((1,))
    assert none is None
    value, kept = manifest.read(bundle.path), {"1": {"threads": 1, "p50_ms": 1.0, "streams": 2, "images_per_s": 9.0}}
    value["options"]["tuned"] = kept
    manifest.write(bundle.path, value)
    bundle, tuned = again((1,))
    assert (tuned, bundle.reused) == (kept, True)
    assert again((1,), preprocess="raw")[1] == kept  # published anew, of the same engine
    (bundle.path / value["files"][0]["path"]).write_bytes(b"another engine")
    value["files"][0].update(bytes=14, sha256="0" * 64)
    manifest.write(bundle.path, value)
    assert again((1,))[1] is None


def test_tune_is_refused_where_it_could_keep_nothing(tiny_onnx: Any) -> None:
    with pytest.raises(UsageError, match="--tune keeps what it finds in bundles"):
        api.bench([tiny_onnx], [1], out=None, tune=True)
    with pytest.raises(UsageError, match="--tune tries numbers of threads"):
        api.bench([tiny_onnx], [1], out=None, tune=True, threads="2")
    with pytest.raises(UsageError, match="one power mode"):
        api.bench([tiny_onnx], [1], out=None, tune=True, power_modes="15W,25W")
