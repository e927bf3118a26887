"""What TensorRT is asked beyond precision and batches, and the graphs that its versions want."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from engines.errors import IncompatibleError, UsageError
from engines.spec import Progress, quiet

INT8_MODES = ("auto", "explicit", "implicit")
KEEP = ("best", "median")

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}

_LARGEST = 2**63
"""A size beyond it is none: TensorRT takes it as an unsigned word."""


@dataclass(frozen=True)
class TensorRTOptions:
    """Options that only TensorRT has.

    Attributes:
        workspace: Scratch memory of the builder: `auto` fits what is free, else bytes such as `512MiB`.
        timing_cache: File of measured tactics; None keeps one beside the stages.
        dla: Core of the deep-learning accelerator, or None for the GPU.
        gpu_fallback: Layers that the accelerator lacks may run on the GPU.
        int8_mode: explicit takes Q/DQ pairs, implicit TensorRT's own calibrator, auto builds both where both exist and
            keeps the faster one that passes the gate.
        builds: Plans to build; one is kept.
        keep: Of several plans, the `best` or the `median` one by latency.
        optimization_level: Of the builder, 0 to 5; None leaves its default.
        split_batches: One plan for each batch instead of one profile each.
    """

    workspace: str = "auto"
    timing_cache: Optional[Path] = None
    dla: Optional[int] = None
    gpu_fallback: bool = False
    int8_mode: str = "auto"
    builds: int = 1
    keep: str = "best"
    optimization_level: Optional[int] = None
    split_batches: bool = False

    def __post_init__(self) -> None:
        self.workspace_bytes()
        for option, value, known in (("--int8-mode", self.int8_mode, INT8_MODES), ("--keep", self.keep, KEEP)):
            if value not in known:
                raise UsageError(f"{option} {value}: {', '.join(known)} are known")
        for option, number, low, high in (
            ("--builds", self.builds, 1, 100),
            ("--dla", self.dla, 0, 15),
            ("--optimization-level", self.optimization_level, 0, 5),
        ):
            if number is not None and not low <= number <= high:
                raise UsageError(f"{option} {number}: {low} to {high} are possible")
        if self.gpu_fallback and self.dla is None:
            raise UsageError("--gpu-fallback means layers that an accelerator lacks", "give --dla 0 with it")

    def workspace_bytes(self) -> Any:
        """`auto`, or bytes.

        Raises:
            UsageError: Neither.
        """
        if self.workspace == "auto":
            return "auto"
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", self.workspace.strip())
        unit = _UNITS.get(found.group(2).upper()) if found else None
        if not found or not unit or not 1 <= float(found.group(1)) * unit < _LARGEST:
            raise UsageError(
                f"--workspace {self.workspace}: auto or a size is expected", "for example --workspace 512MiB"
            )
        return int(float(found.group(1)) * unit)

    def given(self) -> List[str]:
        """The options that were asked for, as they are typed."""
        return [f"--{f.name.replace('_', '-')}" for f in fields(self) if getattr(self, f.name) != f.default]

    def int8_modes(self, able: Dict[str, Any]) -> Tuple[str, ...]:
        """The ways to build INT8.

        An accelerator takes INT8 from TensorRT's calibrator only; Q/DQ pairs would leave its layers to the GPU.
        Source: "Accelerating AI inference with TensorRT and DLA", NVIDIA's developer blog; NVIDIA/TensorRT#2222.

        Args:
            able: From `capabilities`.

        Raises:
            IncompatibleError: This TensorRT, or the accelerator, does not have the way that was asked for.
        """
        calibrates = able["weakly_typed"] and able["calibrator"]
        if not calibrates and (self.int8_mode == "implicit" or self.dla is not None):
            asked = "--int8-mode implicit" if self.dla is None else f"--dla {self.dla} in INT8"
            raise IncompatibleError(
                f"{asked}: TensorRT {able['version']} has no calibrator of its own, which it needs",
                "--int8-mode explicit" if self.dla is None else "--precision fp16",
            )
        if self.dla is not None:
            if self.int8_mode == "explicit":
                raise IncompatibleError(
                    f"--int8-mode explicit --dla {self.dla}: an accelerator does not run Q/DQ graphs",
                    "--int8-mode implicit",
                )
            return ("implicit",)
        if self.int8_mode == "auto":
            return ("explicit", "implicit") if calibrates else ("explicit",)
        return (self.int8_mode,)

    def settings(self) -> Dict[str, Any]:
        """What decides the plan, for `engines.tensorrt.build`."""
        return {
            "workspace": self.workspace_bytes(),
            "dla": self.dla,
            "gpu_fallback": self.gpu_fallback,
            "builds": self.builds,
            "keep": self.keep,
            "optimization_level": self.optimization_level,
            "split_batches": self.split_batches,
        }


def capabilities(progress: Progress = quiet) -> Dict[str, Any]:
    """What this TensorRT can do, asked by name and not by version (runs in a child process).

    Returns:
        `weakly_typed` (precision by builder flags), `calibrator` (TensorRT calibrates INT8 itself), `version`.
    """
    from engines.tensorrt import compat

    trt = compat.tensorrt()
    return {
        "weakly_typed": hasattr(trt.BuilderFlag, "FP16"),
        "calibrator": hasattr(trt, "IInt8EntropyCalibrator2") and hasattr(trt.IBuilderConfig, "int8_calibrator"),
        "version": str(trt.__version__),
    }


def cast_fp16(
    onnx: str,
    out: str,
    keep: Sequence[str] = (),
    measured: str = "",
    images: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """The graph with its float layers in FP16, for a TensorRT that takes precision from the graph only (a stage).

    Args:
        onnx: FP32 graph, with or without Q/DQ pairs.
        out: The ONNX file to write.
        keep: Names of nodes that stay in float32.
        measured: The FP32 graph without Q/DQ pairs, whose tensors are measured where `images` are given.
        images: Arguments of `calibration_images`; layers that would overflow on them stay in float32.
        progress: Told what happens.

    Returns:
        What `calib.fp16.cast` did, `onnx`, and `measured_images` (0 where nothing was measured).
    """
    from calib import fp16

    ranges, count = None, 0
    if images:
        name, count, _, batches = calibration_images(measured, **images)
        ranges = fp16.ranges_for(Path(measured), ({name: x} for x in batches), progress, count)
    progress("casting to FP16", 0, 0)
    done = fp16.cast(Path(onnx), Path(out), keep=tuple(keep), ranges=ranges)
    return {"onnx": out, "measured_images": count, **done}


def calibration_feeds(onnx: str, out: str, images: Dict[str, Any], progress: Progress = quiet) -> Dict[str, Any]:
    """Preprocessed calibration images in one `.npz`, for TensorRT's own calibrator (a stage).

    Returns:
        `feeds` (the file, one float32 array by the input's name, all images first), `samples`, `dataset`.
    """
    import numpy as np

    from engines import jsonfile

    name, count, about, batches = calibration_images(onnx, **images, progress=progress)
    parts = list(batches)
    with jsonfile.replacing_file(Path(out)) as part, open(part, "wb") as handle:
        np.savez(handle, **{name: np.concatenate(parts)})
    return {"feeds": out, "samples": count, "dataset": about, "seed": images["seed"]}


def calibration_images(
    onnx: str,
    data: str,
    preprocess: Dict[str, Any],
    layout: str,
    samples: int,
    seed: int,
    progress: Progress = quiet,
) -> Tuple[str, int, Dict[str, Any], Iterator[Any]]:
    """The graph's input, how many images there are, what they are, and their float32 batches."""
    from calib import graph as graphs
    from calib.calibrate import image_input
    from calib.datasets import open_dataset
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    image = image_input(graphs.load(onnx), onnx, layout)
    dataset = open_dataset(data, "calibration", samples, seed)
    fed = batches(dataset, Preprocess.from_json(preprocess), image.layout, image.size, image.batch or 32, progress)
    return image.spec.name, len(dataset), dataset.describe(), (x for x, _ in fed)
