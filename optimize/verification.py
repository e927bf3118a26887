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
        `passed`, `reasons`, `accuracy` (None without data), `check` (None with data of a classifier),
        `warnings` (of images that are not what the original knows) and `lines`.

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
        reasons = [f"outputs differ: {reason}" for reason in check["reasons"]]
        return {
            "passed": not reasons,
            "reasons": reasons,
            "accuracy": None,
            "check": check,
            "warnings": [],
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
    warnings = surprise(scores[0], about["accuracy"])
    if max_drop is not None and accuracy["top1"] is None:
        raise UsageError(f"--max-drop {max_drop:g}: the images of {data} have no labels", "--min-agreement 99")
    gate = judge(accuracy, DEFAULT_MAX_DROP if max_drop is None else max_drop, min_agreement)
    reasons = gate["reasons"] if gate else []
    return {
        "passed": not reasons,
        "reasons": reasons,
        "accuracy": accuracy,
        "check": None,
        "warnings": warnings,
        "lines": [*_lines(accuracy, None), *_verdict(about, original, reasons, gate is not None)],
    }


def _verdict(about: Dict[str, Any], original: RunnerSpec, reasons: List[str], judged: bool = True) -> List[str]:
    """Passed or not, and whether this original is the file that the bundle was built from."""
    made_from = about["model"]
    same = jsonfile.sha256(original.path) == made_from["sha256"]
    note = [] if same else [f"note       the bundle was built from another file, {made_from['name']}"]
    passed = "passed" if judged else "none: without labels only --min-agreement judges"
    return [*note, "verdict    " + ("FAILED: " + "; ".join(reasons) if reasons else passed)]


def reference(source: RunnerSpec) -> RunnerSpec:
    """The source as everything is held against: every layer in float32."""
    return source.with_(policy="float32", backend="onnxruntime" if source.kind == "onnx" else "")


def accuracy_against(source: Dict[str, Any], engine: Dict[str, Any]) -> Dict[str, Any]:
    """Join two results of `bench.accuracy.evaluate` on the same images into an engine's accuracy."""
    from bench.accuracy import compare

    accuracy = {k: engine.get(k) for k in ("top1", "top5", "n", "dataset", "batches")}
    classes = engine.get("classes") or ()
    accuracy.update(compare(Path(source["predictions"]), Path(engine["predictions"]), classes))
    accuracy["source_top1"], accuracy["source_top5"] = source["top1"], source.get("top5")
    return accuracy


def judge(accuracy: Dict[str, Any], max_drop: float, min_agreement: Optional[float]) -> Optional[Dict[str, Any]]:
    """The gate on an engine's accuracy: `passed`, the limits, and `reasons` in words where it fails.

    None where nothing can be judged: the images have no labels, and no agreement is asked for.
    """
    reasons = []
    drop, agreement = accuracy.get("top1_drop"), 100 * accuracy["agreement"]
    if drop is None and min_agreement is None:
        return None
    if drop is not None and drop > max_drop:
        reasons.append(
            f"top-1 drops by {drop:.2f} points{_between(accuracy, 'drop_interval')}, {max_drop:g} are allowed"
        )
    if min_agreement is not None and agreement < min_agreement:
        within = _between(accuracy, "agreement_interval", 100)
        reasons.append(f"agreement is {agreement:.2f}%{within}, {min_agreement:g}% are asked")
    return {
        "passed": not reasons,
        "max_drop": max_drop if drop is not None else None,
        "min_agreement": min_agreement,
        "reasons": reasons,
    }


def _between(accuracy: Dict[str, Any], name: str, scale: float = 1) -> str:
    """An interval in brackets, in the unit of what stands before it."""
    ends = accuracy.get(name)
    return f" (95%: {scale * ends[0]:.2f} to {scale * ends[1]:.2f})" if ends else ""


def _lines(accuracy: Optional[Dict[str, Any]], check: Optional[Dict[str, Any]]) -> List[str]:
    if accuracy is not None:
        about = accuracy["dataset"]
        return [
            *_labelled(accuracy),
            f"agreement  {100 * accuracy['agreement']:.2f}%{_between(accuracy, 'agreement_interval', 100)}",
            f"images     {about['n']} of {about['name']}",
        ]
    assert check is not None
    where = "" if check["finite"] == 1 else f" where both are finite ({100 * check['finite']:.3g}% of the numbers)"
    size = f"largest difference {check['max_abs']:.3g}{where}" if check["finite"] else "no numbers to compare"
    out = [f"{size} on {check['n']} {check['data']} inputs"]
    if check.get("top1_agreement") is not None:
        out.append(f"top-1 agreement {100 * check['top1_agreement']:.2f}%")
    return [*out, "accuracy unmeasured: add --data cifar10|DIR|FILE.npz"]


def _labelled(accuracy: Dict[str, Any]) -> List[str]:
    """What labels tell: both accuracies, the drops, whether chance explains them, and the classes that lose most."""
    if accuracy["top1"] is None:
        return ["top-1      unmeasured: the images have no labels"]
    out = []
    for k, interval in ((1, "drop_interval"), (5, "top5_drop_interval")):
        if accuracy.get(f"top{k}_drop") is not None:
            out.append(
                f"top-{k}      {100 * accuracy[f'top{k}']:.2f}% (original {100 * accuracy[f'source_top{k}']:.2f}%), "
                f"drop {accuracy[f'top{k}_drop']:+.2f} points{_between(accuracy, interval)}"
            )
    out.append(
        f"images     {accuracy['lost']} right before only, {accuracy['won']} now only; "
        f"by chance with p = {accuracy['mcnemar_p']:.2g} (McNemar, exact)"
    )
    for one in accuracy["worst_classes"]:
        out.append(f"  class    {one['name']}: {one['after']} of {one['n']} right, {one['before']} before")
    return out


def surprise(source: Dict[str, Any], recorded: Optional[Dict[str, Any]], expected: Optional[float] = None) -> List[str]:
    """Warnings where the original itself is less accurate than it should be: then the images are not what it knows.

    Args:
        source: Of the original: `top1`, `n`, `class_count`; empty where nothing was measured.
        recorded: Accuracy in a manifest, whose `source_top1` was measured before; or None.
        expected: Percent of top-1 that the user expects, or None.
    """
    from bench.paired import by_chance, unexpected

    top1, n = source.get("top1"), source.get("n", 0)
    if top1 is None:
        return []
    seen = f"the original is right on {100 * top1:.2f}% of these {n} images"
    why = "images of another scale, order of colours or labels than it was trained on? see --preprocess"
    before = recorded.get("source_top1") if recorded else None
    if expected is not None and unexpected(top1, n, expected / 100):
        return [f"{seen}, {expected:g}% are expected: {why}"]
    if recorded and before is not None and unexpected(top1, n, before, recorded["dataset"]["n"]):
        return [f"{seen}, {100 * before:.2f}% were recorded of {recorded['dataset']['name']}: {why}"]
    if source.get("class_count", 0) > 1 and by_chance(top1, n, source["class_count"]):
        return [f"{seen}, no more than by guessing: {why}"]
    return []
