"""The FP32 graphs that the quantisers are compared on, each exported by `optimize export` as any user's model is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from bench.peers import environments
from engines import child, jsonfile
from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import Progress, quiet

SHARED = Path(__file__).resolve().parents[3] / "shared"
"""Real models and images, beside the repository."""

_TAIL = 300


class Graph(NamedTuple):
    """An FP32 graph to quantise.

    Attributes:
        name: For people.
        onnx: The file.
        preprocess: As `calib.preprocess.parse` reads it.
        data: A data set reference.
        trained: Whether labels mean something; else only the numbers are compared.
        images: Test images at most; None for all.
        about: Of a model that was drawn: name, size, parameters, seed.
        wide: Whether activations are large beside the weights (no pooling in the stem), where histograms cost most.
    """

    name: str
    onnx: Path
    preprocess: str
    data: str
    trained: bool
    images: Optional[int] = None
    about: Optional[Dict[str, Any]] = None
    wide: bool = False


class Place(NamedTuple):
    """Where and how models are made: the data, the scratch folder, the seed, the folder of the environments."""

    data: str
    scratch: Path
    seed: int
    environments: Optional[Path]
    progress: Progress = quiet


def _resnet34(place: Place) -> Graph:
    source = shared("models/resnet34_cifar10_bs64_epochs10.keras")
    options = ["--custom-objects", f"{shared('models/train.py')}:ResidualBlock"]
    onnx = _export(source, "resnet34", "unit", options, place)
    return Graph("ResNet-34 (shared)", onnx, "unit", place.data or _cifar(), True)


def _resnet20(place: Place) -> Graph:
    source = shared("models/resnet20_cifar10.pt")
    options = ["--factory", f"{shared('models/resnet_cifar.py')}:resnet20", "--input-shape", "3x32x32"]
    onnx = _export(source, "resnet20", "imagenet", options, place)
    return Graph("ResNet-20 (held aside)", onnx, "imagenet", place.data or _cifar(), True)


def _pad(place: Place) -> Graph:
    about, onnx = _drawn("pad", "imagenet", place)
    name = f"{about['name']} (random weights)"
    return Graph(name, onnx, "imagenet", place.data or _cifar(), False, 1024, about, True)


def _timm(place: Place) -> Graph:
    about, made = _drawn("timm", "imagenet", place)
    preprocess = f"resize={about['size']}x{about['size']},imagenet"
    name = f"{about['name']} (timm, seed {place.seed}, random weights)"
    return Graph(name, made, preprocess, place.data or _cifar(), False, 512, about)


TABLE: Dict[str, Callable[[Place], Graph]] = {
    "resnet34": _resnet34,
    "pad": _pad,
    "resnet20": _resnet20,
    "timm": _timm,
}
"""By the names that `--models` takes."""


def prepare(name: str, preprocess: str, place: Place) -> Graph:
    """Make the graph of a name of `TABLE`, or take an `.onnx` file.

    Raises:
        UsageError: Neither, or a file of ../shared is missing.
        IncompatibleError: What makes it does not install here.
        OptimizeError: It cannot be exported.
    """
    if name in TABLE:
        return TABLE[name](place)
    path = Path(name)
    if path.suffix != ".onnx" or not path.is_file():
        raise UsageError(f"no model {name!r}", f"--models {','.join(TABLE)}, or an .onnx file with --data")
    if not place.data:
        raise UsageError(f"{name}: which images?", "--data cifar10, a folder or an .npz file")
    return Graph(path.stem, _export(path, path.stem, preprocess, [], place), preprocess, place.data, True)


def shared(name: str) -> Path:
    """A file or folder of `SHARED`.

    Raises:
        UsageError: It is not here.
    """
    path = SHARED / name
    if not path.exists():
        raise UsageError(
            f"{path.name} is not here: the shared models and images are expected in ../shared, beside the repository",
            "--models FILE.onnx --data DATA compares on a model of your own",
        )
    return path


def _cifar() -> str:
    return str(shared("data/cifar-10-batches-bin"))


def _export(source: Path, name: str, preprocess: str, options: List[str], place: Place) -> Path:
    out = place.scratch / f"{name}.onnx"
    place.progress(f"exporting {name}", 0, 1)
    words = ["export", str(Path(source).resolve()), "--preprocess", preprocess, "-o", str(out), "-q", *options]
    # A floor may not import the one above it; the command is any user's way to an FP32 graph.
    run([sys.executable, "-m", "optimize", *words], place.scratch, {"PYTHONPATH": os.pathsep.join(child.clean_path())})
    place.progress(f"exporting {name}", 1, 1)
    return out


def _drawn(kind: str, preprocess: str, place: Place) -> Tuple[Dict[str, Any], Path]:
    interpreter = environments.python("timm", place.environments, place.progress)
    job, result, raw = (place.scratch / f"{kind}{end}" for end in (".job.json", ".json", ".raw.onnx"))
    jsonfile.write(job, {"kind": kind, "seed": place.seed, "out": str(raw), "result": str(result)})
    place.progress(f"drawing {kind}", 0, 1)
    run([str(interpreter), "-I", str(Path(__file__).with_name("drawn.py")), str(job)], place.scratch, {})
    about = {**jsonfile.read(result), "seed": place.seed}
    return about, _export(raw, kind, preprocess, [], place)


def run(command: List[str], folder: Path, env: Dict[str, str]) -> None:
    """Run a program to its end, its output only told where it fails.

    Raises:
        IncompatibleError: It ended with 4.
        OptimizeError: It failed; the message is its last error.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode == 4:
        raise IncompatibleError(_last(done.stdout))
    if done.returncode:
        raise OptimizeError(_last(done.stdout))


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1][:_TAIL]
