"""Does an engine do what the original does? Numbers on the same inputs, accuracy on the same images, and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from engines import child, jsonfile, manifest, scratch
from engines.errors import UsageError
from engines.spec import Progress, RunnerSpec, quiet
from optimize.pipeline.inputs import child_env
from optimize.pipeline.options import DEFAULT_MAX_DROP, check_gates, parse_batches

_SEEDED = 64


def verify(
    bundle: Union[str, Path],
    against: Union[str, Path],
    data: Optional[str] = None,
    max_drop: Optional[float] = None,
    min_agreement: Optional[float] = None,
    batch: Optional[int] = None,
    seed: int = 0,
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Check an engine bundle against the original in float32.

    Args:
        bundle: Engine bundle.
        against: The original model.
        data: Data set whose test images measure accuracy; None compares numbers on seeded inputs.
        max_drop: Points of top-1 that may be lost; 1.0 by default where there are labels.
        min_agreement: Percent of images on which both must agree, or None.
        batch: Of the engine; its largest by default.
        seed: Of seeded inputs.
        progress: Told what happens.
        source: Options of `optimize.sources.recognise` for the original.

    Returns:
        `passed`, `reasons`, `accuracy` (None without data), `check` (None with data of a classifier), and `lines`.

    Raises:
        UsageError: A gate without data, or `bundle` is no bundle.
        DamagedError, IncompatibleError: The bundle will not run here.
    """
    from optimize.sources import recognise

    check_gates(max_drop, min_agreement, data)
    engine = recognise(str(bundle))
    if engine.kind != "bundle":
        raise UsageError(f"{bundle} is not an engine bundle", f"optimize build {bundle} --precision fp16")
    about = manifest.read(Path(engine.path))
    manifest.runner_spec(Path(engine.path), engine)  # says why it will not run before any work is done
    preprocess = source.pop("preprocess", None)
    original = recognise(str(against), **source, preprocess=preprocess)
    pre = original.preprocess or about["preprocess"]
    original = reference(original.with_(preprocess=pre, task=about["task"]))
    if original.kind == "bundle":
        raise UsageError(f"--against {against} is an engine bundle; the original model is expected")
    size = max(about["batches"]) if batch is None else parse_batches([str(batch)])[0]
    if data is None or about["task"] != "classify":
        arguments = {"data": data or "", "n": _SEEDED, "seed": seed}
        check = child.call(
            "optimize.exporters.check:compare",
            {"reference": original.to_json(), "candidate": engine.with_(preprocess=pre).to_json(), **arguments},
            progress,
            child_env(original),
        )
        reasons = [] if check["passed"] else [f"outputs differ: largest difference {check['max_abs']:.3g}"]
        return {
            "passed": not reasons,
            "reasons": reasons,
            "accuracy": None,
            "check": check,
            "lines": [*_lines(None, check), *_verdict(about, original, reasons)],
        }
    with scratch.folder() as folder:
        scores = []
        for number, spec in enumerate((original, engine.with_(preprocess=pre))):
            arguments = {"data": data, "batch": size, "out": str(Path(folder, f"{number}.npz"))}
            scores.append(
                child.call("bench.accuracy:evaluate", {"spec": spec.to_json(), **arguments}, progress, child_env(spec))
            )
        accuracy = accuracy_against(scores[0], scores[1])
    gate = judge(accuracy, DEFAULT_MAX_DROP if max_drop is None else max_drop, min_agreement)
    return {
        "passed": gate["passed"],
        "reasons": gate["reasons"],
        "accuracy": accuracy,
        "check": None,
        "lines": [*_lines(accuracy, None), *_verdict(about, original, gate["reasons"])],
    }


def _verdict(about: Dict[str, Any], original: RunnerSpec, reasons: List[str]) -> List[str]:
    """Passed or not, and whether this original is the file that the bundle was built from."""
    made_from = about["model"]
    same = jsonfile.sha256(original.path) == made_from["sha256"]
    note = [] if same else [f"note       the bundle was built from another file, {made_from['name']}"]
    return [*note, "verdict    " + ("FAILED: " + "; ".join(reasons) if reasons else "passed")]


def reference(source: RunnerSpec) -> RunnerSpec:
    """The source as everything is held against: every layer in float32."""
    return source.with_(policy="float32", backend="onnxruntime" if source.kind == "onnx" else "")


def accuracy_against(source: Dict[str, Any], engine: Dict[str, Any]) -> Dict[str, Any]:
    """Join two results of `bench.accuracy.evaluate` on the same images into an engine's accuracy."""
    from bench.accuracy import compare

    accuracy = {k: engine.get(k) for k in ("top1", "top5", "n", "dataset", "batches")}
    accuracy.update(compare(Path(source["predictions"]), Path(engine["predictions"])))
    accuracy["source_top1"] = source["top1"]
    return accuracy


def judge(accuracy: Dict[str, Any], max_drop: float, min_agreement: Optional[float]) -> Dict[str, Any]:
    """The gate on an engine's accuracy: `passed`, the limits, and `reasons` in words where it fails."""
    reasons = []
    drop, agreement = accuracy.get("top1_drop"), 100 * accuracy["agreement"]
    if drop is not None and drop > max_drop:
        reasons.append(f"top-1 drops by {drop:.2f} points, {max_drop:g} are allowed")
    if min_agreement is not None and agreement < min_agreement:
        reasons.append(f"agreement is {agreement:.2f}%, {min_agreement:g}% are asked")
    return {
        "passed": not reasons,
        "max_drop": max_drop if drop is not None else None,
        "min_agreement": min_agreement,
        "reasons": reasons,
    }


def _lines(accuracy: Optional[Dict[str, Any]], check: Optional[Dict[str, Any]]) -> List[str]:
    if accuracy is not None:
        about = accuracy["dataset"]
        known = accuracy["top1"] is not None
        return [
            f"top-1      {100 * accuracy['top1']:.2f}% (original {100 * accuracy['source_top1']:.2f}%), "
            f"drop {accuracy['top1_drop']:+.2f} points"
            if known
            else "top-1      unmeasured: the images have no labels",
            f"agreement  {100 * accuracy['agreement']:.2f}%",
            f"images     {about['n']} of {about['name']}",
        ]
    assert check is not None
    out = [f"largest difference {check['max_abs']:.3g} on {check['n']} {check['data']} inputs"]
    if check.get("top1_agreement") is not None:
        out.append(f"top-1 agreement {100 * check['top1_agreement']:.2f}%")
    return [*out, "accuracy unmeasured: add --data cifar10|DIR|FILE.npz"]
