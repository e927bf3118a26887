"""`optimize export`, `optimize build`, `optimize verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import GateError, OptimizeError, UsageError
from optimize.cli import built, options
from optimize.cli.console import VOICE, answer, failure, progress, say, warn

if TYPE_CHECKING:
    from optimize.pipeline.results import Build


def export(
    model: Annotated[Path, typer.Argument(help="Keras, SavedModel, PyTorch or ONNX model.")],
    out: Annotated[
        Optional[Path],
        typer.Option("-o", "--out", metavar="F.onnx", help="File to write [default: MODEL.onnx beside the model]."),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset, 13 to 17.")] = 17,
    batch: Annotated[str, typer.Option("--batch", help="Batch of the graph: a number, or dynamic.")] = "dynamic",
    layout: Annotated[
        str, typer.Option("--layout", help="Layout of image inputs, NHWC or NCHW [default: the source's].")
    ] = "",
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Check the graph against the source.")] = True,
    data: Annotated[
        Optional[str], options.data("Images for the check against the source [default: seeded inputs].")
    ] = None,
    *,
    source: Dict[str, Any],
) -> None:
    """Write a model as a true FP32 ONNX graph, checked against the source.

    Exit code 3 where the graph does not do what the source does.
    """
    from optimize import api

    with progress() as report:
        done = api.export(
            model, out=out, opset=opset, batch=batch, layout=layout, verify=verify, data=data, progress=report, **source
        )
    answer(done, [done["onnx"]])
    say(built.check_line(done["check"]) if done["check"] else "not checked against the source (--no-verify)")
    if done["check"] and not done["check"]["passed"]:
        raise GateError(
            f"{done['onnx']} does not do what {model.name} does", "optimize export --no-verify keeps it anyway"
        )


def build(
    models: Annotated[
        Optional[List[Path]], typer.Argument(metavar="MODEL...", help="Keras, SavedModel, PyTorch or ONNX models.")
    ] = None,
    precision: Annotated[
        Optional[List[str]],
        typer.Option("--precision", help="fp32, fp16, int8, best; repeat or use commas [default: fp16]."),
    ] = None,
    batch: Annotated[Optional[List[str]], options.batches("Batch sizes that the engines serve")] = None,
    data: Annotated[
        Optional[str], options.data("Images that INT8 is calibrated with and accuracy is measured on.")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="What builds: auto, tensorrt, openvino or onnxruntime.")
    ] = "auto",
    max_drop: Annotated[
        Optional[float],
        typer.Option("--max-drop", help="Points of top-1 that an engine may lose [default: 1.0]; needs --data."),
    ] = None,
    min_agreement: Annotated[
        Optional[float],
        typer.Option("--min-agreement", help="Percent of images on which engine and model must agree; needs --data."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Images that INT8 is calibrated with, at most.")] = 512,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of what is drawn: calibration images, inputs of checks.")
    ] = 0,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset, 13 to 17.")] = 17,
    layout: Annotated[
        str, typer.Option("--layout", help="Layout of image inputs, NHWC or NCHW [default: the source's].")
    ] = "",
    threads: options.Threads = 0,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "-o", "--out", metavar="DIR", help="Folder for the bundles [default: MODEL.optimized beside the model]."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build again what is there, and replace another model's bundles.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and stop; code that the model needs is run.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail (exit 4) if fp16 is asked and this machine has no fast 16-bit format."),
    ] = False,
    keep_fp32: options.KeepFp32 = None,
    without: options.Without = None,
    calibration_cache: options.CalibrationCache = None,
    expect_top1: options.ExpectTop1 = None,
    search_budget: options.SearchBudget = 300.0,
    workspace: options.Workspace = "auto",
    timing_cache: options.TimingCache = None,
    dla: options.Dla = None,
    gpu_fallback: options.GpuFallback = False,
    int8_mode: options.Int8Mode = "auto",
    builds: options.Builds = 1,
    keep: options.Keep = "best",
    optimization_level: options.OptimizationLevel = None,
    split_batches: options.SplitBatches = False,
    *,
    source: Dict[str, Any],
    fp16: Annotated[bool, typer.Option("--fp16", "--half", hidden=True)] = False,
    int8: Annotated[bool, typer.Option("--int8", hidden=True)] = False,
    best: Annotated[bool, typer.Option("--best", hidden=True)] = False,
    onnx: Annotated[Optional[Path], typer.Option("--onnx", hidden=True)] = None,
    save_engine: Annotated[Optional[Path], typer.Option("--saveEngine", hidden=True)] = None,
) -> None:
    """Build engines and verify them: `optimize build resnet34.keras --precision fp16`.

    Exit code 3 where an engine misses its gate, 5 where some could not be built; the others are kept.
    """
    from optimize import api

    todo = [*(models or []), *([onnx] if onnx else [])]
    if not todo:
        raise UsageError("no model was given", "optimize build MODEL --precision fp16")
    # trtexec's meaning of its flags: --int8 --fp16 together is one INT8 build with FP16 elsewhere
    alias = "best" if best else "int8" if int8 else "fp16" if fp16 else None
    words = precision or [alias or "fp16"]
    if len(todo) > 1 and (out or save_engine):
        raise UsageError("-o names one folder, but several models were given", "leave -o out: each gets its own")
    given = {
        "precision": words,
        "batch": batch or ["1,64"],
        "data": data,
        "backend": backend,
        "max_drop": max_drop,
        "min_agreement": min_agreement,
        "samples": samples,
        "seed": seed,
        "opset": opset,
        "layout": layout,
        "threads": threads,
        "out": out or save_engine,
        "force": force,
        "strict": strict,
        "keep_fp32": tuple(keep_fp32 or ()),
        "without": tuple(without or ()),
        "expect_top1": expect_top1,
        "calibration_cache": calibration_cache.resolve() if calibration_cache else None,
        "search_budget": search_budget,
        "workspace": workspace,
        "timing_cache": timing_cache.resolve() if timing_cache else None,
        "dla": dla,
        "gpu_fallback": gpu_fallback,
        "int8_mode": int8_mode,
        "builds": builds,
        "keep": keep,
        "optimization_level": optimization_level,
        "split_batches": split_batches,
        **source,
    }
    if dry_run:
        with progress() as report:
            plans = [api.plan(model, progress=report, **given) for model in todo]
        told = [text for plan in plans for text in plan["lines"]]
        answer(plans if len(plans) > 1 else plans[0], told, asked=True)
        return
    done: List[Build] = []
    failed: List[OptimizeError] = []
    answers: List[Dict[str, Any]] = []
    for model in todo:
        try:
            with progress() as report:
                done.append(api.build(model, progress=report, **given))
            answers.append(done[-1].to_json())
        except OptimizeError as error:
            if len(todo) == 1:
                raise
            warn(f"error: {model.name}: {error.message}" + (f"\n  try: {error.hint}" if error.hint else ""))
            failed.append(error)
            answers.append({"model": str(model), "error": failure(error)})
        except (Exception, KeyboardInterrupt):
            if answers:
                answer(answers, ())  # what the models before it came to
            raise

    def show() -> None:
        for one in done:
            built.show(one)

    answer(answers if len(todo) > 1 else answers[0], show)
    for one in done:
        for text in one.warnings:
            warn(f"warning: {text}")
    if not done:
        raise failed[0]
    for one in done:
        if VOICE.quiet:  # the table told them else
            for bundle in one.bundles:
                for flag in bundle.manifest["flags"]:
                    warn(f"warning: {bundle.path.name}: {flag}")
        for name, why in one.failures:
            warn(f"failed: {name}: {why.message}" + (f"\n  try: {why.hint}" if why.hint else ""))
        say(api.next_command(one, **given))
    built.judge(done, failed)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Engine bundle, a folder that optimize build made.")],
    against: Annotated[Path, typer.Option("--against", metavar="MODEL", help="The original model.")],
    data: Annotated[
        Optional[str], options.data("Test images to measure accuracy on [default: compare numbers on seeded inputs].")
    ] = None,
    max_drop: Annotated[
        Optional[float],
        typer.Option("--max-drop", help="Points of top-1 that the engine may lose [default: 1.0]; needs --data."),
    ] = None,
    min_agreement: Annotated[
        Optional[float],
        typer.Option("--min-agreement", help="Percent of images on which both must agree; needs --data."),
    ] = None,
    batch: Annotated[
        Optional[int], typer.Option("--batch", help="Batch size of the engine [default: the bundle's largest].")
    ] = None,
    *,
    source: Dict[str, Any],
) -> None:
    """Check an engine against the original: numbers, and accuracy where data is given.

    Exit code 3 where it does not hold.
    """
    from optimize import api

    with progress() as report:
        done = api.verify(
            bundle,
            against=against,
            data=data,
            max_drop=max_drop,
            min_agreement=min_agreement,
            batch=batch,
            progress=report,
            **source,
        )
    answer(done, done["lines"])
    for text in done["warnings"]:
        warn(f"warning: {text}")
    if not done["passed"]:
        raise GateError(
            "; ".join(done["reasons"]),
            "build with another --precision, or accept more with --max-drop and --min-agreement",
        )
