"""What `optimize build` says of what it built: the table, what stands behind it, the gate and what to do next."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from engines.errors import GateError, OptimizeError, PartialError
from engines.terminal import Column
from optimize.cli.console import line, table

if TYPE_CHECKING:
    from optimize.pipeline.results import Build, Built


_COLUMNS = (
    Column("precision", least=9),
    Column("layers", least=7),
    Column("size", right=True),
    Column("top-1", right=True),
    Column("drop [95%]", right=True),
    Column("agreement", right=True),
    Column("gate"),
    Column("built in", right=True),
    Column("bundle", least=12),
)
_LEAVE_OUT = ("built in", "size", "agreement", "layers", "top-1", "drop [95%]")


def show(done: Build) -> None:
    """The engines, what was measured of them, and what stands behind the choice."""
    from optimize.inspection import preprocess_text

    rows = []
    if done.source_accuracy and done.source_accuracy.get("top1") is not None:
        rows.append(["source (float32)", "", "", f"{100 * done.source_accuracy['top1']:.2f}%", "", "", "", "", ""])
    rows += [_row(one.to_json()) for one in done.bundles]
    table(_COLUMNS, rows, f"{done.model.name} -> {done.backend}", _LEAVE_OUT)
    line(f"bundles in {done.out}")
    for one in done.bundles:
        for text in _told(one.manifest):
            line(text)
    line(check_line(done.check))
    labelled = (done.source_accuracy or {}).get("top1") is not None
    line(f"preprocess: {preprocess_text(done.spec.preprocess, labelled)}")


def _told(about: Dict[str, Any]) -> List[str]:
    """What a TensorRT build says beyond the table: which way was kept and why, the plans, the same by trtexec."""
    found, options_, check = [], about["options"], about["check"]
    if check:
        agreement = check.get("top1_agreement")
        top1 = "" if agreement is None else f", top-1 agreement {100 * agreement:.2f}%"
        found.append(
            f"{about['precision']} against the ONNX in FP32: largest difference {check['max_abs']:.2g}{top1}, on "
            f"{check['n']} seeded inputs"
        )
    if about["calibration"] and about["precision"] != "fp16" and about["calibration"].get("method"):
        found.append(f"{about['precision']} ranges: {_ranges(about['calibration'])}")
    for one in about.get("variants", ()):
        drop = "unmeasured" if one["top1_drop"] is None else f"{one['top1_drop']:+.2f} points"
        kept = "kept" if one.get("kept", one["name"] == options_.get("int8_mode")) else "not kept"
        gate = {True: "passes", False: "fails", None: "unmeasured"}[one["passed"]]
        found.append(
            f"{about['precision']}, {_variant(one)}: {math.exp(one['log_ms']):.3f} ms (geometric mean of the batches), "
            f"drop {drop}, gate {gate}, {_converting(one)}: {kept}"
        )
    for one in about.get("failed_variants", ()):
        found.append(f"{about['precision']} {one['name']}: could not be built: {one['why']}")
    if about.get("search"):
        found.append(f"{about['precision']} search: {_searched(about)}")
    chosen = about.get("chosen")
    if chosen:
        times = [f"{name} {math.exp(value):.3f} ms" for name, value in sorted(chosen["log_ms"].items())]
        times += [f"{name} fails the gate" for name in chosen.get("failed", ())]
        times += [f"{name}: {why}" for name, why in chosen.get("untried", {}).items()]
        found.append(f"best is {chosen['precision']} (geometric mean of the batches): {', '.join(times)}")
    medians = [one["median_ms"] for one in options_.get("builds", ()) if one.get("median_ms") is not None]
    if len(medians) > 1:
        spread = 100 * (max(medians) - min(medians)) / min(medians)
        found.append(
            f"{about['precision']}: {len(medians)} plans, {min(medians):.3f} ms the fastest, {spread:.1f}% apart"
        )
    if options_.get("trtexec"):
        last = f", for batch {about['batches'][-1]} alone" if len(about["batches"]) > 1 else ""  # it has one profile
        found.append(f"{about['precision']} by trtexec{last}: {shlex.join(options_['trtexec'])}")
    return found


def _ranges(calibration: Dict[str, Any]) -> str:
    """How INT8's ranges were found: `peaks:95 of 12 methods, from 512 images of cifar10`."""
    method = calibration["method"]
    if not isinstance(method, dict):
        return str(method)
    value = method.get("percentile") or method.get("momentum")
    tried = len(calibration.get("candidates") or ())
    of = f" of {tried} methods" if tried > 1 else ""
    data = (calibration.get("dataset") or {}).get("name")
    images = f", from {calibration['samples']} images of {data}" if data else ""
    return f"{method['name']}{'' if value is None else f':{value:g}'}{of}{images}"


def _variant(one: Dict[str, Any]) -> str:
    """A way in which INT8 was built: TensorRT's two, or so many layers in float."""
    if one["name"] in ("explicit", "implicit"):
        return str(one["name"])
    count = len(one["keep_float"])
    return f"{count} layer{'s' * (count != 1)} in float" if count else "every layer in int8"


def _searched(about: Dict[str, Any]) -> str:
    """What the search for layers that must stay float came to."""
    searches = about["search"]["searches"]
    kept = (about["calibration"] or {}).get("keep_float") or []
    layers = max(len(one["layers"]) for one in searches)
    mixes = sum(len(one["tried"]) for one in searches)
    measured = f"{mixes} mix{'es' * (mixes != 1)} measured in {sum(one['took_s'] for one in searches):.0f} s"
    stopped = stopped_early(about)
    if kept:
        what = f"{len(kept)} of {layers} layers stay float: {', '.join(kept)}"
        return f"{what} ({measured}{', stopped by --search-budget' if stopped else ''})"
    if stopped:
        return f"stopped by --search-budget before a set of layers was found ({measured})"
    return f"no set of layers is enough ({measured})"


def stopped_early(about: Dict[str, Any]) -> bool:
    """Whether the search had no time left to find a set of layers."""
    return not all(one["complete"] for one in (about.get("search") or {"searches": ()})["searches"])


def _converting(one: Dict[str, Any]) -> str:
    """What changes formats between layers, where the backend tells it; else which precisions the layers have."""
    if one["reformats"] is None:
        return " ".join(f"{n}x{k}" for k, n in one["achieved"].items())
    return f"{one['reformats']} reformats, {one['qdq']} Q/DQ layers"


def _row(one: Dict[str, Any]) -> List[str]:
    accuracy = one["accuracy"] or {}
    top1, drop, agreement = accuracy.get("top1"), accuracy.get("top1_drop"), accuracy.get("agreement")
    gate = one["gate"]
    return [
        one["precision"],
        " ".join(f"{n}x{k}" for k, n in one["achieved"].items()) or "unknown",
        f"{one['size_bytes'] / 1e6:.1f} MB",
        "unmeasured" if top1 is None else f"{100 * top1:.2f}%",
        "unmeasured" if drop is None else f"{drop:+.2f}{_spread(accuracy.get('drop_interval'))}",
        "unmeasured" if agreement is None else f"{100 * agreement:.2f}%",
        "unmeasured" if gate is None else "passed" if gate["passed"] else "FAILED",
        "cached" if one["reused"] else f"{one['seconds']:.1f} s",
        f"{Path(one['path']).name} {' '.join(one['flags'])}".rstrip(),
    ]


def _spread(ends: Optional[List[float]]) -> str:
    return f" [{ends[0]:+.2f}, {ends[1]:+.2f}]" if ends else ""


def check_line(check: Dict[str, Any]) -> str:
    """How the exported graph compares with its source."""
    agreement = check.get("top1_agreement")
    top1 = "" if agreement is None else f", top-1 agreement {100 * agreement:.2f}%"
    inputs = "seeded inputs (no data was given)" if check["data"] == "seeded" else f"images of {check['data']}"
    return f"ONNX against the source: largest difference {check['max_abs']:.2g}{top1}, on {check['n']} {inputs}"


def judge(done: List[Build], failed: List[OptimizeError]) -> None:
    """Exit with what the whole call came to: a gate first, then partial."""
    gates = [(b, b.manifest["gate"]) for one in done for b in one.bundles]
    for bundle, gate in gates:
        if gate is not None and not gate["passed"]:
            raise GateError(f"{bundle.precision}: {'; '.join(gate['reasons'])}", _next(bundle))
    errors = failed + [error for one in done for _, error in one.failures]
    if errors:
        if all(error.exit_code == errors[0].exit_code for error in errors) and not any(one.bundles for one in done):
            raise errors[0]
        raise PartialError(f"{len(errors)} of the engines could not be built; the others are kept", errors[0].hint)


def _next(bundle: Built) -> str:
    """What may bring a build past its gate."""
    about = bundle.manifest
    gate, calibration = about["gate"], about["calibration"] or {}
    found = ["another --precision"]
    if stopped_early(about):
        found.append("a longer --search-budget")
    elif bundle.precision == "int8" and not about.get("search"):
        found.append("--search-budget 300, which finds the layers that must stay float")
    if calibration and not calibration.get("imported"):
        found.append("more --samples")
    drop = (about["accuracy"] or {}).get("top1_drop")
    if drop is not None and gate["max_drop"] is not None and drop > gate["max_drop"]:
        found.append("a wider --max-drop")
    if gate["min_agreement"] is not None and 100 * about["accuracy"]["agreement"] < gate["min_agreement"]:
        found.append("a lower --min-agreement")
    return "try " + (", ".join(found[:-1]) + " or " + found[-1] if len(found) > 1 else found[0])
