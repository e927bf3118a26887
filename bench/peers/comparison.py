"""All quantisers on one model: each in a process of its own, then accuracy and latency of what they wrote."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from bench import accuracy
from bench.peers import environments, latency
from bench.peers.contenders import CONTENDERS, OURS, TENSORRT, Contender, Settings
from bench.peers.latency import ratio
from bench.peers.models import Graph, Place
from bench.rounds import size_of
from engines import child, jsonfile
from engines.errors import DataError, OptimizeError
from engines.spec import Progress, RunnerSpec, quiet

_MEMORY = 0.8
"""Share of the memory available that a tool may take: past it, the row says so and the machine goes on."""

_LONG = 120.0
"""Seconds from which a run of a tool is not repeated: its ratio needs no interval."""


def to_ir(file: str, out: str, progress: Progress = quiet) -> Dict[str, Any]:
    """Write a graph as OpenVINO IR, weights as they are: a stage for a child process.

    Returns:
        `inference_precision`: what our INT8 bundles run their float layers in on this CPU.

    Raises:
        ModelError: OpenVINO does not take it.
    """
    import openvino as ov

    from engines.device import cpu_features
    from engines.errors import ModelError
    from engines.openvino import fast_16bit

    core = ov.Core()
    try:
        model = core.read_model(file)
        core.compile_model(model, "CPU")
        ov.save_model(model, out, compress_to_fp16=False)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO refuses it: {' '.join(str(error).split())[-300:]}") from None
    fast = fast_16bit(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), cpu_features())
    return {"inference_precision": fast or "f32"}


def store(data: str, preprocess: Dict[str, Any], onnx: str, samples: int, seed: int, out: str) -> Dict[str, Any]:
    """Write the calibration images once, preprocessed as the graph takes them, for the tools that read arrays.

    Returns:
        `{name, n, sha256}` of the images.
    """
    from calib import graph as graphs
    from calib.calibrate import image_input
    from calib.datasets import open_dataset
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    image = image_input(graphs.load(onnx), onnx)
    dataset = open_dataset(data, "calibration", samples, seed)
    given = batches(dataset, Preprocess.from_json(preprocess), image.layout, image.size, 32)
    first, _ = next(given)
    stored = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(len(dataset), *first.shape[1:]))
    stored[: len(first)] = first
    start = len(first)
    for images, _ in given:
        stored[start : start + len(images)] = images
        start += len(images)
    stored.flush()
    return {**dataset.describe(), "input": image.spec.name, "layout": image.layout}


class Comparison:
    """The comparison on one model."""

    def __init__(self, graph: Graph, settings: Settings, tools: Sequence[str], place: Place) -> None:
        from calib.preprocess import parse

        self.graph, self.settings, self.place, self.progress = graph, settings, place, place.progress
        self.contenders = [c for c in CONTENDERS if c.tool in tools]
        self.preprocess = parse(graph.preprocess).to_json()
        self.images = place.scratch / "images.npy"
        self.count = 0
        limits = [n for n in (settings.images, graph.images) if n is not None]
        self.test_images = min(limits) if limits else None

    def measure(self) -> Dict[str, Any]:
        """Everything; see `bench.peers.quantisers.compare` for what comes back."""
        onnx, settings = str(self.graph.onnx), self.settings
        self.progress(f"{self.graph.name}: images", 0, 0)
        about = store(self.graph.data, self.preprocess, onnx, settings.samples, settings.seed, str(self.images))
        self.input, self.layout = about.pop("input"), about.pop("layout")
        self.calibrated = about
        fp32 = self.place.scratch / "fp32.xml"
        self.fast = str(
            child.call("bench.peers.comparison:to_ir", {"file": onnx, "out": str(fp32)})["inference_precision"]
        )
        self.reference = self.scores(fp32, "openvino")
        self.held = self.scores(fp32, "openvino", "holdout")
        rows = [self.row(contender) for contender in self.contenders]
        self.repeat(_working(rows))
        self.judge(_working(rows))
        timed = [row for row in _working(rows) if row["name"] != TENSORRT]
        latency.measure(timed, self.layout, self.fast, settings, self.progress)
        self.ratios(_working(rows))
        for ours in [row for row in timed if row["name"] == OURS]:
            others = [row for row in timed if row is not ours]
            latency.again(ours, others, self.layout, self.fast, settings, self.progress)
        for row in rows:
            for name in ("file", "ir", "scores", "interpreter"):
                row.pop(name, None)
        return {
            "name": self.graph.name,
            "onnx_sha256": jsonfile.sha256(self.graph.onnx),
            "onnx_bytes": size_of(onnx),
            "about": self.graph.about,
            "trained": self.graph.trained,
            "wide": self.graph.wide,
            "calibration": self.calibrated,
            "test": self.reference["dataset"],
            "accuracy_precision": "f32",
            "latency_precision": self.fast,
            "fp32": {"top1": self.reference["top1"] if self.graph.trained else None, "ir_bytes": _ir_bytes(fp32)},
            "rows": rows,
        }

    def row(self, contender: Contender) -> Dict[str, Any]:
        """Find the settings of a tool that serve it best, and keep what they give."""
        row: Dict[str, Any] = {"name": contender.name, "tool": contender.tool, "runs": []}
        tried = contender.tried if self.settings.search else contender.tried[:1]
        best: Optional[Tuple[Tuple[float, float], Dict[str, Any]]] = None
        reasons: List[str] = []
        try:
            interpreter = sys.executable
            if contender.environment:
                interpreter = str(environments.python(contender.environment, self.place.environments, self.progress))
        except OptimizeError as error:
            return {**row, "failed": error.message}
        row["interpreter"], row["trials"] = interpreter, []
        for index, options in enumerate(tried):
            self.progress(f"{self.graph.name}: {contender.name}", index, len(tried))
            try:
                done = self.quantise(contender.tool, options, interpreter)
                ir = Path(done["file"]).with_name("ir.xml")
                child.call("bench.peers.comparison:to_ir", {"file": done["file"], "out": str(ir)})
                held = _agreement(self.held, self.scores(ir, "openvino", "holdout")) if len(tried) > 1 else (0.0, 0.0)
            except OptimizeError as error:
                reasons.append(error.message)
                row["trials"].append({"options": options, "failed": error.message})
                continue
            row["trials"].append({"options": options, "agreement": held[0], "cosine": held[1], **_figures(done)})
            if best is None or held > best[0]:
                best = held, {"options": options, "file": done["file"], "ir": str(ir), "versions": done["versions"]}
                row["runs"] = [_figures(done)] if done["process_seconds"] > _LONG else []
                row["found"] = _found(done["found"])
        self.progress(f"{self.graph.name}: {contender.name}", len(tried), len(tried))
        if best is None:
            return {**row, "failed": reasons[0]}
        row.update(best[1])
        row.update(file_bytes=_file_bytes(row["file"]), ir_bytes=_ir_bytes(Path(row["ir"])))
        return row

    def quantise(self, tool: str, options: Dict[str, Any], interpreter: str) -> Dict[str, Any]:
        """One run of a tool in a fresh process; see `bench.peers.quantise.run`.

        Raises:
            OptimizeError: It failed; the message is its own.
        """
        import psutil

        from calib.calibrate import saturates

        self.count += 1
        out = self.place.scratch / f"run{self.count}"
        out.mkdir()
        job: Dict[str, Any] = {
            "tool": tool,
            "onnx": str(self.graph.onnx),
            "images": str(self.images),
            "samples": self.calibrated["n"],
            "input": self.input,
            "options": {"reduce_range": saturates(), **options},
            "most_bytes": int(_MEMORY * psutil.virtual_memory().available),
            "out": str(out),
            "result": str(out / "result.json"),
        }
        if tool == "ours":
            job["path"] = child.clean_path()
            job["arguments"] = {
                **options,
                "data": self.graph.data,
                "preprocess": self.preprocess,
                "layout": self.layout,
                "samples": self.settings.samples,
                "seed": self.settings.seed,
            }
        jsonfile.write(out / "job.json", job)
        started = datetime.datetime.now(datetime.timezone.utc)
        with open(out / "log.txt", "wb") as log:
            try:
                code = subprocess.run(
                    [interpreter, "-I", str(Path(__file__).with_name("quantise.py")), str(out / "job.json")],
                    cwd=out,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "CI": "1", "CUDA_VISIBLE_DEVICES": "-1"},  # CI: NNCF reports to nobody
                    timeout=self.settings.limit,
                ).returncode
            except subprocess.TimeoutExpired:
                raise OptimizeError(f"{tool}: no result after {self.settings.limit} s") from None
        wall = (datetime.datetime.now(datetime.timezone.utc) - started).total_seconds()
        if not (out / "result.json").is_file():
            why = "it ran out of memory, or was killed" if code == -9 else f"it ended with code {code}"
            raise OptimizeError(f"{tool}: {why}")
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        if "error" in result:
            raise OptimizeError(result["error"])
        return {**result, "process_seconds": wall}

    def repeat(self, rows: Sequence[Dict[str, Any]]) -> None:
        """Time every tool with its best settings, in turns: forwards, backwards."""
        for turn in range(self.settings.repeats):
            self.progress(f"{self.graph.name}: calibration times", turn, self.settings.repeats)
            for row in rows if turn % 2 == 0 else list(rows)[::-1]:
                if "failed" in row or (row["runs"] and row["runs"][0]["process_seconds"] > _LONG):
                    continue
                try:
                    done = self.quantise(row["tool"], row["options"], row["interpreter"])
                except OptimizeError as error:
                    row["failed"] = error.message
                    continue
                row["runs"].append(_figures(done))
                shutil.rmtree(Path(done["file"]).parent)
        self.progress(f"{self.graph.name}: calibration times", self.settings.repeats, self.settings.repeats)

    def scores(self, path: Path, backend: str, split: str = "test") -> Dict[str, Any]:
        """`bench.accuracy.evaluate` in a child, with every float layer in float32."""
        spec = RunnerSpec(
            str(path),
            "onnx",
            layout=self.layout,
            backend=backend,
            options={"inference_precision": "f32"},
            preprocess=self.preprocess,
        )
        self.count += 1
        arguments = {
            "spec": spec.to_json(),
            "data": self.graph.data,
            "out": str(self.place.scratch / f"scores{self.count}.npz"),
            "batch": 64,
            "split": split,
            "images": self.test_images if split == "test" else None,
            "seed": self.settings.seed,
        }
        found: Dict[str, Any] = child.call("bench.accuracy:evaluate", arguments, self.progress)
        return found

    def judge(self, rows: Sequence[Dict[str, Any]]) -> None:
        """Accuracy of every row on the test images, and of our two placements in ONNX Runtime's arithmetic."""
        for row in rows:
            try:
                row["scores"] = self.scores(Path(row["ir"]), "openvino")
                row["accuracy"] = self.beside(self.reference, row["scores"])
                if row["tool"] == "ours":
                    found = self.scores(Path(row["file"]), "onnxruntime")
                    row["onnxruntime"] = {**self.beside(self.reference, found), "predictions": found["predictions"]}
            except OptimizeError as error:
                row["failed"] = error.message
        rows = _working(rows)
        placed = {row["name"]: row for row in rows}
        if OURS in placed and TENSORRT in placed:
            pair = [placed[name]["onnxruntime"] for name in (OURS, TENSORRT)]
            placed[TENSORRT]["to_openvino_placement"] = self.beside(*pair)
        for row in rows:
            row.get("onnxruntime", {}).pop("predictions", None)
            if OURS in placed and row["name"] != OURS:
                row["ours_worse"] = self.beside(row["scores"], placed[OURS]["scores"])

    def beside(self, reference: Dict[str, Any], other: Dict[str, Any]) -> Dict[str, Any]:
        """Drop and agreement of two results of `evaluate`; the drop only where labels mean something."""
        found = accuracy.compare(Path(reference["predictions"]), Path(other["predictions"]))
        found["cosine"] = _agreement(reference, other)[1]
        found["top1"] = other.get("top1")
        if not self.graph.trained:
            found.update(top1=None, top1_drop=None, drop_interval=None)
        return found

    def ratios(self, rows: Sequence[Dict[str, Any]]) -> None:
        """Every row to ours: time, memory, size, latency; above 1 ours is the better."""
        ours = next((row for row in rows if row["name"] == OURS), None)
        if ours is None:
            return
        for row in rows:
            if row is ours:
                continue
            row["ratios"] = {
                **{name: ratio(_column(row, name), _column(ours, name)) for name in _TIMED},
                "ir_bytes": ratio([row["ir_bytes"]], [ours["ir_bytes"]]),
                **{
                    f"latency_b{batch}": ratio(here["medians_ms"], ours["latency"][batch]["medians_ms"])
                    for batch, here in row.get("latency", {}).items()
                    if batch in ours["latency"]
                },
            }


def _working(rows: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    return [row for row in rows if "failed" not in row]


_TIMED = ("seconds", "process_seconds", "cpu_seconds", "peak_bytes")


def _figures(done: Dict[str, Any]) -> Dict[str, Any]:
    return {name: done[name] for name in (*_TIMED, "import_seconds", "start_bytes")}


def _column(row: Dict[str, Any], name: str) -> List[float]:
    return [one[name] for one in row["runs"]]


def _found(said: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """What our calibration says of itself, without paths."""
    return (
        None
        if said is None
        else {key: said[key] for key in ("method", "candidates", "weight_bits", "samples", "holdout")}
    )


def _agreement(reference: Dict[str, Any], other: Dict[str, Any]) -> Tuple[float, float]:
    """Share of images with the same first class, and the mean cosine of the scores."""
    from calib.agreement import compare as agree

    with np.load(reference["predictions"]) as a, np.load(other["predictions"]) as b:
        if a["scores"].shape != b["scores"].shape:
            raise DataError("the outputs are not of one shape")
        first = [agree([a["scores"]], [b["scores"]], None, task) for task in ("classify", "tensors")]
    return first[0].agreement, first[1].agreement


def _ir_bytes(path: Path) -> int:
    return path.stat().st_size + path.with_suffix(".bin").stat().st_size


def _file_bytes(file: str) -> int:
    return _ir_bytes(Path(file)) if file.endswith(".xml") else size_of(file)
