"""Standard loads: MLPerf LoadGen asks the queries of its four scenarios, times them, and gives its own verdict.

LoadGen is the load generator of MLPerf Inference (https://github.com/mlcommons/inference/tree/master/loadgen). What it
measures here is no MLPerf result: those are made by the rules of MLCommons, with its models and its data.
"""

from __future__ import annotations

import gc
import json
import math
import queue
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from engines import child
from engines.device import version_of
from engines.errors import IncompatibleError, OptimizeError
from engines.spec import Progress, Runner, RunnerSpec, quiet

SCENARIOS: Dict[str, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
"""By the name that users type: LoadGen's."""

DISTRIBUTION = "mlcommons_loadgen"

HINT = "pip install mlcommons-loadgen (Linux on ARM builds it: sudo apt install g++ python3-dev)"

LATENCY_S = 0.015
"""Bound of the server scenario for image classifiers. Source: MLPerf Inference rules, ResNet-50, 99% within 15 ms."""

DURATION_S = 10.0
"""LoadGen's own default; MLPerf asks for 600 s."""

_SAMPLES = 64
"""Different inputs that LoadGen chooses from, at least."""

_WARMUP_S = 0.2

Samples = List[Tuple[int, int]]
"""Of LoadGen: the id to answer with, and the index of the input."""

Answer = Callable[[Samples], None]
"""Runs as many samples as fit into one query, and tells LoadGen that they are done."""


def require() -> str:
    """The version of LoadGen that is installed.

    Raises:
        IncompatibleError: None is.
    """
    version = version_of(DISTRIBUTION)
    if not version:
        raise IncompatibleError("--load needs MLPerf LoadGen, which is not installed", HINT)
    return version


def measure(
    spec: RunnerSpec,
    scenario: str,
    batch: int,
    folder: Path,
    row: Mapping[str, Any],
    duration_s: float = DURATION_S,
    qps: Optional[float] = None,
    latency_s: float = LATENCY_S,
    data: str = "",
    seed: int = 0,
    env: Optional[Dict[str, str]] = None,
) -> Dict[str, Any]:
    """Let LoadGen drive one scenario, in a fresh child process.

    Args:
        spec: How to open the target.
        scenario: One of `SCENARIOS`.
        batch: Samples that are run together: those of a query in multi-stream, of a part of the one query in offline.
        folder: Where LoadGen writes its logs; made where it is missing.
        row: What our own loop measured at this batch: `p50_ms` and `images_per_s` tell LoadGen what to expect.
        duration_s: That a test takes at least.
        qps: Queries a second that the server scenario asks, in random distances (Poisson); half of `images_per_s` by
            default.
        latency_s: Bound of the server scenario for 99% of the queries.
        data, seed: See `bench.inputs.feeds`.
        env: Environment variables of the child.

    Returns:
        See `parse`; `settings` has the `batch` too.

    Raises:
        IncompatibleError: LoadGen is not installed.
        OptimizeError: The target failed, as its own class; or LoadGen has given no verdict.
    """
    require()
    folder.mkdir(parents=True, exist_ok=True)
    settings: Dict[str, float] = {"min_duration_ms": round(1e3 * duration_s), "min_query_count": 1}
    if scenario == "single-stream":
        settings["single_stream_expected_latency_ns"] = max(1, round(1e6 * row["p50_ms"]))
    elif scenario == "multi-stream":
        settings["multi_stream_expected_latency_ns"] = max(1, round(1e6 * row["p50_ms"]))
        settings["multi_stream_samples_per_query"] = batch
    elif scenario == "offline":
        settings["offline_expected_qps"] = 1.1 * row["images_per_s"]  # too low a guess would end too early
    else:
        settings["server_target_qps"] = qps or 0.5 * row["images_per_s"]
        settings["server_target_latency_ns"] = round(1e9 * latency_s)
    ask = {"spec": spec.to_json(), "scenario": scenario, "batch": batch, "folder": str(folder), "settings": settings}
    child.call("bench.loadgen:drive", {**ask, "data": data, "seed": seed}, env=env)
    found = parse(folder)
    found["settings"]["batch"] = batch
    return found


def drive(
    spec: Dict[str, Any],
    scenario: str,
    batch: int,
    folder: str,
    settings: Dict[str, Any],
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
) -> None:
    """Open a target and let LoadGen query it: the child's part of `measure`.

    Args:
        spec: RunnerSpec as JSON.
        scenario, batch, folder, data, seed: See `measure`.
        settings: Fields of LoadGen's `TestSettings`.
        progress: Told nothing.

    Raises:
        OptimizeError: The target cannot be opened, or fails.
    """
    import mlperf_loadgen as lg

    import engines

    asked = lg.TestSettings()
    asked.scenario = getattr(lg.TestScenario, SCENARIOS[scenario])
    asked.mode = lg.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(asked, name, value)
    logs = lg.LogSettings()
    logs.log_output.outdir = folder
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        answer, count = _answers(lg, runner, batch, data, seed)
        served = _Served(lg, answer, batch, aside=scenario == "server")
        sut, qsl = lg.ConstructSUT(served.issue, _nothing), lg.ConstructQSL(count, count, _nothing, _nothing)
        gc.collect()
        gc.disable()
        try:
            # a file `audit.config` of the working folder would change the settings unseen
            lg.StartTestWithLogSettings(sut, qsl, asked, logs, str(Path(folder, "no audit.config")))
        finally:
            gc.enable()
            served.end()  # raises what failed; LoadGen is then left as it is, for this process ends
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)


def _nothing(*_: Any) -> None:
    """LoadGen's samples are in memory from the start, and no query waits for others."""


def _answers(lg: Any, runner: Runner, batch: int, data: str, seed: int) -> Any:
    """How a query is answered, after a warm-up, and how many different samples there are."""
    import numpy as np

    from bench.inputs import feeds

    fixed = any(tensor.shape[:1] != (None,) for tensor in runner.inputs)
    count = batch if fixed else max(_SAMPLES, batch)
    pool = feeds(runner, count, data, seed)
    held = {name: array[:batch].copy() if array.ndim else array for name, array in pool.items()}
    query = runner.bind(held)
    ready = time.monotonic() + _WARMUP_S
    query()
    while time.monotonic() < ready:
        query()
    pairs = [(pool[name], array) for name, array in held.items() if array.ndim]

    def answer(samples: Samples) -> None:
        rows = [index for _, index in samples]
        for source, target in pairs:  # behind a part that is not full, older samples run along
            np.take(source, rows, axis=0, out=target[: len(rows)], mode="clip")
        query()
        _done(lg, samples)

    return answer, count


def _done(lg: Any, samples: Samples) -> None:
    lg.QuerySamplesComplete([lg.QuerySampleResponse(number, 0, 0) for number, _ in samples])


class _Served:
    """What LoadGen calls. It does so from C++: what fails is kept, and raised again when LoadGen has returned.

    In the server scenario queries come at their own time: they are put aside for a thread that answers one after the
    other. In the others LoadGen waits for the answer.
    """

    def __init__(self, lg: Any, answer: Answer, batch: int, aside: bool) -> None:
        self._lg, self._answer, self._batch = lg, answer, batch
        self._failed: List[BaseException] = []
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True) if aside else None
        if self._thread:
            self._thread.start()

    def issue(self, given: Sequence[Any]) -> None:
        """Take a query. An exception that leaves it ends the test."""
        if self._failed:
            raise self._failed[0]
        samples = [(sample.id, sample.index) for sample in given]  # they are LoadGen's own, and gone afterwards
        if self._thread:
            self._waiting.put(samples)
            return
        try:
            for start in range(0, len(samples), self._batch):
                self._answer(samples[start : start + self._batch])
        except BaseException as error:
            self._failed.append(error)
            raise

    def _work(self) -> None:
        while True:
            samples = self._waiting.get()
            if samples is None:
                return
            try:
                if not self._failed:
                    self._answer(samples)
                    continue
            except BaseException as error:  # of the thread: `end` raises it
                self._failed.append(error)
            _done(self._lg, samples)

    def end(self) -> None:
        """Wait for the thread.

        Raises:
            BaseException: What an answer has raised.
        """
        if self._thread:
            self._waiting.put(None)
            self._thread.join()
        if self._failed:
            raise self._failed[0]


_LATENCIES = {"p50": "50.00", "p90": "90.00", "p95": "95.00", "p97": "97.00", "p99": "99.00", "p99_9": "99.90"}
_RATES = {
    "samples_per_s": ("result_samples_per_second", "result_completed_samples_per_sec"),
    "queries_per_s": ("result_qps_without_loadgen_overhead",),
}
_SETTINGS = (
    "min_duration_ms",
    "min_query_count",
    "samples_per_query",
    "target_qps",
    "target_latency_ns",
    "target_latency_percentile",
    "performance_sample_count",
    "schedule_rng_seed",
)
_MET = {
    "result_perf_constraints_met": "the latency bound",
    "result_min_duration_met": "the least duration",
    "result_min_queries_met": "the least number of queries",
    "early_stopping_met": "enough queries for the percentile (early stopping)",
}


def parse(folder: Path) -> Dict[str, Any]:
    """What LoadGen has written into its detailed log; nothing is computed again.

    Returns:
        `tool`, `version`, `scenario`, `settings` (in LoadGen's words), `valid` (its verdict), `missed` (what it names
        as not met), `said` (its own words on that), `queries`, `latencies` (`p50_ms` ..., of a query), `samples_per_s`
        (offline, server) or `queries_per_s` (single-stream), null where LoadGen tells none.

    Raises:
        OptimizeError: There is no verdict in it.
    """
    log = _entries(folder / "mlperf_log_detail.txt")
    if "result_validity" not in log:
        raise OptimizeError(f"{folder}: LoadGen has ended without a verdict", "look into its logs there")
    names = {key: (f"{number}_percentile_per_query", f"{number}_percentile") for key, number in _LATENCIES.items()}
    names.update({key: (f"{key}_query", key) for key in ("min", "max", "mean")})
    return {
        "tool": "MLPerf LoadGen",
        "version": str(log["loadgen_version"]).split(" ")[0],
        "scenario": next(name for name, theirs in SCENARIOS.items() if theirs == log["effective_scenario"]),
        "settings": {name: log.get(f"effective_{name}") for name in _SETTINGS},
        "valid": log["result_validity"] == "VALID",
        "missed": [what for key, what in _MET.items() if log.get(key) is False],
        "said": " ".join(f"{log.get('result_invalid_reason', '')} {log.get('early_stopping_result', '')}".split()),
        "queries": log.get("result_query_count"),
        "latencies": {
            f"{key}_ms": _first(log, [f"result_{name}_latency_ns" for name in keys], 1e-6)
            for key, keys in names.items()
        },
        **{key: _first(log, keys) for key, keys in _RATES.items()},
    }


def _entries(path: Path) -> Dict[str, Any]:
    """The values of a detailed log by key, the last of each."""
    found: Dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line.partition(":::MLLOG ")[2])
            found[entry["key"]] = entry["value"]
        except (ValueError, KeyError):  # a line that was cut, or a number such as inf
            continue
    return found


def _first(log: Mapping[str, Any], keys: Sequence[str], factor: float = 1.0) -> Optional[float]:
    value = next((log[key] for key in keys if key in log), None)
    return float(value) * factor if isinstance(value, (int, float)) and math.isfinite(value) else None
