"""Our loop and our engines beside those of others: `python -m bench.peers.speed -o FILE.json`.

The shared ResNet-34 in each precision beside OpenVINO's benchmark_app, one query at a time and as many as it likes; its
ONNX file beside ONNX Runtime's plain `run`; the Keras original beside `predict` and a `tf.function` as their users
write them; the shared ResNet-20 beside `torch.utils.benchmark`. Both sides run the same file at the same batch in fresh
processes that take turns (`bench.peers.turns`).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from bench.peers import benchmark_app, models, turns
from bench.report.cells import number
from bench.rounds import Target
from engines import child, jsonfile, manifest
from engines.errors import OptimizeError, outcome
from engines.kerasgeneration import child_env
from engines.spec import Progress, RunnerSpec, quiet

SCHEMA = "optimize.peers/1"


class Cell(NamedTuple):
    """What is measured: ours, and the child of a peer with its arguments but for batch and seconds."""

    model: str
    precision: str
    peer: str
    load: str
    target: Target
    stage: str
    arguments: Dict[str, Any]
    env: Optional[Dict[str, str]] = None


ONE, MANY = "one query at a time", "many"


def engines_beside_benchmark_app(bundles: Sequence[Path]) -> List[Cell]:
    """One cell a bundle and load: with many queries ours has as many streams as the machine has cores."""
    from engines.device import facts

    streams = max(2, int(facts()["cores"] or 2))
    found = []
    for bundle in bundles:
        precision = manifest.read(bundle)["precision"]
        target, peer = benchmark_app.sides(bundle)
        many = target._replace(spec=target.spec.with_(options={**target.spec.options, "streams": streams}))
        for load, ours, how in ((ONE, target, False), (MANY, many, True)):
            arguments = {**peer, "throughput": how}
            found.append(Cell("ResNet-34", precision, "benchmark_app", load, ours, benchmark_app.STAGE, arguments))
    return found


def plain_onnxruntime(onnx: Path) -> List[Cell]:
    """ONNX Runtime on the FP32 graph."""
    spec = RunnerSpec(str(onnx), "onnx", backend="onnxruntime")
    ours = Target(onnx.name, "engine", "", "fp32", "onnxruntime", {}, 0, spec)
    stage = "bench.peers.loops:onnxruntime_run"
    return [Cell("ResNet-34", "fp32", "ONNX Runtime, run()", ONE, ours, stage, {"path": str(onnx)})]


def plain_tensorflow(model: Path, custom_objects: str) -> List[Cell]:
    """The original in TensorFlow, in float32."""
    found = []
    spec = RunnerSpec(str(model), "keras-hdf5", custom_objects=custom_objects, policy="float32")
    for form, name, stage in (
        ("predict", "Keras, predict()", "bench.peers.loops:keras_predict"),
        ("function", "TensorFlow, tf.function", "bench.peers.loops:tensorflow_function"),
    ):
        own = spec.with_(form=form)
        ours = Target(model.name, "original", form, "fp32", "tensorflow", {}, 0, own)
        found.append(Cell("ResNet-34", "fp32", name, ONE, ours, stage, {"spec": own.to_json()}, child_env(own)))
    return found


def plain_torch(model: Path, factory: str) -> List[Cell]:
    """The shared ResNet-20 in PyTorch; nothing where that is not installed."""
    if importlib.util.find_spec("torch") is None:
        return []
    spec = RunnerSpec(str(model), "torch-state-dict", factory=factory, input_shape=(3, 32, 32), form="eager")
    ours = Target(model.name, "original", "eager", "fp32", "torch", {}, 0, spec)
    stage = "bench.peers.loops:torch_benchmark"
    return [Cell("ResNet-20", "fp32", "torch.utils.benchmark", ONE, ours, stage, {"spec": spec.to_json()})]


def compare(
    cells: Sequence[Cell], batches: Sequence[int], rounds: int, seconds: int, progress: Progress = quiet
) -> List[Dict[str, Any]]:
    """Measure cells at batches.

    Returns:
        For each `model`, `precision`, `peer`, `load`, `batch`, and what `bench.peers.turns.measure` returns, or
        `failed`, the reason.
    """
    rows = []
    for cell in cells:
        for batch in batches:
            row = {**{name: getattr(cell, name) for name in ("model", "precision", "peer", "load")}, "batch": batch}
            arguments = {**cell.arguments, "batch": batch, "seconds": seconds}
            what = f"{cell.model} {cell.precision}, {cell.peer}, {cell.load}, batch {batch}"
            try:
                row.update(
                    turns.measure(
                        cell.target,
                        batch,
                        cell.stage,
                        arguments,
                        rounds,
                        float(seconds),
                        cell.env,
                        _called(what, progress),
                    )
                )
            except OptimizeError as error:
                row["failed"] = error.message
            rows.append(row)
    return rows


def _called(what: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(what, done, total)


def text(rows: Sequence[Dict[str, Any]]) -> str:
    """The rows as a Markdown table; a ratio above 1 says that ours is the faster."""
    head = ("model", "precision", "batch", "queries", "peer", "ours ms", "theirs ms", "theirs / ours", "in images/s")
    lines = [head, ("---",) * len(head)]
    for row in rows:
        first = (row["model"], row["precision"], str(row["batch"]), row["load"], row["peer"])
        if "failed" in row:
            lines.append((*first, "", "", row["failed"], ""))
            continue
        ms = [number(sorted(row[key])[len(row[key]) // 2]) for key in ("ours_ms", "theirs_ms")]
        # with many queries at a time a single one's latency is not what either is after
        ratio = _upside(row) if row["load"] == ONE else "-"
        lines.append((*first, *(ms if row["load"] == ONE else ("-", "-")), ratio, _upside(row["mean"])))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _upside(found: Dict[str, Any]) -> str:
    """Theirs to ours, of a ratio that is ours to theirs."""
    interval = found["interval"]
    spread = f" [{1 / interval[1]:.3f}, {1 / interval[0]:.3f}]" if interval else ""
    return f"{1 / found['ratio']:.3f}{spread}"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Build what is compared, write the JSON and print the table; 5 where a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.speed", description=str(__doc__).split(":")[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("peers.json"), help="the JSON; .md beside it")
    parser.add_argument("--batch", default="1,64", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes of each side; default: %(default)s")
    parser.add_argument("--seconds", type=int, default=2, help="of each round; default: %(default)s")
    given = parser.parse_args(arguments)
    batches = [int(word) for word in given.batch.split(",")]
    try:
        with tempfile.TemporaryDirectory(prefix="optimize-") as scratch:
            cells = shared_cells(Path(scratch), given.batch)
            found = _result(compare(cells, batches, given.rounds, given.seconds, _say))
        jsonfile.write(given.out, found)
        with jsonfile.replacing_file(given.out.with_suffix(".md")) as part:
            part.write_text(text(found["rows"]), encoding="utf-8")
    except (OptimizeError, KeyboardInterrupt) as error:
        message, code, hint = outcome(error)
        sys.stderr.write(f"error: {message}\n" + (f"  try: {hint}\n" if hint else ""))
        return code
    sys.stdout.write(text(found["rows"]))
    return 5 if any("failed" in row for row in found["rows"]) else 0


def shared_cells(scratch: Path, batches: str) -> List[Cell]:
    """Build the shared models as any user would, and say what is compared.

    Raises:
        UsageError: The shared models are not here.
        OptimizeError: A build failed.
    """
    keras = models.shared("models/resnet34_cifar10_bs64_epochs10.keras")
    custom = f"{models.shared('models/train.py')}:ResidualBlock"
    out, onnx = scratch / "built", scratch / "resnet34.onnx"
    said = ["--custom-objects", custom, "--preprocess", "unit", "-q"]
    precisions = ["--precision", "fp32,fp16,int8", "--data", str(models.shared("data/cifar-10-batches-bin"))]
    paths = {"PYTHONPATH": os.pathsep.join(child.clean_path())}
    for words in (
        ["export", str(keras), "-o", str(onnx), *said],
        ["build", str(keras), *precisions, "--batch", batches, "--backend", "openvino", "-o", str(out), *said],
    ):
        _say(" ".join(words[:2]), 0, 0)
        models.run([sys.executable, "-m", "optimize", *words], scratch, paths)
    bundles = sorted(path.parent for path in out.glob("*/manifest.json"))
    torch = models.shared("models/resnet20_cifar10.pt")
    return [
        *engines_beside_benchmark_app(bundles),
        *plain_onnxruntime(onnx),
        *plain_tensorflow(keras, custom),
        *plain_torch(torch, f"{models.shared('models/resnet_cifar.py')}:resnet20"),
    ]


def _result(rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    from bench.telemetry import state
    from engines.device import facts

    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"schema": SCHEMA, "created": created, "environment": {**facts(), "after": state.state()}, "rows": rows}


def _say(what: str, done: int, total: int) -> None:
    if done == 0:
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
