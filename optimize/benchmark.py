"""One run of `optimize bench`: the times of all targets in alternating rounds, then what is measured beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from bench.rounds import Target, distinct, environment, identity
from bench.telemetry.rails import Rail
from engines import child, jsonfile, scratch
from engines.errors import OptimizeError
from engines.spec import Progress, quiet
from optimize import loads
from optimize.pipeline.inputs import child_env


def measure(
    targets: Sequence[Target],
    batches: Sequence[int],
    rounds: int,
    warmup_s: float,
    duration_s: float,
    iterations: int,
    images: Optional[int] = None,
    data: Optional[str] = None,
    out: Optional[Path] = None,
    command: str = "",
    energy: bool = False,
    passes: int = 0,
    usage: bool = False,
    layers: bool = False,
    fresh: bool = False,
    progress: Progress = quiet,
    load: Optional[loads.Loads] = None,
) -> Tuple[Dict[str, Any], List[Tuple[str, str]]]:
    """Speed of all targets in alternating rounds, then accuracy where data is given, as one run.

    Args:
        targets: Of `bench_targets`.
        batches: Ascending.
        rounds, warmup_s, duration_s, iterations: See `bench.rounds.run`.
        images: Test images for accuracy and of a pass, all by default.
        data: Data set reference.
        out: Run file to write, or None.
        command: That was typed, kept in the run.
        energy: Measure energy too, in a pass of its own.
        passes: Time so many passes over all the test images too.
        usage: Watch the GPUs too, in a pass of its own, and show what every target uses.
        layers: Time the layers too, of each target that tells them.
        fresh: Do not go on from the cells of an interrupted run, which lie beside `out`.
        progress: Told what happens.
        load: Standard loads to drive too, in a pass of their own.

    Returns:
        The run and its failures as (target, message).

    Raises:
        IncompatibleError: No sensor for energy, or no LoadGen.
        OptimizeError: Nothing could be measured.
    """
    from bench import energy as consumption
    from bench import rounds as measuring
    from bench import runs
    from bench.telemetry.rails import rails

    targets = distinct(targets)
    sensors = rails() if energy else []
    if energy:
        consumption.require(sensors)
    if load:
        loads.check(load, batches)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        jsonfile.writable(out, "-o runs.json")
    journals: List[Optional[Path]] = (
        [None, None] if out is None else [out.with_name(f"{out.name}{end}") for end in _PARTIAL]
    )
    if fresh:
        _remove(journals)
    settings = (rounds, warmup_s, duration_s, iterations, data or "", 0, progress)
    done = measuring.run(targets, batches, *settings, journal=journals[0])
    failures = list(done.failures)
    if not done.rows:
        raise OptimizeError(f"nothing could be measured: {failures[0][0]}: {failures[0][1]}")
    if energy:
        failures += _add_energy(done.rows, targets, sensors, warmup_s, data or "", progress)
    if load:
        alone = [(target, _rows_of(done.rows, target)) for target in targets if target.streams == 1]
        failures += loads.add(alone, load, out, data or "", progress)
    if passes:
        failures += _add_passes(done.rows, targets, passes, images, data, journals[1], progress)
    if usage:
        failures += _add_usage(done.rows, targets, warmup_s, data or "", progress)
    if layers:
        failures += _add_layers(done.rows, targets, data or "", progress)
    if data:
        failures += _add_accuracy(done.rows, targets, max(batches), images, data, progress)
    how = {
        "rounds": rounds,
        "warmup_s": warmup_s,
        "duration_s": duration_s,
        "iterations": iterations,
        "device": ",".join(dict.fromkeys(str(t.spec.options.get("device", "")) for t in targets)).strip(",") or "auto",
        "data": data,
        "seed": 0,
        "command": command,
        "load": list(load.scenarios) if load else [],
    }
    run = runs.make(done.rows, done.before, done.after, how, failures)
    if out is not None:
        runs.write(out, run)
    _remove(journals)
    return run, failures


def in_power_modes(
    modes: Sequence[str], lock: bool, targets: Sequence[Target], out: Optional[Path], settings: Dict[str, Any]
) -> Tuple[Dict[str, Any], List[Tuple[str, str]]]:
    """`measure` with the clocks held where that is asked for, in each of a board's power modes.

    Args:
        modes: Names or numbers; empty measures in the one in force.
        lock: Hold the clocks also without a mode.
        targets, out: See `measure`; with modes each run has a file of its own (`file_of`).
        settings: All else of `measure`.

    Returns:
        What `measure` returns; the runs of several modes as one (`bench.runs.merge`).

    Raises:
        UsageError, IncompatibleError, OptimizeError: See `measure` and `optimize.device.held`.
    """
    from bench import runs
    from optimize.device import held

    if not modes and not lock:
        return measure(targets, out=out, **settings)
    done = []
    for mode in modes or [""]:
        with held(mode, settings["progress"]):
            done.append(measure(targets, out=file_of(out, mode), **settings))
    return runs.merge([run for run, _ in done]), [failure for _, failures in done for failure in failures]


def file_of(out: Optional[Path], mode: str) -> Optional[Path]:
    """The run file of a power mode: `runs.15W.json`."""
    word = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in mode)
    return out.with_name(f"{out.stem}.{word}{out.suffix}") if out and word else out


_PARTIAL = (".partial", ".passes.partial")
"""What lies beside a run file while it is measured: the cells, and the passes."""


def _remove(journals: Sequence[Optional[Path]]) -> None:
    for path in journals:
        if path is not None:
            path.unlink(missing_ok=True)


def _add_passes(
    rows: List[Dict[str, Any]],
    targets: Sequence[Target],
    passes: int,
    images: Optional[int],
    data: Optional[str],
    path: Optional[Path],
    progress: Progress,
) -> List[Tuple[str, str]]:
    """Time whole passes of each target at the batches of its rows; a target whose passes are kept is not run again."""
    from bench.journal import Journal

    ask = {"passes": passes, "images": images or 0, "data": data or "", "seed": 0}
    book = Journal(path, [ask, sorted({row["batch"] for row in rows}), [identity(target) for target in targets]])
    book.begin({})
    failures: List[Tuple[str, str]] = []
    for target in targets:
        own = _rows_of(rows, target) if target.streams == 1 else []  # one query at a time
        if own and target.label not in book.kept:
            arguments = {"spec": target.spec.to_json(), "batches": [row["batch"] for row in own], "label": target.label}
            try:
                done = child.call("bench.passes:measure", {**arguments, **ask}, progress, environment(target.spec))
            except OptimizeError as error:
                failures.append((f"{target.label}, passes", error.message))
                continue
            book.keep(target.label, done)
        found = {one["batch"]: one for one in book.kept.get(target.label, ())}
        for row in own:
            row["passes"] = found.get(row["batch"])
    return failures


def _rows_of(rows: Sequence[Dict[str, Any]], target: Target) -> List[Dict[str, Any]]:
    """The rows of one target, an original's only those on the device that was asked for."""
    device, threads = target.spec.options.get("device"), target.spec.threads or None
    return [
        row
        for row in rows
        if all(row[name] == getattr(target, attribute) for name, attribute in _ROW_OF)
        and (row["threads"], row["streams"] or 1) == (threads, target.streams)
        and (device is None or row["on"] in (None, device))
    ]


def _add_energy(
    rows: List[Dict[str, Any]],
    targets: Sequence[Target],
    sensors: Sequence[Rail],
    warmup_s: float,
    data: str,
    progress: Progress,
) -> List[Tuple[str, str]]:
    """Watch the sensors while each target queries, after all times were taken: reading them disturbs."""
    from bench.energy import measure as watch

    failures: List[Tuple[str, str]] = []
    for index, target in enumerate(targets):
        own = _rows_of(rows, target) if target.streams == 1 else []  # one query at a time
        progress("energy", index, len(targets))
        try:
            env = environment(target.spec)
            found = watch(target.spec, [r["batch"] for r in own], sensors, warmup_s, data=data, env=env) if own else {}
        except OptimizeError as error:
            failures.append((f"{target.label}, energy", error.message))
            continue
        for one in own:
            one["energy"] = found.get(one["batch"])
    progress("energy", len(targets), len(targets))
    return failures


def _add_usage(
    rows: List[Dict[str, Any]], targets: Sequence[Target], warmup_s: float, data: str, progress: Progress
) -> List[Tuple[str, str]]:
    """Watch the GPUs while each target that computes there queries, after all times were taken."""
    from bench import usage
    from bench.telemetry.loads import loads

    failures: List[Tuple[str, str]] = []
    gpus = loads()
    for index, target in enumerate(targets):
        own = _rows_of(rows, target) if target.streams == 1 else []
        there = [r["batch"] for r in own if gpus and (r["on"] == "gpu" or r["device"] is not None)]
        progress("usage", index, len(targets))
        try:
            found = (
                usage.watch(target.spec, there, gpus, warmup_s, data=data, env=environment(target.spec))
                if there
                else {}
            )
        except OptimizeError as error:
            failures.append((f"{target.label}, usage", error.message))
            continue
        for one in own:
            usage.add(one, found.get(one["batch"], usage.UNWATCHED))
    progress("usage", len(targets), len(targets))
    return failures


def _add_layers(
    rows: List[Dict[str, Any]], targets: Sequence[Target], data: str, progress: Progress
) -> List[Tuple[str, str]]:
    """Profile each engine at each batch, after all times were taken: to tell layers apart costs time."""
    failures: List[Tuple[str, str]] = []
    for index, target in enumerate(targets):
        own = _rows_of(rows, target) if target.role == "engine" and target.streams == 1 else []
        progress("layers", index, len(targets))
        for row in own:
            ask = {"spec": target.spec.to_json(), "batch": row["batch"], "queries": _PROFILED, "data": data}
            try:
                row["layers"] = child.call("bench.profile:measure", ask, env=environment(target.spec))["layers"]
            except OptimizeError as error:
                failures.append((f"{target.label} batch {row['batch']}, layers", error.message))
    progress("layers", len(targets), len(targets))
    return failures


_PROFILED = 20
"""Queries of which the layers are timed."""

_ROW_OF = (("target", "name"), ("form", "form"), ("precision", "precision"))
"""Fields of a row that tell its target, and the target's."""


def _add_accuracy(
    rows: List[Dict[str, Any]],
    targets: Sequence[Target],
    batch: int,
    images: Optional[int],
    data: str,
    progress: Progress,
) -> List[Tuple[str, str]]:
    """Measure each engine once, and each original once per dtype policy: its forms compute the same function.

    The drop is against the original in float32 (the last of the originals: `_originals` puts it there).
    """
    from bench import runs
    from bench.accuracy import compare

    failures: List[Tuple[str, str]] = []
    found: Dict[Tuple[str, str], Dict[str, Any]] = {}
    with scratch.folder() as folder:
        for target in sorted(targets, key=lambda t: t.form == "predict"):  # the compiled form is the quicker one
            key = (target.name, target.precision)
            if key in found or target.spec.task != "classify" or not any(r["target"] == target.name for r in rows):
                continue
            out = Path(folder, f"{len(found)}.npz")
            arguments = {"spec": target.spec.to_json(), "data": data, "out": str(out), "batch": batch, "images": images}
            try:
                found[key] = child.call("bench.accuracy:evaluate", arguments, progress, child_env(target.spec))
            except OptimizeError as error:
                failures.append((f"{target.label}, accuracy", error.message))
        originals = [
            found.get((t.name, t.precision)) for t in targets if t.role == "original" and t.precision == "fp32"
        ]
        base = next((one for one in originals if one is not None), None)
        for (name, precision), one in found.items():
            against = compare(Path(base["predictions"]), Path(one["predictions"])) if base else {}
            runs.add_accuracy(rows, name, {**one, **against}, precision=precision)
    return failures
