"""Options that several commands share, each written once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import UsageError
from optimize.cli.console import VOICE, set_voice


def _json(value: bool) -> bool:
    VOICE.json = value
    return value


def _quiet(value: bool) -> bool:
    VOICE.quiet = value
    return value


def _verbose(value: bool) -> bool:
    set_voice(VOICE.json, VOICE.quiet, value, VOICE.progress)
    return value


def _progress(value: bool) -> bool:
    VOICE.progress = value
    return value


def _config(context: typer.Context, value: Optional[Path]) -> Optional[Path]:
    """Let a TOML file give defaults: a table a command, keys as the long options without the dashes."""
    file = value or (Path("optimize.toml") if Path("optimize.toml").is_file() else None)
    if file is not None:
        try:
            table = read_config(file).get(context.info_name or "", {})
        except UsageError as error:
            raise typer.BadParameter(error.message) from None
        known = {name.lstrip("-").replace("-", "_"): p for p in context.command.params for name in p.opts}
        for key in table:
            if key not in known:
                raise typer.BadParameter(f"{file}: [{context.info_name}] has no option {key!r}")
        context.default_map = {
            str(known[key].name): [str(entry)] if known[key].multiple and not isinstance(entry, list) else entry
            for key, entry in table.items()
        }
    return value


def read_config(file: Path) -> Dict[str, Dict[str, Any]]:
    """Read an `optimize.toml`: `[build]`, `[bench]` … tables of options by their long names.

    Raises:
        UsageError: No such file, or not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"no such configuration file: {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from None
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        raise UsageError(f"{file}: {loose[0]!r} stands in no table: options go under [build], [bench] ...")
    return {
        command: {key.replace("-", "_"): value for key, value in table.items()} for command, table in tables.items()
    }


def batches(text: str) -> Any:
    """`--batch` with several sizes, and what they are for."""
    return typer.Option("--batch", metavar="1,64", help=f"{text}; repeat or use commas, 1..64 doubles [default: 1,64].")


def data(text: str) -> Any:
    """`--data`, and what a command does with the images."""
    return typer.Option("--data", metavar="cifar10|DIR|NPZ|synthetic", help=text)


Json = Annotated[
    bool, typer.Option("--json", help="Print the result, and an error in it, as one JSON document.", callback=_json)
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Say nothing but errors, warnings and what was asked for.", callback=_quiet),
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Show the log of the Python packages on stderr.", callback=_verbose)
]
ShowProgress = Annotated[
    bool, typer.Option("--progress/--no-progress", help="Show bars on stderr.", callback=_progress)
]
Config = Annotated[
    Optional[Path],
    typer.Option(
        "--config",
        help="TOML file of options, a table a command [default: ./optimize.toml].",
        is_eager=True,
        callback=_config,
    ),
]

CustomObjects = Annotated[
    Optional[str],
    typer.Option(
        "--custom-objects", metavar="FILE.py:NAME[,NAME]", help="Classes and functions that a Keras file needs."
    ),
]
Factory = Annotated[
    Optional[str],
    typer.Option(
        "--factory",
        metavar="FILE.py:NAME|MODEL",
        help="What makes the module of a PyTorch state_dict: a function or class, or a zoo, torchvision or timm model.",
    ),
]
InputShape = Annotated[
    Optional[str],
    typer.Option(
        "--input-shape", metavar="3x32x32", help="Size of the model's input in its own order, without the batch."
    ),
]
Preprocess = Annotated[
    Optional[str],
    typer.Option(
        "--preprocess",
        help="What the model was trained on: raw, unit, imagenet, mean=..;std=.., resize=.., or the name of a "
        "torchvision or timm model.",
    ),
]
Task = Annotated[
    Optional[str], typer.Option("--task", help="What the model does: classify (default), or tensors for anything else.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves the runtime's default.")]

Workspace = Annotated[
    str, typer.Option("--workspace", help="TensorRT: scratch memory of the builder, auto or such as 512MiB.")
]
TimingCache = Annotated[
    Optional[Path],
    typer.Option("--timing-cache", help="TensorRT: file of measured tactics [default: one under .optimize/]."),
]
Dla = Annotated[
    Optional[int], typer.Option("--dla", metavar="CORE", help="TensorRT: build for this deep-learning accelerator.")
]
GpuFallback = Annotated[
    bool, typer.Option("--gpu-fallback", help="TensorRT: what the accelerator lacks runs on the GPU.")
]
Int8Mode = Annotated[
    str,
    typer.Option(
        "--int8-mode",
        help="TensorRT: explicit (Q/DQ), implicit (it calibrates) or auto: both, the faster kept.",
    ),
]
Builds = Annotated[int, typer.Option("--builds", help="TensorRT: plans to build; they differ, and one is kept.")]
Keep = Annotated[str, typer.Option("--keep", help="TensorRT: of several plans keep the best or the median.")]
OptimizationLevel = Annotated[
    Optional[int], typer.Option("--optimization-level", help="TensorRT: how long its builder tries, 0 to 5.")
]
SplitBatches = Annotated[bool, typer.Option("--split-batches", help="TensorRT: one plan for each batch size.")]
SearchBudget = Annotated[
    float,
    typer.Option(
        "--search-budget", metavar="SECONDS", help="Time to find layers that must stay float if INT8 fails; 0: none."
    ),
]
ExpectTop1 = Annotated[
    Optional[float],
    typer.Option("--expect-top1", metavar="PERCENT", help="Top-1 the model is known for; far less is warned of."),
]
CalibrationCache = Annotated[
    Optional[Path],
    typer.Option("--calibration-cache", metavar="FILE", help="Scales for INT8 from a TensorRT calibration cache."),
]
Without = Annotated[
    Optional[List[str]],
    typer.Option("--without", metavar="STEP", help="INT8 step not to try: equalization, bias-correction; repeat."),
]
KeepFp32 = Annotated[
    Optional[List[str]],
    typer.Option("--keep-fp32", metavar="NODE", help="ONNX node that stays float in a lower precision; repeat."),
]
