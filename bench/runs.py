"""Run files (`optimize.run/1`): immutable raw measurements with their environment and statistics.

`{"schema", "created", "environment", "rows"}`; a row holds every sample, so that any statistic can be computed again.
History: 1, the first.
"""

from __future__ import annotations

import datetime
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from bench import served, spans, stats, usage
from bench.tail.schema import TAIL
from engines import fields, jsonfile
from engines.errors import DamagedError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from bench.rounds import Target

SCHEMA = "optimize.run/1"

LATENCIES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "mean_ms")

COLD = ("load_ms", "first_ms")
"""What a fresh process pays once, before the queries that are timed: opening with binding, and the first query."""

ORIGINAL_ON_CPU = "original-on-cpu"

_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_HASH = re.compile(r"[0-9a-f]{64}")


def milliseconds(nanoseconds: npt.NDArray[Any]) -> List[float]:
    """Samples for a file: milliseconds with 6 significant digits (1 ns of 1 ms), which keeps files small."""
    return [float(f"{value / 1e6:.6g}") for value in nanoseconds.tolist()]


def row(target: Target, batch: int, rounds: Sequence[Dict[str, Any]], achieved: Dict[str, int]) -> Dict[str, Any]:
    """A row of what was measured of one target at one batch; accuracy and speed-up are added later.

    Args:
        target: What was measured.
        batch: Images in a query.
        rounds: Entries with `order`, `started`, `samples_ms`, and `flags` of the machine meanwhile.
        achieved: Layers by precision.

    Returns:
        The fields of DESIGN section 3. `images` is the number of images in the timed queries; `images_per_s` divides it
        by the sum of the samples: at depth 1 that is the elapsed time without the loop's own half microsecond. With
        several `streams` it is the mean rate of the rounds.
        `variation` is `bench.stats.variation`. `load_ms` and `first_ms` are medians of the rounds'; None where one
        of them has none.
    """
    samples = [value for entry in rounds for value in entry["samples_ms"]]
    device = _device(rounds)
    on = next((entry["on"] for entry in rounds if target.role == "original" and entry.get("on")), None)
    variation = stats.variation([entry["samples_ms"] for entry in rounds])
    flags = list(target.flags)
    for entry in rounds:
        flags.extend(flag for flag in entry.get("flags", []) if flag not in flags)
    if variation >= stats.UNSTABLE:
        flags.append("unstable")
    if not stats.settled([entry["samples_ms"] for entry in rounds]):
        flags.append("unsettled")
    device = _device(rounds)
    if device is not None and spans.unstable(device["variation_percent"], device["how"]):
        flags.append("GPU unstable")
    return {
        "target": target.name,
        "role": target.role,
        "form": target.form,
        "backend": target.backend,
        "precision": target.precision,
        "achieved": dict(achieved),
        "batch": batch,
        "threads": target.spec.threads or None,
        "streams": target.streams if target.streams > 1 else None,
        "images": batch * len(samples),
        "dataset": None,
        "origin": "measured",
        "size_bytes": target.size_bytes or None,
        "model_sha256": target.model_sha256 or None,
        "bundle": target.bundle,
        **stats.summary(samples),
        **{name: _median(rounds, name) for name in COLD},
        "images_per_s": batch * _per_s(rounds) or None,
        "rounds": [dict(entry) for entry in rounds],
        "samples_ms": samples,
        "device": device,
        "on": on,
        "usage": usage.of_row(rounds, device, on),
        "served": served.of_row(rounds),
        "top1": None,
        "top1_drop": None,
        "agreement": None,
        "speedup": None,
        "flags": flags,
        "variation": variation,
        "interval": None,
    }


def _median(rounds: Sequence[Dict[str, Any]], name: str) -> Optional[float]:
    told = [float(entry[name]) for entry in rounds if entry.get(name) is not None]
    return statistics.median(told) if len(told) == len(rounds) else None


def _per_s(rounds: Sequence[Dict[str, Any]]) -> float:
    """Queries a second; 0 where no time has passed."""
    rates = [float(entry["queries_per_s"]) for entry in rounds if entry.get("queries_per_s")]
    if rates:
        return sum(rates) / len(rates)
    elapsed = sum(sum(entry["samples_ms"]) for entry in rounds) / 1e3
    return sum(len(entry["samples_ms"]) for entry in rounds) / elapsed if elapsed > 0 else 0.0


def _device(rounds: Sequence[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """trtexec's quantities of a row: those of the round whose compute time is the median; None where no backend has
    them."""
    found = [entry["device"] for entry in rounds if entry.get("device")]
    return dict(sorted(found, key=lambda one: one["compute_ms"]["median"])[(len(found) - 1) // 2]) if found else None


def fastest_original(
    rows: Sequence[Dict[str, Any]], batch: int, threads: Optional[int] = None, streams: Optional[int] = None
) -> Optional[Dict[str, Any]]:
    """The row of the fastest form of the original at a batch, CPU threads and streams, by its median, or None."""
    like = (batch, threads, streams)
    here = [r for r in rows if r["role"] == "original" and (r["batch"], r.get("threads"), r.get("streams")) == like]
    found = [r for r in here if r["p50_ms"] is not None]
    return min(found, key=lambda r: float(r["p50_ms"])) if found else None


def add_speedups(rows: Sequence[Dict[str, Any]], level: float = stats.LEVEL, seed: int = 0) -> None:
    """Fill `speedup` and, with enough rounds, `interval` ([low, high] at `level`) of each row, in place.

    Sides that ran in the same rounds are paired, so that drift cancels. A TensorRT row whose original ran on the CPU
    is flagged: its speed-up compares two machines.
    """
    for one in rows:
        base = fastest_original(rows, one["batch"], one.get("threads"), one.get("streams"))
        if base is None or one["p50_ms"] is None or one["origin"] != "measured" or base["origin"] != "measured":
            continue
        sides = [[entry["samples_ms"] for entry in r["rounds"]] for r in (base, one)]
        turns = [[entry.get("round") for entry in r["rounds"]] for r in (base, one)]
        found = stats.ratio_interval(sides[0], sides[1], level, seed, paired=turns[0] == turns[1])
        one["speedup"] = base["p50_ms"] / one["p50_ms"]
        if base.get("on") == "cpu" and one["backend"].startswith("tensorrt"):
            one["flags"].append(ORIGINAL_ON_CPU)
        low, high = (None, None) if one is base else (found.low, found.high)
        one["interval"] = None if low is None or high is None else [low, high]


def add_accuracy(
    rows: Sequence[Dict[str, Any]],
    target: str,
    accuracy: Dict[str, Any],
    form: Optional[str] = None,
    precision: Optional[str] = None,
) -> None:
    """Put one measurement of accuracy into the rows of a target, in place.

    Args:
        rows: Of a run.
        target: Name of the target; with `form` and `precision` only its rows that have them.
        accuracy: `top1`, `top1_drop`, `agreement`, `dataset` as of `bench.accuracy`; what is missing stays null.
            Other fields (`top5`, `drop_interval`, ...) are kept under `accuracy`.
        form, precision: None matches any.
    """
    for one in rows:
        if one["target"] == target and form in (None, one["form"]) and precision in (None, one["precision"]):
            one.update({k: accuracy.get(k) for k in ("top1", "top1_drop", "agreement", "dataset")})
            one["accuracy"] = {k: v for k, v in accuracy.items() if k != "predictions"}


def make(
    rows: Sequence[Dict[str, Any]],
    before: Dict[str, Any],
    after: Dict[str, Any],
    settings: Optional[Dict[str, Any]] = None,
    failures: Sequence[Tuple[str, str]] = (),
) -> Dict[str, Any]:
    """A run of rows, with the facts of this machine and its state before and after.

    Args:
        rows: Of `bench.rounds.run`.
        before, after: State of the machine.
        settings: How it was measured: rounds, warmup_s, duration_s, iterations, seed, data, command.
        failures: (target, message) of what could not be measured.
    """
    from engines.device import facts

    run = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "environment": {**facts(), "before": before, "after": after},
        "settings": dict(settings or {}),
        "rows": list(rows),
        "failures": [{"target": name, "message": message} for name, message in failures],
    }
    validate(run)
    return run


def validate(value: Any) -> None:
    """Check a run; unknown extra fields are free.

    Raises:
        DamagedError: Names the field that is missing or wrong.
    """
    fields.of_schema(value, "a run", SCHEMA)
    _RUN("run", value)
    _check_present("run", value, _RUN_MORE)
    for place, environment in enumerate([value["environment"], *value.get("environments", [])]):
        name = "run.environment" if not place else f"run.environments[{place - 1}]"
        _check_present(name, environment, _ENVIRONMENT_MORE)
        for when in ("before", "after"):
            _check_present(f"{name}.{when}", environment.get(when) or {}, _STATE_MORE)
    for index, one in enumerate(value["rows"]):
        _check_row(f"rows[{index}]", one)


def _check_present(name: str, value: Dict[str, Any], table: Dict[str, fields.Check]) -> None:
    for field, check in table.items():
        if field in value:
            check(f"{name}.{field}", value[field])


def _check_row(name: str, one: Dict[str, Any]) -> None:
    _check_present(name, one, _ROW_MORE)
    if one["samples_ms"] != [sample for entry in one["rounds"] for sample in entry["samples_ms"]]:
        raise DamagedError(f"{name}.samples_ms is not what its rounds hold, one after the other")
    for index, entry in enumerate(one["rounds"]):
        _check_present(f"{name}.rounds[{index}]", entry, _ROUND_MORE)
        if len(entry.get("starts_ms", entry["samples_ms"])) != len(entry["samples_ms"]):
            raise DamagedError(f"{name}.rounds[{index}].starts_ms: one for each sample is expected")
    if one["origin"] != "measured":
        return
    if not one["samples_ms"]:
        raise DamagedError(f"{name}.samples_ms: a measured row without samples")
    for field, expected in stats.summary(one["samples_ms"]).items():
        if one[field] is None or abs(one[field] - expected) > 1e-6 * abs(expected):
            raise DamagedError(f"{name}.{field} is {one[field]}, its samples give {expected:.6g}")


def read(path: Path) -> Dict[str, Any]:
    """Read and check a run file.

    Raises:
        DamagedError: Not strict JSON, another schema, or a field that is missing or wrong.
        FileNotFoundError: No such file.
    """
    return jsonfile.checked(path, SCHEMA, validate, "measure again: optimize bench")


def write(path: Path, run: Dict[str, Any]) -> None:
    """Check a run and write it atomically.

    Raises:
        DamagedError: A field is missing or wrong.
    """
    validate(run)
    jsonfile.write(path, run)


def merge(runs: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Several runs as one for a report; a row's `run` tells which it is from. Speed-ups stay those within each run.

    Returns:
        A run with the environment of the first; the environments of all are under `environments`.

    Raises:
        UsageError: No run.
    """
    if not runs:
        raise UsageError("no run file was given", "optimize bench TARGET... -o runs.json")
    if len(runs) == 1:
        return runs[0]
    return {
        **runs[0],
        "created": max(run["created"] for run in runs),
        "environments": [run["environment"] for run in runs],
        "rows": [{**one, "run": number} for number, run in enumerate(runs) for one in run["rows"]],
        "failures": [failure for run in runs for failure in run.get("failures", [])],
    }


_ms = fields.null_or(fields.number)
_time = fields.between(0, 1e12)
_sample = fields.a_list(_time)
_ROW = fields.an_object(
    target=fields.word,
    role=fields.one_of("engine", "original"),
    form=fields.word,
    backend=fields.word,
    precision=fields.word,
    achieved=fields.counts,
    batch=fields.whole(1, 1 << 20),
    images=fields.null_or(fields.whole(0, 1 << 53)),
    dataset=fields.null_or(
        fields.an_object(
            name=fields.word,
            n=fields.whole(0, 1 << 40),
            sha256=fields.null_or(fields.matching(_HASH, "a SHA-256 in hex")),
        )
    ),
    origin=fields.one_of("measured", "imported"),
    size_bytes=fields.null_or(fields.whole(0, 1 << 50)),
    **dict.fromkeys(LATENCIES, fields.null_or(_time)),
    images_per_s=_ms,
    rounds=fields.a_list(
        fields.an_object(
            order=fields.whole(0, 1 << 20),
            started=fields.matching(_UTC, "a UTC time such as 2024-05-01T12:00:00Z"),
            samples_ms=_sample,
        )
    ),
    samples_ms=_sample,
    device=fields.null_or(fields.an_object()),
    top1=fields.null_or(fields.between(0, 1)),
    top1_drop=fields.null_or(fields.between(-100, 100)),
    agreement=fields.null_or(fields.between(0, 1)),
    speedup=_ms,
    flags=fields.a_list(fields.word),
)
_RUN = fields.an_object(
    created=fields.matching(_UTC, "a UTC time such as 2024-05-01T12:00:00Z"),
    environment=fields.an_object(),
    rows=fields.a_list(_ROW),
)
_ROW_MORE: Dict[str, fields.Check] = {
    "interval": fields.null_or(fields.a_list(fields.number, 2)),
    "variation": _ms,
    **dict.fromkeys(COLD, fields.null_or(fields.between(0, 1e9))),
    "run": fields.whole(0, 1 << 20),
    "on": fields.null_or(fields.word),
    "threads": fields.null_or(fields.whole(1, 4096)),
    "streams": fields.null_or(fields.whole(2, 4096)),
    "energy": fields.null_or(fields.an_object(rail=fields.word, watts=_ms, idle_watts=_ms, joules_per_image=_ms)),
    "passes": fields.null_or(
        fields.an_object(
            images=fields.whole(1, 1 << 40),
            seconds=fields.a_list(fields.number, 1),
            **dict.fromkeys(("mean_s", "min_s", "max_s", "ms_per_image", "images_per_s"), fields.number),
        )
    ),
    "usage": fields.null_or(
        fields.an_object(
            busy=_ms, busy_by=fields.null_or(fields.word), cpus=_ms, memory_delta_bytes=_ms, peak_rss_bytes=_ms
        )
    ),
    "served": fields.null_or(
        fields.an_object(
            requests=fields.whole(1, 1 << 40), **dict.fromkeys(("wall_ms", *served.SHARES, "batch"), fields.number)
        )
    ),
    "layers": fields.null_or(
        fields.a_list(fields.an_object(name=fields.word, type=fields.word, precision=fields.word, ms=fields.number))
    ),
    "model_sha256": fields.null_or(fields.matching(_HASH, "a SHA-256 in hex")),
    "bundle": fields.null_or(
        fields.an_object(
            path=fields.word, build_key=fields.word, engine_sha256=fields.matching(_HASH, "a SHA-256 in hex")
        )
    ),
    "tail": fields.null_or(TAIL),
    "interference": fields.null_or(
        fields.an_object(
            kinds=fields.word,
            words=fields.word,
            loads=fields.a_list(
                fields.an_object(kind=fields.word, tool=fields.word, version=fields.word, settings=fields.an_object()),
                1,
            ),
        )
    ),
    "load": fields.a_list(
        fields.an_object(
            tool=fields.word,
            version=fields.word,
            scenario=fields.word,
            settings=fields.an_object(),
            valid=fields.truth,
            latencies=fields.an_object(),
            missed=fields.a_list(fields.word),
            logs=fields.null_or(fields.word),
        )
    ),
}
_ROUND_MORE: Dict[str, fields.Check] = {
    "round": fields.null_or(fields.whole(0, 1 << 20)),
    "starts_ms": fields.a_list(fields.number),
    **dict.fromkeys(COLD, fields.null_or(fields.between(0, 1e9))),
}
_RUN_MORE: Dict[str, fields.Check] = {
    "settings": fields.an_object(),
    "failures": fields.a_list(fields.an_object(target=fields.word, message=fields.word)),
    "environments": fields.a_list(fields.an_object()),
}
"""Fields that a row, a round or a run may do without, but not have in another form."""
_ENVIRONMENT_MORE: Dict[str, fields.Check] = dict.fromkeys(
    ("packages", "before", "after"), fields.null_or(fields.an_object())
)
_STATE_MORE: Dict[str, fields.Check] = {
    "limit_mhz": _ms,
    "device_clocks": fields.an_object(),
    "power_mode": fields.null_or(fields.word),
}
"""Fields that a row, its rounds, a run or a state may do without, but not have in another form."""
