"""Boards that are too old for this project, through their own trtexec: its words, and what it measured as a run.

The original Jetson Nano ends with JetPack 4: Python 3.6 and TensorRT 8.2. What its trtexec measures are spans on the
GPU and not wall times of a query, so they fill a row's `device`, and the wall times stay unknown.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from bench import runs, spans
from engines import fields, jsonfile, onnxfile
from engines.errors import DamagedError, UsageError
from optimize.fleet.boards import Board

WARMUP_MS = 200
"""trtexec's own default, told to it all the same."""

MODEL, CACHE = "model.onnx", "calibration.cache"
"""Names on the board."""

OPSET = 13
"""The newest that TensorRT 8.2's parser was made for."""

FLAG = "trtexec"
"""Flag of rows whose figures are trtexec's."""

_PRECISION: Dict[str, Tuple[str, ...]] = {
    "fp32": ("--noTF32",),
    "fp16": ("--fp16",),
    "int8": ("--int8", "--fp16", f"--calib={CACHE}"),
}


class Cell(NamedTuple):
    """An engine of one precision and batch, and the files that tell of it."""

    precision: str
    batch: int

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"{self.precision}-b{self.batch}"

    @property
    def plan(self) -> str:
        """The engine."""
        return f"{self.name}.plan"

    @property
    def times(self) -> str:
        """What `--exportTimes` wrote."""
        return f"{self.name}.times.json"

    @property
    def profile(self) -> str:
        """What `--exportProfile` wrote."""
        return f"{self.name}.profile.json"


def cells(precisions: Sequence[str], batches: Sequence[int], calibrated: bool) -> List[Cell]:
    """What is built and measured on such a board: int8 only with a calibration cache, since trtexec makes up ranges
    without one; best is not among them, since nothing there could check an accuracy."""
    wanted = [name for name in precisions if name in _PRECISION and (calibrated or name != "int8")]
    return [Cell(name, batch) for name in wanted for batch in batches]


def shapes(onnx: Path, batch: int) -> str:
    """The input's shape at a batch in trtexec's words, such as `image:64x3x32x32`; empty where the graph fixes it.

    Raises:
        UsageError: An axis other than the batch is not fixed, or the graph has another batch.
    """
    model = onnxfile.load(onnx)
    constants = {item.name for item in model.graph.initializer}
    words = []
    for item in model.graph.input:
        if item.name in constants:
            continue
        axes = item.type.tensor_type.shape.dim
        sizes = [int(axis.dim_value) if axis.HasField("dim_value") else 0 for axis in axes]
        if not sizes or not all(sizes[1:]):
            raise UsageError(f"{onnx}: input {item.name!r} of shape {sizes} is not fixed but for its batch")
        if sizes[0] and sizes[0] != batch:
            raise UsageError(f"{onnx}: its batch is {sizes[0]}, not {batch}", "--batch dynamic, when it is exported")
        if not sizes[0]:
            words.append(f"{item.name}:{'x'.join(map(str, [batch, *sizes[1:]]))}")
    return ",".join(words)


def build_words(program: str, cell: Cell, shape: str, workspace_mib: float) -> List[str]:
    """The command that builds an engine. `--workspace` is the option of TensorRT 8.2 and older."""
    words = [
        program,
        f"--onnx={MODEL}",
        f"--saveEngine={cell.plan}",
        f"--workspace={int(workspace_mib)}",
        "--buildOnly",
    ]
    words += [f"--{name}={shape}" for name in ("minShapes", "optShapes", "maxShapes")] if shape else []
    return words + list(_PRECISION[cell.precision])


def measure_words(program: str, cell: Cell, shape: str, duration_s: float, iterations: float) -> List[List[str]]:
    """The commands that measure it: times first, then the layers in a run of their own, which disturbs."""
    words = [program, f"--loadEngine={cell.plan}", f"--warmUp={WARMUP_MS}", f"--iterations={int(iterations)}"]
    words += [f"--duration={math.ceil(duration_s)}", *([f"--shapes={shape}"] if shape else [])]
    return [[*words, f"--exportTimes={cell.times}"], [*words, "--dumpProfile", f"--exportProfile={cell.profile}"]]


def row(cell: Cell, folder: Path, plan: Path, board: Board, target: str, model_sha256: str) -> Dict[str, Any]:
    """A row of a run by the files that came back.

    Args:
        cell: What was measured.
        folder: Where its times and its layers are.
        plan: The engine.
        board: Where it was measured.
        target: Name of the row.
        model_sha256: Of the source model.

    Raises:
        DamagedError: One of them is not what trtexec writes.
    """
    assert board.key is not None
    trace = spans.read_export(folder / cell.times, cell.batch, WARMUP_MS)
    how = {"transfers": True, "graph": False, "spin": False, "slots": 2, "tensorrt": board.key.version}
    flags = [FLAG, "no accuracy"]
    return {
        "target": target,
        "role": "engine",
        "form": "",
        "backend": f"tensorrt {board.key.version}",
        "precision": cell.precision,
        "achieved": {},
        "batch": cell.batch,
        "threads": None,
        "streams": None,
        "images": None,
        "dataset": None,
        "origin": "imported",
        "size_bytes": plan.stat().st_size,
        "model_sha256": model_sha256,
        **dict.fromkeys(runs.LATENCIES),
        "images_per_s": None,
        "rounds": [],
        "samples_ms": [],
        "device": spans.summary(replace(trace, how=how)),
        "top1": None,
        "top1_drop": None,
        "agreement": None,
        "speedup": None,
        "layers": layers(folder / cell.profile),
        "flags": flags + (["double"] if "double" in board.key.version else []),
    }


def layers(path: Path) -> List[Dict[str, Any]]:
    """Layers by the JSON of `trtexec --exportProfile`: `name`, `type` and `precision` (not told), `ms` (the mean).

    Raises:
        DamagedError: It is not such a file.
    """
    try:
        entries = jsonfile.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise DamagedError(f"{path}: not the layers of trtexec --exportProfile, which are a list of objects")
    found = []
    for entry in entries:
        if "name" not in entry:
            continue  # the first tells how many queries were profiled
        ms = entry.get("averageMs")
        fields.between(0, 1e12)(f"{path}: averageMs of {str(entry['name'])[:60]!r}", ms)
        found.append({"name": str(entry["name"]), "type": "", "precision": "", "ms": float(ms)})
    return found


def run(board: Board, rows: Sequence[Dict[str, Any]], words: Sequence[Sequence[str]]) -> Dict[str, Any]:
    """Rows of a board as a run (`optimize.run/1`).

    Args:
        board: As it was probed.
        rows: Of `row`.
        words: The commands that measured them.

    Raises:
        DamagedError: A field is not what it must be.
    """
    value: Dict[str, Any] = {
        "schema": runs.SCHEMA,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "environment": board.environment,
        "settings": {"by": "trtexec", "commands": [" ".join(one) for one in words]},
        "rows": list(rows),
        "failures": [],
    }
    runs.validate(value)
    return value


def parcel(source: Path, target: Path) -> str:
    """Write a file as a shell script that unpacks itself to the path that it is given; returns the file's SHA-256.

    Ansible's `script` carries it to boards without a Python that it could use.
    """
    digest = jsonfile.sha256(source)
    head = _PARCEL.format(digest=digest).encode()
    with jsonfile.replacing_file(target) as part, open(part, "wb") as out, open(source, "rb") as file:
        out.write(head)
        for block in iter(lambda: file.read(1 << 20), b""):
            out.write(block)
    return digest


_PARCEL = """\
# A file, behind these lines; `sh PARCEL TARGET` writes it, if it is whole.
set -e
part=$1.part
mkdir -p "$(dirname "$1")"
trap 'rm -f "$part"' EXIT
tail -n +12 "$0" > "$part"
told=$(sha256sum < "$part")
[ "${{told%% *}}" = {digest} ] || {{ echo "the file is damaged, or the disk is full" >&2; exit 1; }}
mv "$part" "$1"
trap - EXIT
exit 0
"""


def unpack(target: Path) -> None:
    """Put a file together from the blocks that tasks/raw_fetch.yml has kept, and remove these.

    Raises:
        DamagedError: A block is missing, or the file is not what the board said.
    """
    first = target.with_name(target.name + ".0")
    try:
        told = _FIRST.fullmatch(first.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        told = None
    if told is None:
        raise DamagedError(f"{target}: the board did not say what it is")
    size, digest, block = told.groups()
    others = [target.with_name(f"{target.name}.{number}") for number in range(1, -(-int(size) // _BLOCK))]
    try:
        with jsonfile.replacing_file(target) as part:
            with open(part, "wb") as out:
                out.write(_decoded(block))
                for other in others:
                    out.write(_decoded(other.read_text(encoding="ascii")))
            if jsonfile.sha256(part) != digest:
                raise DamagedError(f"{target}: one byte or more changed on the way (SHA-256 differs)")
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise DamagedError(f"{target}: not whole ({error})") from None
    for left in (first, *others):
        left.unlink()


def _decoded(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)


_FIRST = re.compile(r"\s*(\d{1,12})\s+([0-9a-f]{64})\s+-\s*([A-Za-z0-9+/=\s]*)")
"""What tasks/raw_fetch.yml keeps first: what `wc -c` and `sha256sum` say, then the first block."""

_BLOCK = 8 << 20
"""As in tasks/raw_fetch.yml."""
