"""Our latency beside that of OpenVINO's benchmark_app: `python -m bench.peers.benchmark_app BUNDLE --batch 1`.

Both run the same model at the same batch and inference precision, one synchronous request at a time, in fresh
processes round after round; in each round both are there at once and run in slices of time (`bench.peers.slices`), ours
first in even rounds. benchmark_app runs as it is: its own loop, its own options, its JSON report. That report rounds
latencies to 10 µs, which is 2% of 0.5 ms, so the value that its loop returns is taken before it is rounded, and checked
against the report.

Its latency is what the request says of itself, without the call from Python (ResNet-34 in INT8, batch 1: 3% of 0.5 ms);
ours is the whole call, copies of inputs and outputs included. So two ratios are given: ours to its latency, as both
report it; and `alike`, what our requests say of themselves to what its requests say, which decides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

import engines
from bench import loop
from bench.inputs import feeds
from bench.peers import slices, turns
from bench.rounds import Target
from engines import jsonfile, manifest, scratch
from engines.errors import IncompatibleError, OptimizeError, UsageError, outcome
from engines.spec import Progress, RunnerSpec, quiet

LOW, HIGH = 0.98, 1.02
"""The ratio of medians, ours to theirs, that says both measure the same thing."""

_REPEATS = 3
"""Times that the rounds are measured at most: more are added while the interval is in and out of the limits."""

STAGE = "bench.peers.benchmark_app:benchmark"
OURS = "bench.peers.benchmark_app:requests"

_WARM_S = 0.5


def compare(
    path: Path, batch: int = 1, rounds: int = 7, seconds: int = 2, precision: str = "", progress: Progress = quiet
) -> Dict[str, Any]:
    """Measure a model with both, in turns.

    Args:
        path: An OpenVINO bundle, or an `.xml` or `.onnx` file.
        batch: Images in a query.
        rounds: Fresh processes of each.
        seconds: That each runs in a round; benchmark_app takes whole seconds.
        precision: Inference precision (f32, bf16, f16); that of the bundle, else f32.
        progress: Told the rounds done.

    Returns:
        `model`, `batch`, `inference_precision`, `rounds`, `ours_ms`, `ours_alike_ms` and `theirs_ms` (medians by
        round), `ratio` of the first to the last with its `interval` (`bench.peers.slices.ratio`), `alike`
        ({`ratio`, `interval`} of the second to the last), `within` ([low, high]) and `verdict` (of `bench.peers.turns`,
        by `alike`). While that is open, as many rounds are added, twice at most.

    Raises:
        UsageError: Not a model that OpenVINO runs.
        IncompatibleError: OpenVINO is missing, or the bundle will not run here.
    """
    target, peer = sides(Path(path), precision)
    peer.update(batch=batch, seconds=2 * seconds, sliced=True)  # by the clock, and half of it is ours
    calls = [(OURS, {"spec": target.spec.to_json(), "batch": batch, "seconds": 2 * seconds}), (STAGE, peer)]
    ours: List[float] = []
    alike: List[float] = []
    theirs: List[float] = []
    for most in range(rounds, (_REPEATS + 1) * rounds, rounds):
        while len(ours) < most:
            progress("rounds", len(ours), most)
            turn = 1 if len(ours) % 2 == 0 else -1
            mine, other = slices.measure(calls[::turn])[::turn]
            ours.append(mine["median_ms"])
            alike.append(mine["request_ms"])
            theirs.append(other["median_ms"])
        progress("rounds", most, most)
        said = turns.verdict(slices.ratio(alike, theirs), LOW, HIGH)
        if said != turns.OPEN:
            break
    return {
        "model": Path(path).name,
        "batch": batch,
        "inference_precision": peer["precision"],
        "rounds": len(ours),
        "ours_ms": ours,
        "ours_alike_ms": alike,
        "theirs_ms": theirs,
        **slices.ratio(ours, theirs),
        "alike": slices.ratio(alike, theirs),
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
    sliced: bool = False,
    progress: Progress = quiet,
) -> Dict[str, float]:
    """Run benchmark_app on a model in this process, which must be a fresh one: the child's part of `compare`.

    With `throughput` it keeps as many requests running as it thinks best; `sliced`, it runs in `slices.measure`, and
    its mean means nothing.

    Returns:
        `median_ms` of what its requests say, `mean_ms` of its total time over its iterations.

    Raises:
        IncompatibleError: benchmark_app is missing.
        OptimizeError: It failed, or its report says something else than its loop.
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

    def kept(app: Any, requests: Any, *given: Any, **named: Any) -> Any:
        if sliced:
            slices.ready(requests[0].latency, progress)
        returned.append(main_loop(app, requests, *given, **named))
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
            raise OptimizeError(f"benchmark_app ended with {error.code}") from None
        report = Path(folder, "benchmark_report.json")
        if not report.is_file() or not returned:
            raise OptimizeError("benchmark_app wrote no report", "run again with OPTIMIZE_DEBUG=1")
        results = jsonfile.read(report)["execution_results"]
    median, iterations = float(returned[0][1]), int(results["total number of iterations"])
    if abs(median - float(results["latency (ms)"])) > 0.006:
        raise OptimizeError(f"benchmark_app reports {results['latency (ms)']} ms, its loop returned {median:.4f} ms")
    return {"median_ms": median, "mean_ms": float(results["total execution time (ms)"]) / iterations}


def requests(spec: Dict[str, Any], batch: int, seconds: float, progress: Progress = quiet) -> Dict[str, float]:
    """Run our engine in our loop, and ask its requests for their own latency: a child's part of `compare`.

    Returns:
        `median_ms` of the queries, `request_ms` of what their requests say.
    """
    import openvino as ov

    said: List[float] = []
    infer = ov.InferRequest.infer

    def told(request: Any, *given: Any, **named: Any) -> Any:
        result = infer(request, *given, **named)
        said.append(request.latency)
        return result

    def begin() -> None:
        if not begun:
            begun.append(len(said))
            slices.ready(statistics.median(said), progress)

    begun: List[int] = []
    ov.InferRequest.infer = told
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        samples = loop.measure(runner.bind(feeds(runner, batch)), _WARM_S, seconds, mark=begin)
    return {"median_ms": float(np.median(samples)) / 1e6, "request_ms": statistics.median(said[begun[0] :])}


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
