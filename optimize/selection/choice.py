"""Choice files (`optimize.choice/1`): which model should run on a device, against which baseline, and why.

History: 1, the first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

from engines import fields, jsonfile
from engines.errors import DamagedError
from optimize.selection.asked import POLICIES
from optimize.selection.policies import AXES
from optimize.selection.total import TERMS
from optimize.selection.verdict import FAIL, INCONCLUSIVE, PASS

SCHEMA = "optimize.choice/1"


def validate(value: Any) -> None:
    """Check a choice; unknown extra fields are free.

    Raises:
        DamagedError: Names the field that is missing or wrong, or that contradicts another.
    """
    fields.of_schema(value, "a choice", SCHEMA)
    _CHOICE("choice", value)
    names = [one["target"] for one in value["candidates"]]
    if len(set(names)) != len(names):
        raise DamagedError("choice.candidates: a target is there twice")
    for field in ("baseline", "chosen"):
        if value[field] is not None and value[field] not in names:
            raise DamagedError(f"choice.{field}: {value[field]!r} is not among the candidates")
    rejected = [one["target"] for one in value["rejected"]]
    if sorted(rejected) != sorted(name for name in names if name != value["chosen"]):
        raise DamagedError("choice.rejected: every candidate but the chosen one is expected, once")
    for name in value["front"]:
        if name not in names:
            raise DamagedError(f"choice.front: {name!r} is not among the candidates")
    if (value["chosen"] is None) != (value["baseline"] is None) or (value["chosen"] is None) != (
        value["saving"] is None
    ):
        raise DamagedError("choice: baseline, chosen and saving are there together, or none is")
    if value["interval"] is not None and not value["interval"][0] <= value["saving"] <= value["interval"][1]:
        raise DamagedError("choice.interval: low, saving, high is not their order")
    _shipped("choice.shipped", value.get("shipped"))  # absent in files of earlier versions
    if value.get("shipped") is not None and value["chosen"] is None:
        raise DamagedError("choice.shipped: something was shipped, and nothing was chosen")
    if value["verdict"] == PASS and value["chosen"] is None:
        raise DamagedError("choice.verdict: PASS, and nothing was chosen")


def read(path: Path) -> Dict[str, Any]:
    """Read and check a choice file.

    Raises:
        DamagedError: Not strict JSON, another schema, or a field that is missing or wrong.
        FileNotFoundError: No such file.
    """
    return jsonfile.checked(path, SCHEMA, validate, "select again: optimize select RUN...")


def write(path: Path, value: Dict[str, Any]) -> None:
    """Check a choice and write it atomically.

    Raises:
        DamagedError: A field is missing or wrong.
    """
    validate(value)
    jsonfile.write(path, value)


_seconds = fields.null_or(fields.between(0, 1e15))
_name = fields.null_or(fields.word)
_points = fields.null_or(fields.between(-100, 100))
_count = fields.null_or(fields.whole(0, 1 << 53))


def _share(name: str, value: Any) -> None:
    """Null, or a share: a saving is at most 1, and negative where more time is taken."""
    fields.null_or(fields.between(-1e9, 1))(name, value)


def _pair(name: str, value: Any) -> None:
    """Null, or two shares."""
    if value is not None:
        fields.a_list(fields.between(-1e9, 1), 2)(name, value)
        if len(value) != 2:
            raise fields.wrong(name, value, "low and high")


_times = fields.an_object(
    **dict.fromkeys([*(f"{term}_s" for term in TERMS), "cold_s", "cached_s", "total_s"], _seconds),
    sources=fields.an_object(**dict.fromkeys(TERMS, fields.one_of("measured", "given", "unknown"))),
)
_shipped = fields.null_or(
    fields.an_object(
        build_key=fields.word, engine_sha256=fields.matching(re.compile(r"[0-9a-f]{64}"), "a SHA-256 in hex")
    )
)
_CHOICE = fields.an_object(
    baseline=_name,
    chosen=_name,
    saving=_share,
    saving_of_means=_share,
    interval=_pair,
    level=fields.between(0, 1),
    rounds=fields.whole(0, 1 << 20),
    rounds_needed=_count,
    paired=fields.truth,
    drop_points=_points,
    drop_share=_share,
    verdict=fields.one_of(PASS, FAIL, INCONCLUSIVE),
    why=fields.word,
    scope=fields.word,
    terms=fields.a_list(fields.one_of(*TERMS)),
    unknown=fields.a_list(fields.word),
    rejected=fields.a_list(fields.an_object(target=fields.word, reason=fields.word)),
    asked=fields.an_object(
        policy=fields.one_of(*POLICIES),
        max_drop=fields.an_object(value=fields.number, unit=fields.one_of("points", "relative")),
        min_saving=fields.between(0, 1),
        images=fields.whole(1, 1 << 53),
        batch=fields.whole(1, 1 << 20),
        bandwidth_mbps=fields.null_or(fields.between(0, 1e12)),
        rtt_s=fields.between(0, 1e9),
        cached=fields.truth,
        memory_bytes=_count,
        max_load=fields.null_or(fields.between(0, 1)),
    ),
    runs=fields.a_list(fields.word, 1),
    device=fields.null_or(fields.an_object(model=fields.word)),
    ties=fields.a_list(fields.word),
    axes=fields.a_list(fields.one_of(*AXES)),
    front=fields.a_list(fields.word),
    candidates=fields.a_list(
        fields.an_object(
            target=fields.word,
            run=fields.word,
            role=fields.one_of("engine", "original"),
            form=fields.word,
            precision=fields.word,
            backend=fields.word,
            top1=fields.null_or(fields.between(0, 1)),
            drop_points=_points,
            size_bytes=_count,
            memory_bytes=_count,
            joules_per_image=_seconds,
            ms_per_image=_seconds,
            times=_times,
            feasible=fields.truth,
            front=fields.truth,
        ),
        1,
    ),
    sensitivity=fields.null_or(
        fields.an_object(
            flips=fields.a_list(fields.an_object(mbps=fields.number, above=fields.word, below=fields.word)),
            verdict_mbps=fields.a_list(fields.number),
            highest=fields.word,
            lines=fields.a_list(
                fields.an_object(target=fields.word, size_bytes=fields.whole(0, 1 << 50), start_s=fields.number)
            ),
        )
    ),
)
