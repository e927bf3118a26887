"""Our latency beside that of OpenVINO's benchmark_app: `python -m bench.peers.benchmark_app BUNDLE --batch 1`.

Both run the same model at the same batch and inference precision, one synchronous request at a time. Each round is a
fresh process in which both loops take turns on one compiled model: where a process's memory lies changes the latency by
5% and more from one process to the next, and is no matter of loops. What we compile is compiled too, and must have the
same properties. benchmark_app runs as it is: its own loop, its own options, its JSON report. That report rounds
latencies to 10 µs, which is 2% of 0.5 ms, so the values that its loop returns are taken before they are rounded; the
last is checked against the report.

Its latency is what the request says of itself, without the call from Python (ResNet-34 in INT8, batch 1: 3% of 0.5 ms);
ours is the whole call, copies of inputs and outputs included. So three ratios are given: ours to its latency, as both
report it; `alike`, what our requests say of themselves to what its requests say, which decides; and `mean`, whole calls
on both sides: our mean to its time in all over its iterations.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

import engines
from bench import loop
from bench.inputs import feeds
from bench.peers import turns
from bench.rounds import Target
from engines import child, jsonfile, manifest, scratch
from engines.errors import IncompatibleError, OptimizeError, UsageError, outcome
from engines.spec import Progress, Query, RunnerSpec, quiet

LOW, HIGH = 0.98, 1.02
"""The ratio of medians, ours to theirs, that says both measure the same thing."""

_REPEATS = 3
"""Times that the rounds are measured at most: more are added while the interval is in and out of the limits."""

STAGE = "bench.peers.benchmark_app:benchmark"
BESIDE = "bench.peers.benchmark_app:beside"

_TURNS, _QUERIES = 10, 5
"""Turns of each loop in a process; queries of each turn at least."""

Loop = Callable[..., Tuple[Any, ...]]


def compare(
    path: Path, batch: int = 1, rounds: int = 7, seconds: int = 2, precision: str = "", progress: Progress = quiet
) -> Dict[str, Any]:
    """Measure a model with both, in turns.

    Args:
        path: An OpenVINO bundle, or an `.xml` or `.onnx` file.
        batch: Images in a query.
        rounds: Fresh processes.
        seconds: That each loop runs in a process.
        precision: Inference precision (f32, bf16, f16); that of the bundle, else f32.
        progress: Told the rounds done.

    Returns:
        `model`, `batch`, `inference_precision`, `rounds`, `ours_ms`, `ours_alike_ms` and `theirs_ms` (medians by
        round), `ratio` of the first to the last with its `interval` (of the rounds, each the median of its turns),
        `alike` ({`ratio`, `interval`} of the second to the last), `mean` (the same of whole calls on both sides),
        `within` ([low, high]) and `verdict` (of `bench.peers.turns`, by `alike`). While that is open, as many rounds
        are added, twice at most.

    Raises:
        UsageError: Not a model that OpenVINO runs.
        IncompatibleError: OpenVINO is missing, or the bundle will not run here.
        OptimizeError: The two are not compiled alike.
    """
    target, peer = sides(Path(path), precision)
    arguments = {**peer, "spec": target.spec.to_json(), "batch": batch, "seconds": seconds}
    done: List[Dict[str, float]] = []
    for most in range(rounds, (_REPEATS + 1) * rounds, rounds):
        while len(done) < most:
            progress("rounds", len(done), most)
            done.append(child.call(BESIDE, {**arguments, "ours_first": len(done) % 2 == 0}))
        progress("rounds", most, most)
        found = {name: [one[name] for one in done] for name in done[0]}
        ratio, alike, mean = (turns.ratio(found[name], [1.0] * most) for name in ("ratio", "alike", "mean"))
        said = turns.verdict(alike, LOW, HIGH)
        if said != turns.OPEN:
            break
    return {
        "model": Path(path).name,
        "batch": batch,
        "inference_precision": peer["precision"],
        "rounds": len(done),
        **{name: found[name] for name in ("ours_ms", "ours_alike_ms", "theirs_ms")},
        **ratio,
        "alike": alike,
        "mean": mean,
        "within": [LOW, HIGH],
        "verdict": said,
    }


def sides(path: Path, precision: str = "") -> Tuple[Target, Dict[str, Any]]:
    """Our target, and the arguments of `benchmark` without batch and seconds.

    Raises:
        UsageError: Not a model that OpenVINO runs.
    """
    if path.is_dir():
        about = manifest.read(path)
        if about["backend"] != "openvino":
            raise UsageError(f"{path} is an engine of {about['backend']}; benchmark_app runs those of openvino")
        spec = manifest.runner_spec(path).with_(threads=0)
    elif path.suffix in (".xml", ".onnx") and path.is_file():
        spec = RunnerSpec(path=str(path.resolve()), kind="onnx", backend="openvino")
    else:
        raise UsageError(f"{path} is not an OpenVINO bundle, an .xml or an .onnx file")
    settings = {**spec.options, "inference_precision": precision or spec.options.get("inference_precision") or "f32"}
    spec = spec.with_(options=settings)
    target = Target(path.name, "engine", "", "", "openvino", {}, 0, spec)
    peer = {"path": spec.path, "precision": settings["inference_precision"]}
    return target, {**peer, "threads": int(settings.get("threads", 0))}


def benchmark(
    path: str,
    batch: int,
    precision: str,
    threads: int,
    seconds: int,
    throughput: bool = False,
    progress: Progress = quiet,
) -> Dict[str, float]:
    """Run benchmark_app on a model in this process, which must be a fresh one: a child's stage.

    With `throughput` it keeps as many requests running as it thinks best.

    Returns:
        `median_ms` of what its requests say, `mean_ms` of its total time over its iterations.

    Raises:
        IncompatibleError: benchmark_app is missing.
        OptimizeError: It failed, or its report says something else than its loop.
    """
    median, results = _run(path, batch, precision, threads, seconds, throughput)
    iterations = int(results["total number of iterations"])
    return {"median_ms": median, "mean_ms": float(results["total execution time (ms)"]) / iterations}


def beside(
    path: str,
    batch: int,
    precision: str,
    threads: int,
    seconds: int,
    spec: Dict[str, Any],
    ours_first: bool,
    progress: Progress = quiet,
) -> Dict[str, float]:
    """Run benchmark_app in this process, which must be a fresh one, and our loop in turns with its: a child's stage.

    Returns:
        Medians of the turns: `ours_ms` of whole calls, `ours_alike_ms` and `theirs_ms` of what the requests say, and
        `ratio` and `alike` of the first and the second to the third within each turn, and `mean` of our mean call to
        theirs.

    Raises:
        See `benchmark`; OptimizeError also where ours is compiled with other properties.
    """
    calls: List[float] = []
    alike: List[float] = []
    theirs: List[float] = []
    means: List[float] = []
    their_means: List[float] = []

    def taking_turns(main_loop: Loop, app: Any, requests: Any, *given: Any) -> Tuple[Any, ...]:
        shortest = _QUERIES * requests[0].latency / 1e3
        app.duration_seconds = max(seconds / _TURNS, shortest)
        with _ours(spec, batch, requests[0].get_compiled_model()) as (query, said):
            for turn in range(2 * _TURNS):
                if (turn % 2 == 0) == ours_first:
                    del said[:]
                    samples = loop.measure(query, 0.0, app.duration_seconds)
                    calls.append(float(np.median(samples)) / 1e6)
                    alike.append(statistics.median(said))
                    means.append(float(samples.mean()) / 1e6)
                else:
                    returned = main_loop(app, requests, *given)
                    theirs.append(float(returned[1]))
                    their_means.append(1e3 * float(returned[5]) / int(returned[6]))  # seconds in all, iterations
        return returned

    _run(path, batch, precision, threads, seconds, False, taking_turns)
    pairs = ((calls, theirs), (alike, theirs), (means, their_means))
    columns = (calls, alike, theirs, *([a / b for a, b in zip(*pair)] for pair in pairs))
    names = ("ours_ms", "ours_alike_ms", "theirs_ms", "ratio", "alike", "mean")
    return dict(zip(names, map(statistics.median, columns)))


@contextlib.contextmanager
def _ours(spec: Dict[str, Any], batch: int, compiled: Any) -> Iterator[Tuple[Query, List[float]]]:
    """Our query on a model that is compiled already, and the list to which its requests add their latencies, in ms."""
    import openvino as ov

    said: List[float] = []
    compile_model, infer = ov.Core.compile_model, ov.InferRequest.infer

    def shared(core: Any, *given: Any) -> Any:
        own = compile_model(core, *given)
        other = [name for name in own.get_property("SUPPORTED_PROPERTIES") if not _equal(own, compiled, name)]
        if other:
            raise OptimizeError(f"ours is compiled with other properties than benchmark_app's: {', '.join(other)}")
        return compiled

    def told(request: Any, *given: Any, **named: Any) -> Any:
        result = infer(request, *given, **named)
        said.append(request.latency)
        return result

    ov.Core.compile_model, ov.InferRequest.infer = shared, told
    try:
        with engines.open(RunnerSpec.from_json(spec)) as runner:
            yield runner.bind(feeds(runner, batch)), said
    finally:
        ov.Core.compile_model, ov.InferRequest.infer = compile_model, infer


def _equal(one: Any, other: Any, name: str) -> bool:
    return str(one.get_property(name)) == str(other.get_property(name))


def _run(
    path: str,
    batch: int,
    precision: str,
    threads: int,
    seconds: int,
    throughput: bool,
    instead: Callable[..., Tuple[Any, ...]] = lambda main_loop, *given: main_loop(*given),
) -> Tuple[float, Dict[str, Any]]:
    """Run benchmark_app; the median that its loop returned, and the results of its report.

    `instead` is called in the place of its loop, with that loop and what it is given.
    """
    try:
        import openvino as ov
        from openvino.tools.benchmark import main as app
        from openvino.tools.benchmark.benchmark import Benchmark
    except ImportError as error:
        raise IncompatibleError(f"benchmark_app is missing: {error}", "pip install openvino") from None
    shapes = ",".join(_shape(port, batch) for port in ov.Core().read_model(path).inputs)
    returned: List[Any] = []
    main_loop = Benchmark.main_loop

    failed: List[Exception] = []

    def kept(app: Any, *given: Any) -> Any:
        try:
            returned.append(instead(main_loop, app, *given))
        except Exception as error:  # benchmark_app logs it and exits
            failed.append(error)
            raise
        return returned[-1]

    Benchmark.main_loop = kept
    with scratch.folder() as folder:
        options = {
            "-m": path,
            "-d": "CPU",
            "-api": "async" if throughput else "sync",
            "-hint": "throughput" if throughput else "latency",
            "-infer_precision": precision,
            "-shape": shapes,
            "-ip": "f32",
            "-t": str(seconds),
            "-report_type": "no_counters",
            "-report_folder": folder,
            **({"-nthreads": str(threads)} if threads else {}),
        }
        sys.argv = ["benchmark_app", *[word for pair in options.items() for word in pair], "-json_stats"]
        try:
            app.main()
        except SystemExit as error:
            raise failed[0] if failed else OptimizeError(f"benchmark_app ended with {error.code}") from None
        report = Path(folder, "benchmark_report.json")
        if not report.is_file() or not returned:
            raise OptimizeError("benchmark_app wrote no report", "run again with OPTIMIZE_DEBUG=1")
        results = jsonfile.read(report)["execution_results"]
    median = float(returned[0][1])
    if abs(median - float(results["latency (ms)"])) > 0.006:
        raise OptimizeError(f"benchmark_app reports {results['latency (ms)']} ms, its loop returned {median:.4f} ms")
    return median, results


def _shape(port: Any, batch: int) -> str:
    """benchmark_app's way to say a shape: `image[64,32,32,3]`."""
    dims = [batch if index == 0 else dim.get_length() for index, dim in enumerate(port.partial_shape)]
    return f"{port.get_any_name()}[{','.join(map(str, dims))}]"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Print the comparison as JSON; 0 where both agree, 3 where they do not or it stays open."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.benchmark_app", description=compare.__doc__)
    parser.add_argument("model", type=Path, help="an OpenVINO bundle, or an .xml or .onnx file")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--precision", default="", help="f32, bf16 or f16; the bundle's own by default")
    given = parser.parse_args(arguments)
    try:
        found = compare(given.model, given.batch, given.rounds, given.seconds, given.precision)
    except OptimizeError as error:
        message, code, hint = outcome(error)
        sys.stderr.write(f"error: {message}\n" + (f"  try: {hint}\n" if hint else ""))
        return code
    sys.stdout.write(jsonfile.dumps(found))
    return 0 if found["verdict"] == turns.SAME else 3


if __name__ == "__main__":
    sys.exit(main())
