"""Measure targets in fresh processes, round after round, so that drift of the machine falls on all of them alike.

Round 1 runs the targets in their order, round 2 in reverse, and so on (ABBA); in each round every target gets a process
of its own, which measures all batches. The replicate is the process, not the sample.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from engines import child, jsonfile
from engines.device import backend_version
from engines.errors import OptimizeError, UsageError, outcome
from engines.spec import A_LINE, Feeds, Progress, Runner, RunnerSpec, quiet

if TYPE_CHECKING:
    from bench.usage import Moment

ROLES = ("engine", "original")

_SAMPLE_S = 0.2
"""Seconds of looking at the machine before and after a run."""


class Target(NamedTuple):
    """What is measured.

    Attributes:
        name: Shown in reports.
        role: `engine` or `original`.
        form: Of an original: predict, function, xla, eager, compile; else empty.
        precision: As asked for.
        backend: Of an engine; of an original its framework; may be empty.
        achieved: Layers by precision; where empty, the runner is asked once after it was measured.
        size_bytes: Of the file or bundle's engine files; 0 where it is not known.
        spec: How to open it; its form and policy say in which way an original runs.
        flags: Words that the row carries from the start, such as `no-fast-fp16`.
        model_sha256: Of the model that this is, or was built from; empty where unknown.
        bundle: Of an engine bundle `path`, `build_key` and `engine_sha256`; None else.
    """

    name: str
    role: str
    form: str
    precision: str
    backend: str
    achieved: Dict[str, int]
    size_bytes: int
    spec: RunnerSpec
    flags: Tuple[str, ...] = ()
    model_sha256: str = ""
    bundle: Optional[Dict[str, str]] = None

    @property
    def label(self) -> str:
        """Name, with form, precision, device, threads and streams where they are told: for progress and failures."""
        count, device = self.spec.threads, str(self.spec.options.get("device", ""))
        threads = f"{count} thread{'s' * (count > 1)}" if count else ""
        streams = f"{self.streams} streams" if self.streams > 1 else ""
        how = " ".join(filter(None, (self.form, self.precision, f"on {device}" if device else "")))
        words = ", ".join(filter(None, (how, threads, streams)))
        return f"{self.name} ({words})" if words else self.name

    @property
    def streams(self) -> int:
        """Queries that run side by side."""
        return int(self.spec.options.get("streams", 1))


class Measured(NamedTuple):
    """Result of `run`.

    Attributes:
        rows: As in `optimize.run/1`, in the order of batches, then targets; without accuracy.
        failures: (target, message) of what could not be measured.
        before, after: State of the machine (`bench.telemetry.state`).
    """

    rows: List[Dict[str, Any]]
    failures: List[Tuple[str, str]]
    before: Dict[str, Any]
    after: Dict[str, Any]


SPANS: Dict[str, bool] = {"transfers": True, "graph": False, "spin": False}
"""How trtexec 8 to 10 measures unless it is told otherwise; a spec's options tell."""

OnCell = Callable[[Target, int, Dict[str, Any]], None]
"""`on_cell(target, batch, round)` after each finished cell; `round` is an entry of a row's `rounds`."""


def measure_target(
    spec: Dict[str, Any],
    batches: Sequence[int],
    warmup_s: float,
    duration_s: float,
    iterations: int,
    seed: int = 0,
    data: str = "",
    describe: bool = False,
    journal: str = "",
    about: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Open a target and measure it at each batch: the child's part of `run`.

    Args:
        spec: RunnerSpec as JSON.
        batches: Batch sizes, measured in this order.
        warmup_s, duration_s, iterations: See `bench.loop.measure`.
        seed, data: See `bench.inputs.feeds`.
        describe: Ask the runner for its achieved precisions, after everything was measured.
        journal, about: File that each cell is added to (`bench.journal`), and the fields of its line beside the cell.
        progress: Told nothing while queries are timed.

    Returns:
        `cells` [{`batch`, `started`, `samples_ms`, `device`, `usage` (`bench.usage.cell`; None of several streams),
        `load_ms` (wall time of opening the model and binding this batch: what a backend compiles for it is in it) and
        `first_ms` (of the first query of this batch), which several streams have not, `flags`, `on` where the runner
        tells its device, and `queries_per_s` of several streams}], `failed` [{`batch`, `message`}], `achieved`. A batch
        that fails does not stop the others.

    Raises:
        OptimizeError: The target cannot be opened.
    """
    import engines
    from bench import usage
    from bench.inputs import feeds
    from bench.journal import append
    from bench.loop import measure
    from bench.runs import milliseconds
    from bench.served import Watch
    from bench.streams import side_by_side

    cells: List[Dict[str, Any]] = []
    failed: List[Dict[str, Any]] = []
    achieved: Dict[str, int] = {}
    before, asked = usage.memory(), RunnerSpec.from_json(spec)
    streams = int(asked.options.get("streams", 1))
    clock = time.perf_counter_ns
    begun = clock()
    with engines.open(asked) as runner:
        opened = clock() - begun
        on_gpu = runner.device == "gpu" or hasattr(runner, "slots")
        for batch in batches:
            marks: List[Moment] = []
            watch = Watch(runner)
            more: Dict[str, Any] = {"usage": None}
            try:
                given = feeds(runner, batch, data, seed)
                started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
                if streams > 1:
                    watch.look()
                    found = side_by_side(runner, streams, given, warmup_s, duration_s, iterations)
                    watch.look()
                    samples, device, more["queries_per_s"] = found.samples, None, found.per_s
                else:
                    start = clock()
                    query = runner.bind(given)
                    ready = clock()
                    bound = usage.memory(on_gpu)
                    again = clock()
                    query()
                    more["load_ms"], more["first_ms"] = (opened + ready - start) / 1e6, (clock() - again) / 1e6
                    samples = measure(query, warmup_s, duration_s, iterations, watch.noting(usage.noting(marks)))
                    more["usage"] = usage.cell(marks, (before, bound, usage.memory(on_gpu)), asked.threads)
                    del query
                    device = _by_events(runner, given, batch, warmup_s, duration_s, iterations)
                served = watch.cell(samples)
            except Exception as error:  # whatever a backend raises at one batch; it is reported and the rest goes on
                told = outcome(error)
                failed.append({"batch": batch, "message": told.message + (f" (try: {told[2]})" if told[2] else "")})
                continue
            cells.append({"batch": batch, "started": started, "samples_ms": milliseconds(samples), "device": device})
            flags = [*getattr(runner, "flags", ()), *served.pop("flags", ())]
            cells[-1].update(more, **served, flags=flags)
            if runner.device:
                cells[-1]["on"] = runner.device
            if journal:
                append(journal, {**(about or {}), "cell": cells[-1]})
        if describe and cells:
            achieved = runner.achieved()
    return {"cells": cells, "failed": failed, "achieved": achieved}


def _by_events(
    runner: Runner, given: Feeds, batch: int, warmup_s: float, duration_s: float, iterations: int
) -> Optional[Dict[str, Any]]:
    """trtexec's quantities, in a pass of their own after the wall times; None where the backend has no events."""
    if not hasattr(runner, "slots"):
        return None
    from bench import spans

    options = runner.spec.options
    how = {name: bool(options.get(name, default)) for name, default in SPANS.items()}
    how["transfers"] = how["transfers"] and options.get("io") != "zero-copy"  # there is nothing to copy then
    slots = runner.slots(given, **how)
    how["graph"] = all(slot.captured for slot in slots)  # a graph that cannot be captured is not one that was measured
    trace = spans.measure(
        slots,
        batch,
        warmup_ms=1e3 * warmup_s,
        duration_s=duration_s,
        iterations=iterations,
        how={**how, "slots": len(slots), "tensorrt": options.get("tensorrt")},
    )
    return spans.summary(trace)


def run(
    targets: Sequence[Target],
    batches: Sequence[int],
    rounds: int = 5,
    warmup_s: float = 0.2,
    duration_s: float = 1.0,
    iterations: int = 10,
    data: str = "",
    seed: int = 0,
    progress: Progress = quiet,
    on_cell: OnCell = lambda target, batch, done: None,
    journal: Optional[Path] = None,
) -> Measured:
    """Measure every target at every batch.

    A target or batch that fails is left out of later rounds; what was measured of it before is kept.

    Args:
        targets: Each with a label of its own.
        batches: Ascending batch sizes.
        rounds: Fresh processes for each target; `bench.stats.VERDICT_ROUNDS` of them give verdicts.
        warmup_s, duration_s, iterations: Of each batch in each round.
        data: Data set whose test images are fed, or empty for seeded random images.
        seed: Of inputs and intervals.
        progress: Told the targets done in each round.
        on_cell: Told each finished cell.
        journal: File that keeps finished cells, so that the same run goes on where it was; the caller removes it once
            it has kept the result.

    Raises:
        UsageError: Nothing to measure, an unknown role, or a target given twice.
    """
    from bench.journal import Journal
    from bench.telemetry import state as machine

    if not targets or not batches or rounds < 1:
        raise UsageError("nothing to measure: a target, a batch and a round are needed")
    targets = distinct(targets)
    record = _Record(list(targets), list(batches))
    settings = {"warmup_s": warmup_s, "duration_s": duration_s, "iterations": iterations, "seed": seed, "data": data}
    book = Journal(journal, [settings, list(batches), [identity(target) for target in targets]])
    if len(book):
        progress(f"{journal} has {len(book)} cells of this run: it goes on", 0, A_LINE)
    for index, target in enumerate(targets):
        record.achieved[index] = record.achieved[index] or book.achieved.get(target.label, {})
    described: Set[int] = set()
    before = book.begin(machine.state(sample_s=_SAMPLE_S))
    begun = time.monotonic()
    for turn in range(rounds):
        sequence = range(len(targets)) if turn % 2 == 0 else range(len(targets) - 1, -1, -1)
        what = f"round {turn + 1} of {rounds}"
        for order, index in enumerate(sequence):
            progress(what, order, len(targets))
            target = targets[index]
            kept = book.cells(target.label, turn)
            for batch in kept:
                record.rounds[index, batch].append(kept[batch])
            left = [batch for batch in record.left[index] if batch not in kept]
            if left:
                start = machine.state()
                about = {"target": target.label, "round": turn, "order": order}
                describe = not (record.achieved[index] or index in described)
                ask = {**settings, "journal": str(journal or ""), "about": about, "describe": describe}
                described.add(index)
                done = _measure(target, record, index, left, ask)
                disturbed = machine.flags(start, machine.state())
                measured = [int(cell["batch"]) for cell in done]
                book.watched(target.label, turn, measured, disturbed, record.achieved[index])
                for cell in done:
                    entry = {"order": order, "round": turn, **cell, "flags": [*disturbed, *cell.get("flags", ())]}
                    batch = entry.pop("batch")
                    record.rounds[index, batch].append(entry)
                    on_cell(target, batch, entry)
        progress(what, len(targets), len(targets))
        if turn == 0 and rounds > 1:
            progress(f"about {_duration((rounds - 1) * (time.monotonic() - begun))} left", 0, A_LINE)
    return Measured(record.rows(seed), record.failures, before, machine.state(sample_s=_SAMPLE_S))


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def identity(target: Target) -> Any:
    """What must be the same for what was kept to be of the same run: an engine may have been built anew meanwhile."""
    path, backend = Path(target.spec.path), (target.backend.split() or ["numpy"])[0]
    content = jsonfile.sha256(path) if path.exists() else ""
    return [target.label, target.role, target.spec.to_json(), content, backend_version(backend)]


def distinct(targets: Sequence[Target]) -> List[Target]:
    """The targets, with the folder put before names that several share: `small.optimized/int8-openvino`.

    Raises:
        UsageError: An unknown role, or the same target twice.
    """
    for target in targets:
        if target.role not in ROLES:
            raise UsageError(f"{target.name}: the role is engine or original, not {target.role!r}")
    named = list(targets)
    deepest = max(len(Path(target.spec.path).parts) for target in targets)
    for parts in range(2, deepest + 1):
        labels = [target.label for target in named]
        named = [
            target._replace(name="/".join(Path(target.spec.path).parts[-parts:]))
            if labels.count(target.label) > 1
            else target
            for target in named
        ]
    labels = [target.label for target in named]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label} is given twice")
    return named


def _measure(
    target: Target, record: _Record, index: int, left: List[int], settings: Dict[str, Any]
) -> List[Dict[str, Any]]:
    """The cells of one target in one round at the batches left; failures go into the record."""
    ask = {**settings, "spec": target.spec.to_json()}
    calls = [left]
    cells: List[Dict[str, Any]] = []
    while calls:
        batches = calls.pop(0)
        try:
            done = child.call("bench.rounds:measure_target", {**ask, "batches": batches}, env=environment(target.spec))
        except OptimizeError as error:
            if isinstance(error, UsageError) and target.role == "original" and not record.measured(index):
                raise  # as it was typed it cannot be opened, and nothing is a speed-up without it
            if type(error) is OptimizeError and len(batches) > 1:
                calls = [[batch] for batch in batches]  # the child died: find out at which batch
            else:
                record.fail(index, batches, error.message)
            continue
        cells.extend(done["cells"])
        record.achieved[index] = done["achieved"] or record.achieved[index]
        for failure in done["failed"]:
            record.fail(index, [failure["batch"]], failure["message"])
    return cells


def environment(spec: RunnerSpec) -> Dict[str, str]:
    """Environment variables that a child which opens this must start with."""
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if spec.options.get("device") == "cpu" else {}
    if spec.kind.startswith("keras"):
        from engines.kerasgeneration import child_env

        return {**child_env(spec), **hidden}
    return hidden


class _Record:
    """What has been measured, what failed, and what is left to do."""

    def __init__(self, targets: List[Target], batches: List[int]) -> None:
        self.targets, self.batches = targets, batches
        self.left = [list(batches) for _ in targets]
        self.achieved = [dict(target.achieved) for target in targets]
        self.rounds: Dict[Tuple[int, int], List[Dict[str, Any]]] = {
            (index, batch): [] for index in range(len(targets)) for batch in batches
        }
        self.failures: List[Tuple[str, str]] = []

    def fail(self, index: int, batches: List[int], message: str) -> None:
        """Leave batches of a target out of later rounds, and say why."""
        label = self.targets[index].label
        whole = len(batches) == len(self.batches)
        self.failures.extend([(label, message)] if whole else [(f"{label} batch {b}", message) for b in batches])
        self.left[index] = [b for b in self.left[index] if b not in batches]

    def measured(self, index: int) -> bool:
        """Whether there is a round of a target by now."""
        return any(self.rounds[index, batch] for batch in self.batches)

    def rows(self, seed: int) -> List[Dict[str, Any]]:
        """Rows of everything that was measured at all, with speed-ups."""
        from bench import runs

        rows = []
        for batch in self.batches:
            for index, target in enumerate(self.targets):
                if self.rounds[index, batch]:
                    rows.append(runs.row(target, batch, self.rounds[index, batch], self.achieved[index]))
        runs.add_speedups(rows, seed=seed)
        return rows


def size_of(path: str) -> int:
    """Bytes of a model file, or of all files of a folder."""
    where = Path(path)
    return sum(p.stat().st_size for p in where.rglob("*") if p.is_file()) if where.is_dir() else where.stat().st_size
