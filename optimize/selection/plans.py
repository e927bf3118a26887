"""Plan files (`optimize.plan/1`): which models are built and measured, or where their runs lie, and what is asked.

A device whose `runs` is null is this machine: its models are made, built and measured here. Others bring run files.
History: 1, the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Union

from engines import fields, jsonfile
from engines.errors import DamagedError, UsageError
from optimize.selection.asked import POLICIES
from optimize.zoo.shapes import NAMES

SCHEMA = "optimize.plan/1"

FOLDER = Path(__file__).parent


def names() -> List[str]:
    """The plans that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def is_plan(name: Union[str, Path]) -> bool:
    """Whether this is a plan's name, or a plan file, rather than a suite."""
    if str(name) in names():
        return True
    try:
        return Path(name).is_file() and jsonfile.read(name).get("schema") == SCHEMA
    except DamagedError:
        return False  # whoever reads it as a suite says what is wrong with it


def read(name: Union[str, Path]) -> Dict[str, Any]:
    """Read and check a plan; the paths in it become absolute.

    Args:
        name: Of `names`, or a file.

    Raises:
        UsageError: No plan of that name, and no such file.
        DamagedError: Not strict JSON, another schema, or a field that is missing or wrong.
    """
    path = FOLDER / f"{name}.json" if str(name) in names() else Path(name)
    if not path.is_file():
        raise UsageError(f"no plan is called {name}, and there is no such file", "optimize suite list")
    value = jsonfile.checked(path, SCHEMA, validate)
    for model in value["models"]:
        if "file" in model:
            model["file"] = str((path.parent / model["file"]).resolve())
    for device in value["devices"]:
        device["runs"] = device["runs"] and [str((path.parent / run).resolve()) for run in device["runs"]]
        device["device"] = device["device"] and str((path.parent / device["device"]).resolve())
    return value


def validate(value: Any) -> None:
    """Check a plan; unknown extra fields are free.

    Raises:
        DamagedError: Names the field that is missing or wrong.
    """
    _PLAN("plan", value)
    for place, one in (("models", value["models"]), ("devices", value["devices"])):
        told = [each["name"] for each in one]
        for name in told:
            if told.count(name) > 1:
                raise DamagedError(f"plan.{place}: {name} is there twice")
    for index, model in enumerate(value["models"]):
        if ("file" in model) == ("architecture" in model):
            raise DamagedError(f"plan.models[{index}]: a file or an architecture is expected")
        (_FILE if "file" in model else _ARCHITECTURE)(f"plan.models[{index}]", model)
    here = [device["name"] for device in value["devices"] if device["runs"] is None]
    if len(here) > 1:
        raise DamagedError(f"plan.devices: {' and '.join(here)} have no runs, and one of them can be this machine")
    if here and not value["models"]:
        raise DamagedError(f"plan.models: {here[0]} has no runs and is measured here, and there is no model")


def _text(name: str, value: Any) -> None:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip():
        raise fields.wrong(name, value, "a text")


_FILE = fields.an_object(file=_text)
_ARCHITECTURE = fields.an_object(architecture=fields.one_of(*NAMES))
_PLAN = fields.an_object(
    name=_text,
    title=_text,
    source=fields.an_object(document=_text),
    models=fields.a_list(fields.an_object(name=_text)),
    precisions=fields.a_list(fields.one_of("fp32", "fp16", "int8"), 1),
    batch=fields.whole(1, 65536),
    data=_text,
    training=fields.an_object(
        epochs=fields.whole(1, 10_000),
        batch=fields.whole(1, 65536),
        images=fields.null_or(fields.whole(1, 1 << 40)),
        seed=fields.whole(0, 1 << 31),
    ),
    rounds=fields.whole(1, 1000),
    policy=fields.one_of(*POLICIES),
    max_drop=_text,
    min_saving=_text,
    images=fields.whole(1, 1 << 53),
    bandwidth=fields.null_or(_text),
    rtt=_text,
    cached=fields.truth,
    devices=fields.a_list(
        fields.an_object(name=_text, runs=fields.null_or(fields.a_list(_text, 1)), device=fields.null_or(_text)), 1
    ),
)
