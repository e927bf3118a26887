"""The validation run: on each device the baseline against the advanced model, by the steps of the cloud-edge document.

`optimize suite run vnv`: models are trained briefly where they are not there yet, built, measured in paired alternating
trials and selected from; devices that were measured elsewhere bring their run files.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from engines.errors import OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize import device as machine
from optimize.selection import choose, feasible, plans
from optimize.selection.asked import Asked
from optimize.selection.saving import Saving, together
from optimize.selection.verdict import FAIL, verdict
from optimize.selection.words import steps
from optimize.suite import MODELS, files
from optimize.zoo import file_name

SCHEMA = "optimize.validation/1"


def catalogue() -> List[Dict[str, Any]]:
    """The plans that come with the project, told as `optimize.suite.catalogue` tells suites."""
    found = []
    for name in plans.names():
        plan = plans.read(name)
        count = len(plan["models"]) * len(plan["precisions"])
        found.append({**{key: plan[key] for key in ("name", "title", "source")}, "cells": count, "made": count})
    return found


def run(
    name: Union[str, Path],
    cells: str = "*",
    out: Path = Path("runs.json"),
    models: Sequence[str] = (),
    data: Optional[str] = None,
    backend: str = "auto",
    rounds: Optional[int] = None,
    warmup: str = "200ms",
    duration: str = "1s",
    iterations: int = 10,
    fresh: bool = False,
    command: str = "",
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Follow a plan.

    Args:
        name: Of `plans.names`, or a plan file.
        cells: Pattern of models' names, as of a shell.
        out: Run file of what is measured here; models and bundles are kept beside it.
        models: `ARCHITECTURE=FILE`: trained models that stand in for what would be trained.
        data: Trains, calibrates and measures accuracy, instead of the plan's.
        backend: Builds the engines: auto, tensorrt, openvino or onnxruntime.
        rounds: Paired trials, instead of the plan's.
        warmup, duration, iterations: See `optimize.api.bench`.
        fresh: Measure everything, also what an interrupted run has kept.
        command: Kept in the run.
        progress: Told what happens.
        source: How model files are read: see `optimize.sources.recognise`.

    Returns:
        `schema`, `plan`, `title`, `source`, `devices` (of each `name`, `runs`, `steps` in words, `baseline_s` and
        `advanced_s`, the mean total times, and its `choice`, an `optimize.choice/1`), `failures` (`target` and
        `message` of what could not be built or measured; the others went on), and over all devices `saving` (the
        document's mean of ratios), `saving_of_means` (of the sums), `interval`, `drop_points` (the largest), `verdict`,
        `why`, `remarks`.

    Raises:
        UsageError: No such plan, model or option.
        DamagedError: Not a plan, or not a run file.
        IncompatibleError: Something is missing that trains or builds; or runs that cannot stand in one table.
        OptimizeError: Nothing could be built, or nothing measured.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "name a file with -o runs.json")
    plan = plans.read(name)
    given = files(models)
    told: List[Dict[str, Any]] = []
    failures: List[Tuple[str, str]] = []
    for device in plan["devices"]:
        paths: List[str] = device["runs"] or [str(out)]
        about = None if device["device"] is None else feasible.read(Path(device["device"]))
        asked = choose.ask(
            policy=plan["policy"],
            max_drop=plan["max_drop"],
            min_saving=plan["min_saving"],
            bandwidth=plan["bandwidth"],
            rtt=plan["rtt"],
            images=plan["images"],
            batch=plan["batch"],
            cached=plan["cached"],
            device=about,
        )
        if device["runs"] is None:
            settings = {"warmup": warmup, "duration": duration, "iterations": iterations, "command": command}
            settings.update(rounds=rounds or plan["rounds"], fresh=fresh)
            chosen = _models(plan, cells)
            failures += _measure(chosen, plan, given, out, data or plan["data"], backend, settings, progress, source)
            about = about or machine.show(sample_s=0.2)
        told.append(_device(device["name"], paths, asked, about))
    return {
        "schema": SCHEMA,
        "plan": plan["name"],
        "title": plan["title"],
        "source": plan["source"],
        "devices": told,
        "failures": [{"target": target, "message": message} for target, message in failures],
        **_over_all(told, asked),
    }


def _models(plan: Mapping[str, Any], pattern: str) -> List[Dict[str, Any]]:
    found = [model for model in plan["models"] if fnmatch.fnmatchcase(model["name"], pattern)]
    if not found:
        names = ", ".join(model["name"] for model in plan["models"])
        raise UsageError(f"--cells {pattern}: no model of {plan['name']} is called so; it has {names}")
    return found


def _measure(
    models: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any],
    given: Mapping[str, str],
    out: Path,
    data: str,
    backend: str,
    settings: Mapping[str, Any],
    progress: Progress,
    source: Mapping[str, Any],
) -> List[Tuple[str, str]]:
    """Train, build and bench what the plan asks of this machine, as one run of paired rounds; what failed."""
    from optimize import api

    folder = out.parent / MODELS
    bundles: List[Path] = []
    failures: List[Tuple[str, str]] = []
    for model in models:
        path, how = _model(model, plan, given, folder, data, progress, source)
        # beside the run, never beside a model of the user's
        place = (path.parent if folder in path.parents else folder) / f"{path.name.rsplit('.', 1)[0]}.optimized"
        try:
            batches = sorted({plan["batch"], _MEASURED_AT})
            built = api.build(path, plan["precisions"], batches, data, backend, place, progress, **how)
        except OptimizeError as error:
            failures.append((model["name"], error.message))
            continue
        failures += [(f"{model['name']} {precision}", error.message) for precision, error in built.failures]
        bundles += [bundle.path for bundle in built.bundles]
    if not bundles:
        raise OptimizeError(f"nothing could be built: {failures[0][0]}: {failures[0][1]}")
    _, failed = api.bench(bundles, plan["batch"], data=data, out=out, progress=progress, **settings)
    return failures + failed


_MEASURED_AT = 64
"""Batch that engines serve as well: originals are held against them over all test images, which takes long singly."""


def _model(
    model: Mapping[str, Any],
    plan: Mapping[str, Any],
    given: Mapping[str, str],
    folder: Path,
    data: str,
    progress: Progress,
    source: Mapping[str, Any],
) -> Tuple[Path, Dict[str, Any]]:
    """The file of a model, trained where it is not there yet, and how it is read."""
    from optimize import api

    told = {key: value for key, value in source.items() if value is not None}
    file = model.get("file") or given.get(model.get("architecture", ""))
    if file:
        return Path(file), told
    about = plan["training"]
    name = model["architecture"]
    how = file_name("", data, about["batch"], about["epochs"]).rsplit(".", 1)[0].lstrip("_")
    place = folder / f"{how}_{about['images'] or 'all'}images_seed{about['seed']}"
    path = place / f"{name}.keras"  # the folder tells how it was trained, so that the table has short names
    if not path.is_file():
        progress(f"training {name} on {data}", 0, A_LINE)
        trained = api.zoo_train(name, data, **about, out=place, progress=progress)
        os.replace(trained["path"], path)
    return path, {"preprocess": "unit", **told}


def _device(name: str, paths: Sequence[str], asked: Asked, about: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """The document's steps on one device."""
    choice = choose.decide([(path, choose.read(path)) for path in paths], asked, about)
    times = {one["target"]: one["times"]["total_s"] for one in choice["candidates"]}
    return {
        "name": name,
        "runs": list(paths),
        "steps": steps(choice),
        "baseline_s": times.get(choice["baseline"]),
        "advanced_s": times.get(choice["chosen"]),
        "choice": choice,
    }


def _over_all(told: Sequence[Mapping[str, Any]], asked: Asked) -> Dict[str, Any]:
    choices = [device["choice"] for device in told]
    none = [device["name"] for device in told if device["choice"]["chosen"] is None]
    if none:
        empty = dict.fromkeys(("saving", "saving_of_means", "interval", "drop_points"))
        return {**empty, "verdict": FAIL, "why": f"no candidate can run on {', '.join(none)}", "remarks": []}
    sides = [[device[side] for device in told] for side in ("baseline_s", "advanced_s")]
    saved = together([_saving(choice) for choice in choices], *sides)
    same = all(choice["baseline"] == choice["chosen"] for choice in choices)
    within = all(_within(choice, asked) for choice in choices)
    result = verdict(saved, within, same, asked.min_saving)
    return {
        "saving": saved.mean_of_ratios,
        "saving_of_means": saved.ratio_of_means,
        "interval": None if saved.low is None or saved.high is None else [saved.low, saved.high],
        "drop_points": max(choice["drop_points"] for choice in choices),
        "verdict": result.word,
        "why": result.why,
        "remarks": _remarks(told),
    }


def _saving(choice: Mapping[str, Any]) -> Saving:
    # a model held against itself saves nothing, for sure: the other devices' interval stands
    same = (0.0, 0.0) if choice["baseline"] == choice["chosen"] else (None, None)
    low, high = choice["interval"] or same
    return Saving(choice["saving"], choice["saving_of_means"], low, high, choice["rounds"], choice["paired"])


def _within(choice: Mapping[str, Any], asked: Asked) -> bool:
    top1 = {one["target"]: one["top1"] for one in choice["candidates"]}
    return asked.drop.allows(top1[choice["baseline"]], top1[choice["chosen"]])


def _remarks(told: Sequence[Mapping[str, Any]]) -> List[str]:
    """Models of one name that are known to be others on other devices: the document asks for one fine-tune of all."""
    found: List[str] = []
    seen: Dict[str, Tuple[str, Mapping[str, Any]]] = {}
    for device in told:
        for one in device["choice"]["candidates"]:
            name, first = seen.setdefault(one["target"], (device["name"], one))
            if name == device["name"] or None in (one["top1"], first["top1"]):
                continue
            if one["top1"] != first["top1"]:
                accuracies = f"{100 * first['top1']:.2f}% on {name}, {100 * one['top1']:.2f}% on {device['name']}"
                found.append(f"{one['target']} is not the same model on all devices: {accuracies}")
    return found
