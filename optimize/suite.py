"""`optimize suite`: what of a published table can be made here is built and measured, and every cell gets a verdict."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from bench import stats
from bench.suites import tables
from bench.suites.verdict import FAILED, UNLIKE, Verdict, machine, verdict
from engines import child, jsonfile
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from engines.spec import FORMS, Progress, quiet
from optimize.sources import kind_of
from optimize.zoo import published

SCHEMA = "optimize.verdicts/1"

Cell = Dict[str, Any]

MODELS = "suite.models"
"""Folder beside the run file that keeps models and bundles: a second run builds nothing anew."""


class Group(NamedTuple):
    """Cells that one model serves, measured together."""

    model: str
    """Its file; for an architecture, under `MODELS`."""
    way: Optional[published.Way]
    """How it is made; None for a file."""
    size: published.Size
    """Height and width; zeros of a file that tells its own."""
    classes: int
    form: str
    """Of an original; empty for engines."""
    threads: int
    device: str
    factory: str = ""
    """The architecture, where it is known: makes the module where the file is a state_dict."""

    @property
    def name(self) -> str:
        """Tells it from the others, as a file name."""
        words = [Path(self.model).name, self.form, self.device if self.form else ""]
        return "-".join(word for word in (*words, f"{self.threads}threads" if self.threads else "") if word)


def catalogue() -> List[Dict[str, Any]]:
    """The suites that come with the project: `name`, `title`, `cells`, `made` (cells with a model), `source`."""
    found = [tables.read(name) for name in tables.names()]
    return [
        {
            "name": one["name"],
            "title": one["title"],
            "cells": len(one["cells"]),
            "made": sum(cell["made"] is not None for cell in one["cells"]),
            "source": one["source"],
        }
        for one in found
    ]


def run(
    name: Union[str, Path],
    cells: str = "*",
    out: Path = Path("runs.json"),
    models: Sequence[str] = (),
    data: Optional[str] = None,
    backend: str = "auto",
    rounds: int = 5,
    warmup: str = "200ms",
    duration: str = "1s",
    iterations: int = 10,
    fresh: bool = False,
    command: str = "",
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Measure the cells of a suite that can be made here, and hold each against its published value.

    Args:
        name: Of `catalogue`, or a suite file.
        cells: Pattern of cells' names, as of a shell.
        out: Run file to write; models and bundles are kept beside it.
        models: `ARCHITECTURE=FILE`: files that stand in for what would be made with random weights.
        data: Images that INT8 engines of model files are calibrated with.
        backend: Builds the engines: auto, tensorrt, openvino or onnxruntime.
        rounds, warmup, duration, iterations: See `optimize.api.bench`.
        fresh: Measure everything, also what an interrupted run of the same has kept.
        command: Kept in the run.
        progress: Told what happens.
        source: How model files are read: custom_objects, factory, input_shape, preprocess, task of
            `optimize.sources.recognise`.

    Returns:
        `schema`, `suite`, `title`, `source`, `tolerance`, `machine`, `run` (the file; None where nothing was measured),
        and `cells`: of each `name`, `model`, `assumed` (what the source leaves open of the network; empty where it does
        not), `precision`, `batch`, `quantity`, `unit`, `published`, `source`, `note`,
        `conditions`, `weights` (random weights, as given, or empty), and the fields of `bench.suites.verdict.Verdict`.

    Raises:
        UsageError: No such suite, cell or model, or `out` cannot be written.
        DamagedError: Not a suite.
    """
    suite = tables.read(name)
    chosen = [cell for cell in suite["cells"] if fnmatch.fnmatchcase(cell["name"], cells)]
    if not chosen:
        names = ", ".join(cell["name"] for cell in suite["cells"])
        raise UsageError(f"--cells {cells}: no cell of {suite['name']} is called so; it has {names}")
    out.parent.mkdir(parents=True, exist_ok=True)
    jsonfile.writable(out, "-o runs.json")
    here = machine()
    groups, verdicts = _grouped(chosen, out.parent / MODELS, files(models), data)
    settings = {"rounds": rounds, "warmup": warmup, "duration": duration, "iterations": iterations, "command": command}
    parts = out.with_name(f"{out.name}.cells")
    if fresh:
        shutil.rmtree(parts, ignore_errors=True)
    found: List[Dict[str, Any]] = []
    for group, mine in groups:
        rows, failures, part = _measured(group, mine, parts, data, backend, settings, source, fresh, progress)
        found += [part] if part else []
        for cell in mine:
            row = _row_of(cell, rows)
            verdicts[cell["name"]] = (
                Verdict(FAILED, why=(failures.get(cell["precision"], "") or failures.get("", "it gave no row"),))
                if row is None
                else verdict(cell, row, here, suite["tolerance"], group.way is not None)
            )
    weights = {cell["name"]: "random weights" if group.way else "as given" for group, mine in groups for cell in mine}
    done = {
        "schema": SCHEMA,
        "suite": suite["name"],
        "title": suite["title"],
        "source": suite["source"],
        "tolerance": suite["tolerance"],
        "machine": here,
        "run": str(out) if found else None,
        "cells": [_told(cell, verdicts[cell["name"]], weights.get(cell["name"], "")) for cell in chosen],
    }
    if found:
        from bench import runs

        merged = runs.merge(found)
        runs.write(out, {**merged, "suite": {key: value for key, value in done.items() if key != "run"}})
    if not any(one.word == FAILED for one in verdicts.values()):
        shutil.rmtree(parts, ignore_errors=True)
    return done


def _told(cell: Cell, found: Verdict, weights: str) -> Dict[str, Any]:
    fields = ("name", "model", "precision", "batch", "quantity", "published", "source", "note", "conditions")
    about = {key: cell[key] for key in fields}
    judged = {**found._asdict(), "why": list(found.why), "remarks": list(found.remarks)}
    judged["verdict"] = judged.pop("word")
    assumed = (cell["made"] or {}).get("assumed", "")
    return {**about, "assumed": assumed, "unit": tables.QUANTITIES[cell["quantity"]], "weights": weights, **judged}


def files(models: Sequence[str]) -> Dict[str, str]:
    """The file of each architecture that the user gave one for.

    Raises:
        UsageError: Not `ARCHITECTURE=FILE`, or no such file.
    """
    found = {}
    for word in models:
        name, _, file = word.partition("=")
        if name not in published.ARCHITECTURES or not file:
            raise UsageError(f"--model {word}: ARCHITECTURE=FILE is expected, of {', '.join(published.ARCHITECTURES)}")
        found[name] = str(kind_of(file)[0])
    return found


def _grouped(
    cells: List[Cell], folder: Path, files: Dict[str, str], data: Optional[str]
) -> Tuple[List[Tuple[Group, List[Cell]]], Dict[str, Verdict]]:
    """Cells by what measures them, and the verdicts of those that cannot be made here."""
    groups: Dict[Group, List[Cell]] = {}
    verdicts: Dict[str, Verdict] = {}
    for cell in cells:
        try:
            groups.setdefault(_group(cell, folder, files, data), []).append(cell)
        except (IncompatibleError, UsageError) as error:
            hint = f" ({error.hint})" if error.hint else ""
            verdicts[cell["name"]] = Verdict(UNLIKE, why=(f"not made here: {error.message}{hint}",))
    return list(groups.items()), verdicts


def _group(cell: Cell, folder: Path, files: Dict[str, str], data: Optional[str]) -> Group:
    """What measures a cell.

    Raises:
        IncompatibleError, UsageError: Why nothing here does.
    """
    made, form = cell["made"], cell.get("form", "")
    if made is None:
        raise IncompatibleError(cell["why"])
    if cell["batch"] is None:
        raise IncompatibleError("the source does not state the batch")
    if not form and cell["precision"] not in ("fp32", "fp16", "int8"):
        raise IncompatibleError("the source does not state a precision that an engine is built in")
    device = "cpu" if form and (cell["conditions"]["processor"] or "").upper() == "CPU" else "auto"
    rest = (form, cell.get("threads", 0), device)
    architecture = made.get("architecture", "")
    given = made.get("file") or files.get(architecture)
    size = tables.sides(made["size"]) if architecture else (0, 0)
    if given:
        if cell["precision"] == "int8" and not form and data is None:
            raise IncompatibleError("INT8 needs images to calibrate with", "--data cifar10|DIR|NPZ")
        return Group(given, None, size, 0, *rest, factory=architecture)
    if cell["precision"] == "int8":
        raise IncompatibleError("INT8 says nothing with random weights", f"--model {architecture}=FILE --data DIR")
    way = published.way(made["architecture"], _framework(form))
    classes = made.get("classes", 0)
    return Group(str(folder / published.file_name(way, size, classes)), way, size, classes, *rest, factory=architecture)


def _framework(form: str) -> str:
    """The framework whose originals can be run in a form; empty, any, for engines."""
    kinds = [kind for kind, forms in FORMS.items() if form in forms]
    return "" if not form else "torch" if all(kind.startswith("torch") for kind in kinds) else "tensorflow"


def _measured(
    group: Group,
    cells: List[Cell],
    parts: Path,
    data: Optional[str],
    backend: str,
    settings: Dict[str, Any],
    given: Dict[str, Any],
    fresh: bool,
    progress: Progress,
) -> Tuple[List[Dict[str, Any]], Dict[str, str], Optional[Dict[str, Any]]]:
    """Make, build and measure one group.

    Returns:
        Its rows, messages of what failed by precision (under an empty one, of all), and its run.
    """
    from optimize import api

    failures: Dict[str, str] = {}
    names: Dict[str, str] = {}
    batches = sorted({int(cell["batch"]) for cell in cells})
    try:
        model, source = _model(group, given, progress)
        targets: List[Path] = [model]
        if not group.form:
            precisions = list(dict.fromkeys(cell["precision"] for cell in cells))
            calibration = data if "int8" in precisions else None
            # beside the run, never beside a model of the user's
            place = parts.parent / MODELS / f"{model.name.rsplit('.', 1)[0]}.optimized"
            built = api.build(
                model, precisions, batches, calibration, backend, place, progress, threads=group.threads, **source
            )
            failures = {precision: error.message for precision, error in built.failures}
            names = {one.path.name: one.precision for one in built.bundles}
            targets, source = [one.path for one in built.bundles], {}
        kept = parts / f"{group.name}.json"
        part = None if fresh else _kept(kept, targets, batches, settings, _passes(cells, settings["rounds"]))
        if part is None:
            part, failed = api.bench(
                targets,
                batches,
                forms=[group.form] if group.form else None,
                threads=group.threads,
                device=group.device,
                passes=_passes(cells, settings["rounds"]),
                out=kept,
                fresh=fresh,
                progress=progress,
                **settings,
                **source,
            )
            for target, message in failed:
                failures[next((one for name, one in names.items() if target.startswith(name)), "")] = message
        return part["rows"], failures, part
    except OptimizeError as error:
        return [], {"": error.message}, None


PASSES = 10
"""Over the test images, as many as the user's own timings had; of fewer rounds than give a verdict one."""


def _passes(cells: List[Cell], rounds: int) -> int:
    whole = any(cell["conditions"]["timed"] == "pass" for cell in cells)
    return (PASSES if rounds >= stats.VERDICT_ROUNDS else 1) if whole else 0


def _model(group: Group, given: Dict[str, Any], progress: Progress) -> Tuple[Path, Dict[str, Any]]:
    """The file of a model, made where it is not there yet, and how it is read."""
    task = published.task_options(group.factory)
    if group.way is None:
        told = {key: value for key, value in given.items() if value is not None}
        bare = group.factory and kind_of(group.model)[1] == "torch-state-dict"
        known = published.torch_options(group.factory, group.size) if bare else {}
        return Path(group.model), {**task, **known, **told}
    if not Path(group.model).is_file():
        about = {"way": list(group.way), "size": group.size, "classes": group.classes, "out": group.model}
        child.call("optimize.zoo.published:make", about, progress)
    known = published.torch_options(group.way.name, group.size) if group.way.framework == "torch" else {}
    return Path(group.model), {**task, **known}


def _kept(
    path: Path, targets: List[Path], batches: List[int], settings: Dict[str, Any], passes: int
) -> Optional[Dict[str, Any]]:
    """What an interrupted run of the suite has kept of a group, if it was measured the same way in the same state."""
    from bench import runs
    from bench.compare import unlike
    from bench.telemetry.state import state
    from engines.device import facts
    from optimize.api import seconds

    if not path.is_file():
        return None
    try:
        part = runs.read(path)
    except DamagedError:
        return None
    asked = {"rounds": settings["rounds"], "iterations": settings["iterations"]}
    asked.update({f"{key}_s": seconds(settings[key]) for key in ("warmup", "duration")})
    wanted = {(target.name, batch) for target in targets for batch in batches}
    newest = max(_changed(target) for target in targets)
    same = (
        all(part["settings"].get(key) == value for key, value in asked.items())
        and {(row["target"], row["batch"]) for row in part["rows"]} == wanted
        and all(len((row.get("passes") or {}).get("seconds", ())) == passes for row in part["rows"])
        and path.stat().st_mtime >= newest
        and not unlike(part["environment"], {**facts(), "before": state()})
    )
    return part if same else None


def _changed(target: Path) -> float:
    """When a model or a bundle was written."""
    return max(item.stat().st_mtime for item in ([*target.iterdir()] if target.is_dir() else [target]))


def _row_of(cell: Cell, rows: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """The row of a cell; of an original, which may have been run in two precisions, the one of the cell's if any."""
    form = cell.get("form", "")
    mine = [row for row in rows if (row["form"], row["batch"]) == (form, cell["batch"])]
    same = [row for row in mine if row["precision"] == cell["precision"]]
    return same[0] if same else mine[0] if form and mine else None
