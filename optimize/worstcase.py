"""`optimize wcet`: how long one inference may take, measured here or from timings that another tool took."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from bench import interference as loads
from bench import layertail, longrun, timings
from bench.rounds import Target
from bench.timings import Timings
from engines import jsonfile
from engines.errors import UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.targets import bench_targets

PathLike = Union[str, Path]

QUIET = ""

_SNIFFED = 4096


def wcet(
    what: PathLike,
    batch: Optional[int] = None,
    samples: int = longrun.SAMPLES,
    deadline_ms: Optional[float] = None,
    interference: str = "",
    probabilities: Optional[Sequence[float]] = None,
    layers: bool = False,
    target: str = "",
    column: str = "",
    unit: str = "",
    warmup_s: float = longrun.WARMUP_S,
    data: Optional[str] = None,
    backend: str = "auto",
    threads: int = 0,
    seed: int = 0,
    out: Optional[PathLike] = None,
    command: str = "",
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Describe and extrapolate the times of one query.

    Args:
        what: Engine bundle, ONNX file or original to measure; or a run file, a CSV or the JSON of `trtexec
            --exportTimes` that holds times.
        batch: Images in a query, 1 by default; of a run file which rows.
        samples: Queries to measure.
        deadline_ms: Count the queries that take longer.
        interference: Loads to measure beside, too: `cpu:50,memory:2,io` measures with each of them.
        probabilities: Per inference; 1e-3, 1e-6 and 1e-9 by default.
        layers: Find the layers that the slow queries are slow in, too.
        target: Which rows of a run file.
        column, unit: Of a CSV: see `bench.timings.read`.
        warmup_s: Seconds of queries before the first that is kept.
        data: Test images to feed; random ones by default.
        backend, threads: How the model is run.
        seed: Of random inputs and of the bootstrap.
        out: Run file to write; None writes none.
        command: That was typed, kept in the run file.
        progress: Told what happens.
        source: input_shape, preprocess and the others of `optimize.sources.recognise`.

    Returns:
        `schema` (`optimize.tail/1`), `series` and `slowdowns`. One of the series is what
        `bench.tail.estimate.estimate` returns, with `name`, `source`, `first_ms`, `interference` (in words, empty where
        nothing ran beside it), `deadline` (`bench.tail.deadline.misses` or None), `out_of_sample` and `layers`
        (`bench.layertail`, or None). A slowdown has `interference` and how many times as long as without it the
        `median`, `p99` and `hwm` are.

    Raises:
        UsageError: Options that do not go together, or times that are none.
        DamagedError: A file that holds something else.
        OptimizeError: The target cannot be measured.
    """
    from bench.tail import deadline
    from bench.tail.estimate import MORE, PROBABILITIES, SCHEMA, check_probabilities

    wanted = tuple(probabilities or PROBABILITIES)
    check_probabilities(wanted)  # told before minutes of measuring, not after
    if deadline_ms is not None:
        deadline.check(deadline_ms)
    kept = None if out is None else Path(out)
    if kept is not None:
        jsonfile.writable(kept, "-o wcet.json")
    if is_timings(what):
        given = {"--interference": interference, "--layers": layers, "--data": data}
        for option in (name for name, value in given.items() if value):
            raise UsageError(f"{what} holds times that were taken before: {option} needs an engine to measure")
        if samples != longrun.SAMPLES:
            raise UsageError(f"{what} holds the samples that there are: --samples needs an engine to measure")
        if kept is not None:
            raise UsageError("-o keeps what was measured, and nothing is measured here", "--json prints the result")
        found = timings.read(what, column, unit, target, batch)
        series = [{**_described(one, wanted, deadline_ms, seed), "layers": None} for one in found]
        for refused in (one["refused"] for one in series if one["refused"]):
            refused["hint"] = _LONGER if refused["hint"] == MORE else refused["hint"]
        return {"schema": SCHEMA, "series": series, "slowdowns": []}
    asked = loads.kinds(interference) if interference else []
    engine, *_ = bench_targets([what], None, None, backend, threads, source)
    rows, states, carried = [], [], None
    if layers:  # first: what tells none of its layers is refused before hours of measuring
        carried = layertail.measure(engine.spec, batch or 1, data=data or "", seed=seed, progress=progress)
    for load in [None, *asked]:
        row, state = _measured(engine, batch or 1, samples, warmup_s, data or "", seed, load, progress)
        rows.append(row)
        states.append(state)
    series = []
    for row in rows:
        progress("looking at the tail", 0, A_LINE)
        row["tail"] = {**_described(timings.of_row(row), wanted, deadline_ms, seed), "layers": None}
        series.append(row["tail"])
    series[0]["layers"] = carried
    if kept is not None:
        _keep(kept, rows, states, samples, command)
    return {"schema": SCHEMA, "series": series, "slowdowns": slowdowns(series, rows)}


_LONGER = "measure more: optimize wcet BUNDLE --samples 100000, or a longer --duration of bench"


def is_timings(what: PathLike) -> bool:
    """Whether a path is a file of text: models and bundles are none."""
    path = Path(what)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        begin = file.read(_SNIFFED)
    if begin.startswith(timings.UTF16):
        return True
    return not any(byte < 32 and byte not in b"\t\r\n" for byte in begin)


def _measured(
    engine: Target,
    batch: int,
    samples: int,
    warmup_s: float,
    data: str,
    seed: int,
    load: Optional[loads.Kind],
    progress: Progress,
) -> Tuple[Dict[str, Any], Tuple[Dict[str, Any], Dict[str, Any]]]:
    """A row, and the state of the machine before and after."""
    with loads.interfering([] if load is None else [load], progress) as beside:
        found = longrun.measure_many(engine.spec, batch, samples, warmup_s, data, seed, progress)
    return longrun.row(engine, batch, found, beside), (found.before, found.after)


def _described(
    found: Timings, probabilities: Sequence[float], deadline_ms: Optional[float], seed: int
) -> Dict[str, Any]:
    from bench.tail import deadline
    from bench.tail.estimate import estimate, out_of_sample

    return {
        "name": found.name,
        "source": found.source,
        "first_ms": found.first_ms,
        "interference": (found.interference or {}).get("kinds", QUIET),
        **estimate(found.samples_ms, probabilities, seed=seed),
        "deadline": None if deadline_ms is None else deadline.misses(found.samples_ms, deadline_ms),
        "out_of_sample": out_of_sample(found.samples_ms),
    }


def slowdowns(series: Sequence[Dict[str, Any]], rows: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """How many times as long queries take beside each load as without."""
    base, base_row = series[0], rows[0]
    return [
        {
            "interference": one["interference"],
            "median": one["median_ms"] / base["median_ms"],
            "p99": row["p99_ms"] / base_row["p99_ms"],
            "hwm": one["hwm_ms"] / base["hwm_ms"],
        }
        for one, row in zip(series[1:], rows[1:])
    ]


def _keep(
    out: Path,
    rows: List[Dict[str, Any]],
    states: List[Tuple[Dict[str, Any], Dict[str, Any]]],
    samples: int,
    command: str,
) -> None:
    from bench import runs

    settings = {"samples": samples, "command": command}
    runs.write(out, runs.make(rows, states[0][0], states[-1][1], settings))
