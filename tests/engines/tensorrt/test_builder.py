"""The builder on every surface: precision, profiles, memory, several plans, accelerators, interruptions."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest

from engines.errors import BuildError, IncompatibleError, UsageError
from engines.spec import RunnerSpec, quiet
from engines.tensorrt import NAME, build, compat, load
from engines.tensorrt.builder import build as build_with
from tests.doubles.samples import expected, images

pytestmark = pytest.mark.tensorrt


def asked(trt: Any, graphs: Any, precision: str) -> Any:
    """The graph and the options that a version wants for a precision."""
    if precision == "fp32" or compat.weakly_typed(trt):
        graph = graphs.quantized if precision == "int8" else graphs.plain
        return graph, ({"int8_mode": "explicit"} if precision == "int8" else {})
    graph = graphs.half_quantized if precision == "int8" else graphs.half
    return graph, {"strongly_typed": True, **({"int8_mode": "explicit"} if precision == "int8" else {})}


def answers(out: Path, built: Dict[str, Any], batch: int) -> Any:
    """What the plan gives for a batch of images."""
    spec = RunnerSpec(str(out / built["files"][0]), "onnx", backend=NAME, options=built["options"])
    with load(spec) as runner:
        return runner.infer({"x": images(batch)})["y"]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 5e-3), ("int8", 0.05)])
def test_a_plan_answers_as_the_graph_at_each_of_its_batches(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, precision: str, tolerance: float
) -> None:
    graph, options = asked(trt, graphs, precision)
    built = build(graph, tmp_path, precision, [1, 4], options, quiet)
    assert built["files"] == ["model.plan"]
    for batch in (1, 4):
        want = expected(graphs.plain.read_bytes(), images(batch))
        np.testing.assert_allclose(answers(tmp_path, built, batch), want, atol=tolerance * np.abs(want).max())
    kinds = {"fp32": {"f32"}, "fp16": {"f16"}, "int8": {"int8"}}[precision]
    assert kinds <= set(built["achieved"])
    assert precision != "fp32" or set(built["achieved"]) == {"f32"}


def test_fp32_has_no_tf32(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    built = build(graphs.plain, tmp_path, "fp32", [1, 4], {}, quiet)
    np.testing.assert_array_equal(answers(tmp_path, built, 4), expected(graphs.plain.read_bytes(), images(4)))


def test_what_is_recorded(trt: Any, surface: str, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    clocks = {"state": "free", "gpu": {"now_hz": 306000000, "max_hz": 624750000}}
    out = tmp_path / "out"
    out.mkdir()
    options = {"clocks": clocks, "timing_cache": str(tmp_path / "timing.cache"), "workspace": 32 << 20}
    built = build(graphs.plain, out, "fp16" if compat.weakly_typed(trt) else "fp32", [1, 4], options, quiet)
    recorded = built["options"]
    assert recorded["tensorrt"] == trt.__version__
    assert recorded["compute_capability"] == "8.7"
    assert recorded["clocks"] == clocks
    assert "clocks-free" in built["flags"]
    assert recorded["workspace_bytes"] == 32 << 20
    assert [one["batch"] for one in recorded["profiles"]] == [1, 4]
    assert all(one["device_memory_bytes"] > 0 for one in recorded["profiles"])
    assert len(recorded["builds"]) == 1
    assert recorded["builds"][0]["kept"] is True
    assert recorded["builds"][0]["bytes"] == (out / "model.plan").stat().st_size
    assert recorded["timing_cache"]["bytes"] == 0
    assert (tmp_path / recorded["timing_cache"]["file"]).stat().st_size > 0
    assert isinstance(recorded["reformats"], int)
    assert recorded["qdq"] == 0
    assert recorded["trtexec"][:2] == ["trtexec", "--onnx=plain.onnx"]
    assert [one.name for one in out.iterdir()] == ["model.plan"]


def test_the_same_timing_cache_gives_the_same_plan(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    plans, caches = [], []
    for _ in range(2):
        built = build(graphs.plain, tmp_path, "fp32", [1], {"timing_cache": str(tmp_path / "t.cache")}, quiet)
        plans.append(hashlib.sha256((tmp_path / "model.plan").read_bytes()).hexdigest())
        caches.append(built["options"]["timing_cache"])
    assert plans[0] == plans[1]
    assert caches[0]["file"] == caches[1]["file"]
    assert caches[0]["bytes"] == 0 < caches[1]["bytes"]


def test_a_damaged_timing_cache_is_ignored_and_mended(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    options = {"timing_cache": str(tmp_path / "t.cache")}
    file = tmp_path / build(graphs.plain, tmp_path, "fp32", [1], options, quiet)["options"]["timing_cache"]["file"]
    file.write_bytes(file.read_bytes()[:-3])
    assert "timing-cache-ignored" in build(graphs.plain, tmp_path, "fp32", [1], options, quiet)["flags"]
    assert "timing-cache-ignored" not in build(graphs.plain, tmp_path, "fp32", [1], options, quiet)["flags"]


def test_of_several_plans_the_best_or_the_median_is_kept(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path
) -> None:
    for keep, kept in (("best", 1), ("median", 2)):
        times = iter([3.0, 1.0, 2.0])
        plans: List[bytes] = []

        def measure(plan: bytes, batches: Any, times: Any = times, plans: List[bytes] = plans) -> float:
            plans.append(plan)
            return next(times)

        options = {"builds": 3, "keep": keep, "timing_cache": str(tmp_path / "t.cache")}
        built = build_with(graphs.plain, tmp_path, "fp32", [1], options, quiet, measure)
        lines = built["options"]["builds"]
        assert [one["median_ms"] for one in lines] == [3.0, 1.0, 2.0]
        assert [one["kept"] for one in lines] == [number == kept for number in range(3)]
        assert (tmp_path / "model.plan").read_bytes() == plans[kept]
        assert len(set(plans)) == 3, "a timing cache would make them alike"
        assert built["options"]["timing_cache"] is None


def test_plans_are_timed_by_a_run_of_each(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.tensorrt.builder._TRIAL_S", 0.0)
    built = build(graphs.plain, tmp_path, "fp32", [1, 4], {"builds": 2}, quiet)
    medians = [one["median_ms"] for one in built["options"]["builds"]]
    assert all(ms > 0 for ms in medians)
    assert built["options"]["builds"][medians.index(min(medians))]["kept"]


def test_one_plan_for_each_batch(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    built = build(graphs.plain, tmp_path, "fp32", [1, 4], {"split_batches": True}, quiet)
    assert built["files"] == ["model-b1.plan", "model-b4.plan"]
    assert built["options"]["plans"] == {"1": "model-b1.plan", "4": "model-b4.plan"}
    assert [one["batches"] for one in built["options"]["builds"]] == [[1], [4]]
    for batch in (1, 4):
        np.testing.assert_array_equal(
            answers(tmp_path, built, batch), expected(graphs.plain.read_bytes(), images(batch))
        )


def test_a_fixed_batch_needs_no_profile_and_no_other_batch(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path
) -> None:
    built = build(graphs.fixed, tmp_path, "fp32", [1], {}, quiet)
    np.testing.assert_array_equal(answers(tmp_path, built, 1), expected(graphs.plain.read_bytes(), images(1)))
    assert not any(word.startswith("--minShapes") for word in built["options"]["trtexec"])
    with pytest.raises(BuildError, match="fixed batch 1, batch 4"):
        build(graphs.fixed, tmp_path, "fp32", [4], {}, quiet)


def test_out_of_memory_halves_the_workspace(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Any
) -> None:
    monkeypatch.setenv("OPTIMIZE_DOUBLE_OOM_ABOVE", str(40 << 20))
    lines, progress = heard
    built = build(graphs.plain, tmp_path, "fp32", [1], {"workspace": 128 << 20}, progress)
    assert built["options"]["workspace_bytes"] == 32 << 20
    assert "workspace-reduced" in built["flags"]
    assert [what for what, _, _ in lines if "out of memory" in what] == [
        "out of memory: again with a workspace of 64 MiB",
        "out of memory: again with a workspace of 32 MiB",
    ]


def test_out_of_memory_at_last_is_an_error(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIMIZE_DOUBLE_OOM_ABOVE", str(1 << 20))
    with pytest.raises(BuildError, match="OutOfMemory") as caught:
        build(graphs.plain, tmp_path, "fp32", [1], {"workspace": 64 << 20}, quiet)
    assert "--workspace" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_an_accelerator_needs_a_board_that_has_one(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, options = asked(trt, graphs, "fp16")
    options = {**options, "dla": 0, "gpu_fallback": True}
    with pytest.raises(IncompatibleError, match="no deep-learning accelerator") as caught:
        build(graph, tmp_path, "fp16", [1], options, quiet)
    assert caught.value.exit_code == 4
    monkeypatch.setenv("OPTIMIZE_DOUBLE_DLA", "1")
    with pytest.raises(IncompatibleError, match="1 accelerator"):
        build(graph, tmp_path, "fp16", [1], {**options, "dla": 1}, quiet)
    with pytest.raises(UsageError, match="not in FP32"):
        build(graphs.plain, tmp_path, "fp32", [1], {**options, "strongly_typed": False}, quiet)
    built = build(graph, tmp_path, "fp16", [1, 4], options, quiet)
    assert built["files"] == ["model-b1.plan", "model-b4.plan"]
    assert "--useDLACore=0" in built["options"]["trtexec"]
    assert (built["options"]["dla"], built["options"]["gpu_fallback"]) == (0, True)


def test_a_plan_runs_on_the_accelerator_that_was_asked_for(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of the core is no part of a plan."""
    graph, options = asked(trt, graphs, "fp16")
    monkeypatch.setenv("OPTIMIZE_DOUBLE_DLA", "2")
    cores: List[Any] = []
    runtime = trt.Runtime

    class Watched(runtime):  # type: ignore[misc]
        def deserialize_cuda_engine(self, plan: Any) -> Any:
            cores.append(self.DLA_core)
            return super().deserialize_cuda_engine(plan)

    monkeypatch.setattr(trt, "Runtime", Watched)
    built = build(graph, tmp_path, "fp16", [1], {**options, "dla": 1, "gpu_fallback": True, "builds": 2}, quiet)
    spec = RunnerSpec(str(tmp_path / "model.plan"), "onnx", backend="tensorrt", options=built["options"])
    with load(spec):
        pass
    assert len(cores) >= 4 and set(cores) == {1}


def test_layers_kept_in_fp32(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    if not compat.weakly_typed(trt):
        pytest.skip("the graph alone tells it")
    want = expected(graphs.plain.read_bytes(), images(1))
    far = []
    for kept in ([], ["conv1", "relu1", "conv2", "add", "relu2", "pool", "flat", "fc"]):
        built = build(graphs.plain, tmp_path, "fp16", [1], {"keep_fp32": kept}, quiet)
        far.append(np.abs(answers(tmp_path, built, 1) - want).max())
    assert far[1] < far[0] / 10
    assert "--precisionConstraints=obey" in built["options"]["trtexec"]
    with pytest.raises(UsageError, match="no such node"):
        build(graphs.plain, tmp_path, "fp16", [1], {"keep_fp32": ["nothing"]}, quiet)


def test_a_device_without_fast_types_is_flagged(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compat.weakly_typed(trt):
        pytest.skip("this version does not tell")
    for name in ("platform_has_fast_fp16", "platform_has_fast_int8"):
        monkeypatch.setattr(trt.Builder, name, False)
    built = build(graphs.quantized, tmp_path, "int8", [1], {"int8_mode": "explicit"}, quiet)
    assert {"no-fast-fp16", "no-fast-int8"} <= set(built["flags"])


def test_a_level_that_a_version_lacks_is_flagged(
    trt: Any, surface: str, cuda_ledger: Any, graphs: Any, tmp_path: Path
) -> None:
    options = {"optimization_level": 5, "avg_timing": 4, "sparse": True}
    built = build(graphs.plain, tmp_path, "fp32", [1], options, quiet)
    assert ("no-optimization-level" in built["flags"]) is (surface == "8.5.2")


def test_what_cannot_be_built(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, calibration: Any) -> None:
    with pytest.raises(BuildError, match="quantized graph"):
        build(graphs.plain, tmp_path, "int8", [1], {"int8_mode": "explicit"}, quiet)
    with pytest.raises(UsageError, match="batch"):
        build(graphs.plain, tmp_path, "fp32", [0], {}, quiet)
    implicit = {"int8_mode": "implicit", "calibration": calibration}
    if compat.has_calibrator(trt):
        with pytest.raises(UsageError, match="images"):
            build(graphs.plain, tmp_path, "int8", [1], {**implicit, "calibration": None}, quiet)
    else:
        with pytest.raises(IncompatibleError, match="no calibrator"):
            build(graphs.plain, tmp_path, "int8", [1], implicit, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["entropy", "minmax"])
def test_tensorrt_calibrates_itself(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, calibration: Any, mode: str
) -> None:
    if not compat.has_calibrator(trt):
        pytest.skip("this version has no calibrators")
    options = {"int8_mode": "implicit", "calibration": {**calibration, "algorithm": mode}}
    built = build(graphs.plain, tmp_path, "int8", [1, 4], options, quiet)
    want = expected(graphs.plain.read_bytes(), images(4))
    got = answers(tmp_path, built, 4)
    assert not np.array_equal(got, want)
    np.testing.assert_allclose(got, want, atol=0.15 * np.abs(want).max())
    assert built["options"]["int8_mode"] == "implicit"
    assert "int8" in built["achieved"]


def test_a_fixed_graph_calibrates_on_every_image(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, calibration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compat.has_calibrator(trt):
        pytest.skip("this version has no calibrators")
    from engines.tensorrt import calibrator

    made: List[Any] = []
    original = calibrator.make
    monkeypatch.setattr(calibrator, "make", lambda *rest: made.append(original(*rest)) or made[-1])  # type: ignore[func-returns-value]
    build(graphs.fixed, tmp_path, "int8", [1], {"int8_mode": "implicit", "calibration": calibration}, quiet)
    assert (made[0].fed, made[0].count) == (12, 12)


def test_progress_is_told_from_the_callers_thread(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, heard: Any
) -> None:
    import threading

    lines, keep = heard
    threads = set()

    def progress(what: str, done: int, total: int) -> None:
        threads.add(threading.get_ident())
        keep(what, done, total)

    build(graphs.plain, tmp_path, "fp32", [1], {}, progress)
    assert threads == {threading.get_ident()}
    assert lines[0] == ("building", 0, 0)
    if hasattr(trt, "IProgressMonitor"):
        assert any(what.startswith("building: ") and 0 < done <= total for what, done, total in lines)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the pipe is gone")])
def test_a_build_ends_where_progress_fails(
    trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path, error: BaseException
) -> None:
    def progress(what: str, done: int, total: int) -> None:
        raise error

    with pytest.raises(type(error)):
        build(graphs.plain, tmp_path, "fp32", [1], {}, progress)
    assert not list(tmp_path.iterdir())


_INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys, tensorrt, time
from pathlib import Path
from engines.tensorrt import build

steps = tensorrt.Builder.build_serialized_network

def slow(self, network, config):
    time.sleep(0.5)
    return steps(self, network, config)

tensorrt.Builder.build_serialized_network = slow
try:
    build(Path(sys.argv[1]), Path(sys.argv[2]), "fp32", [1], {}, lambda *told: print(told, flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_control_c_stops_a_build_and_leaves_nothing(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[3])
    process: Optional[Any] = None
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _INTERRUPTED, str(graphs.plain), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        assert "building" in process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        if process is not None and process.poll() is None:
            process.kill()
    assert said.splitlines()[-1] == "interrupted"
    assert process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_second_build_of_one_process(trt: Any, cuda_ledger: Any, graphs: Any, tmp_path: Path) -> None:
    from engines import tensorrt as backend

    for _ in range(2):  # importing a module named as the function would take the function's place
        assert backend.build(graphs.plain, tmp_path, "fp32", [1], {}, quiet)["files"] == ["model.plan"]
