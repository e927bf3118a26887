"""The float ONNX graph that every board builds from, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from engines import jsonfile, onnxfile
from engines.errors import OptimizeError, UsageError
from engines.spec import Progress, quiet
from optimize.fleet import jobs, journal
from optimize.fleet.plan import Plan


def exported(plan: Plan, work: Path, progress: Progress = quiet) -> Path:
    """The model itself where it is such a graph, else what is exported of it, once.

    Raises:
        UsageError: An engine, or a graph that keeps its weights in other files.
        OptimizeError: It cannot be exported, or the graph does not do what the model does.
    """
    from optimize import api
    from optimize.sources import recognise

    source: Dict[str, Any] = dict(plan.source)
    for name in ("custom_objects", "factory"):
        file, colon, what = source.get(name, "").partition(":")
        if colon and (plan.path.parent / file).is_file():
            source[name] = f"{(plan.path.parent / file).resolve()}:{what}"
    spec = recognise(str(plan.model), **source)
    if spec.kind == "bundle":
        raise UsageError(f"{plan.model} is an engine already", "give the model that it was built from")
    if spec.kind == "onnx":
        if onnxfile.is_external(plan.model):
            raise UsageError(f"{plan.model} keeps its weights in other files", "export it into one file")
        jobs.plain(plan.model.name)
        return plan.model
    made = work / "model" / f"{plan.name}.onnx"
    mark = made.with_suffix(".json")
    about = journal.key(jsonfile.sha256(plan.model), plan.source)
    if made.is_file() and mark.is_file() and jsonfile.read(mark) == {"from": about, "is": jsonfile.sha256(made)}:
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    done = api.export(plan.model, out=made, progress=progress, **source)
    if done["check"] and not done["check"]["passed"]:
        raise OptimizeError(
            f"the exported graph does not do what {plan.model.name} does", f"optimize export {plan.model}"
        )
    jsonfile.write(mark, {"from": about, "is": jsonfile.sha256(made)})
    return made
