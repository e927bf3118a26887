"""The trtexec line that builds the same engine, in the words of the version at hand."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from engines.tensorrt import compat


def equivalent(
    trt: Any, onnx: str, precision: str, shapes: Sequence[str], options: Dict[str, Any], workspace: int
) -> List[str]:
    """Words of a trtexec command. trtexec has one profile, so the shapes are those of the last batch;
    who shows the line says so.

    Args:
        trt: The module: from 11 on trtexec has no precision flags.
        onnx: Name of the graph.
        precision: fp32, fp16 or int8.
        shapes: By batch, such as `image:64x3x32x32`.
        options: Of `engines.tensorrt.builder.build`.
        workspace: Bytes.
    """
    words = ["trtexec", f"--onnx={onnx}", "--saveEngine=model.plan", "--profilingVerbosity=detailed"]
    if shapes:
        words += [f"--{name}={shapes[-1]}" for name in ("minShapes", "optShapes", "maxShapes")]
    words.append(f"--memPoolSize=workspace:{workspace >> 20 or format(workspace / (1 << 20), 'f')}")
    words += _precision(trt, precision, options)
    if options.get("dla") is not None:
        words.append(f"--useDLACore={options['dla']}")
        words += ["--allowGPUFallback"] if options.get("gpu_fallback") else []
    if options.get("optimization_level") is not None and hasattr(trt.IBuilderConfig, "builder_optimization_level"):
        words.append(f"--builderOptimizationLevel={options['optimization_level']}")
    if options.get("avg_timing"):
        words.append(f"--avgTiming={options['avg_timing']}")
    if options.get("sparse"):
        words.append("--sparsity=enable")
    if options.get("timing_cache") and options.get("builds", 1) == 1:  # one of several plans is built without it
        words.append("--timingCacheFile=timing.cache")
    return words


def _precision(trt: Any, precision: str, options: Dict[str, Any]) -> List[str]:
    if precision == "fp32":
        return ["--noTF32"]
    if not compat.weakly_typed(trt):
        return []
    if options.get("strongly_typed") and compat.can_strongly_type(trt):
        return ["--stronglyTyped"]
    words = ["--fp16"]
    if precision == "int8":
        words.append("--int8")
        words += ["--calib=calibration.cache"] if options.get("int8_mode") == "implicit" else []
    kept = options.get("keep_fp32") or []
    if kept:
        words += ["--precisionConstraints=obey", "--layerPrecisions=" + ",".join(f"{name}:fp32" for name in kept)]
    return words
