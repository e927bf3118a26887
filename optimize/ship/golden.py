"""Golden inputs: what an engine must answer before a node relies on it, and how fast it was where it was shipped.

The answers are recorded twice: of the float ONNX graph on ONNX Runtime, which every engine of the model must come near,
and of the engine itself, which the same engine must give again. All engines run in child processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from engines import child, manifest
from engines.errors import IncompatibleError
from engines.spec import Progress, Runner, RunnerSpec, TensorSpec, quiet
from optimize.ship import shipment

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = List[npt.NDArray[Any]]

SAMPLES = 16

_ROOM = 32 << 20
"""Bytes of inputs and outputs that are recorded at most; large inputs are fewer."""

_SAME = {"fp32": 1e-3, "fp16": 0.05, "int8": 0.1}
"""Norm of the difference between two runs of one engine on one class of device, relative to the norm of the answer: as
another number of threads or a faster kernel of the same instruction set rounds, in float32, 16 bits and 8."""

_SLACK = 4.0
"""Where a recorded difference is larger than that already, so many times as much is allowed."""

_SLOW = 1.5
"""A median of so many times the recorded 99th percentile is warned of."""

_WARMUP_S, _DURATION_S, _QUERIES = 0.1, 0.5, 20


class Recorded(NamedTuple):
    """What `record` made.

    Attributes:
        golden: The field `golden` of shipment.json.
        why_not: Why the engine itself was not run; empty where it was.
    """

    golden: Dict[str, Any]
    why_not: str


def record(
    bundle: Path,
    graph: Optional[Path],
    out: Path,
    data: Optional[str] = None,
    before: Optional[Path] = None,
    progress: Progress = quiet,
) -> Optional[Recorded]:
    """Run golden inputs through the float graph and, where it runs on this machine, the engine.

    Args:
        bundle: The engine.
        graph: Float ONNX graph of the same inputs and outputs, or None.
        out: The file to write.
        data: Data set whose test images are the inputs; seeded ones by default.
        before: A shipment of the same model, whose golden inputs and float answers are taken over.
        progress: Told what happens.

    Returns:
        None where neither of the two can be run.

    Raises:
        DamagedError: The bundle is not what its manifest says.
        OptimizeError: The graph or the engine failed.
    """
    why = manifest.why_not(bundle)
    if why and graph is None and before is None:
        return None
    arguments = {
        "bundle": str(Path(bundle).resolve()),
        "graph": str(Path(graph).resolve()) if graph else None,
        "out": str(Path(out).resolve()),
        "data": data,
        "before": str(Path(before).resolve()) if before else None,
        "engine": not why,
    }
    golden = child.call("optimize.ship.golden:_record", arguments, progress)
    return Recorded(golden, why)


def run(folder: Path, progress: Progress = quiet) -> Dict[str, Any]:
    """Ask a shipment's engine for its golden answers, at each of its batch sizes, and time it.

    Whether the files are what they should be is `shipment.check`'s to say, before this.

    Args:
        folder: The shipment.
        progress: Told what happens.

    Returns:
        `passed`; `against`: `engine` where its own recorded answers were given again, `float` where only those of the
        float graph were recorded, `none` where nothing was (then it passes by answering at all); `n`, `batches`;
        `reasons` (why it did not pass) and `warnings`; `cosine`, `relative` and `max_abs`, the worst of the outputs,
        and `top1_agreement` of a classifier, None against nothing; `latency_ms` (`batch`, `p50`, `p99`), and
        `recorded_ms`, the same where it was shipped, or None.

    Raises:
        IncompatibleError: The engine was made for another device, or its backend is missing.
        DamagedError: The golden arrays are none.
        OptimizeError: The engine does not load, or died.
    """
    why = manifest.why_not(Path(folder))
    if why:
        raise IncompatibleError(f"{folder} will not run here: {why}", "optimize pull NAME --from URL --allow-build")
    found: Dict[str, Any] = child.call("optimize.ship.golden:_run", {"folder": str(Path(folder).resolve())}, progress)
    return found


def against_float(folder: Path, bundle: Path, progress: Progress = quiet) -> Dict[str, Any]:
    """Ask an engine that was built here for the answers that the float graph gave where a shipment came from.

    Args:
        folder: The shipment that it was built from.
        bundle: The engine.
        progress: Told what happens.

    Returns:
        See `run`; without golden answers of the float graph `against` is `none`.
    """
    arguments = {"folder": str(Path(folder).resolve()), "bundle": str(Path(bundle).resolve())}
    found: Dict[str, Any] = child.call("optimize.ship.golden:_run", arguments, progress)
    return found


def _record(
    bundle: str,
    graph: Optional[str],
    out: str,
    data: Optional[str],
    before: Optional[str],
    engine: bool,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """`record`, in the child."""
    from optimize.ship import goldenfile

    about = manifest.read(Path(bundle))
    inputs, outputs = _tensors(about)
    found: Dict[str, Arrays] = {}
    if before is not None:
        feeds, _, known = _arrays(Path(before), inputs, outputs)
        found.update({"float": known} if known is not None else {})
    else:
        feeds = _feeds(about, inputs, outputs, data, progress)
    if graph is not None and "float" not in found:
        import engines

        progress("golden answers of the float graph", 0, 0)
        with engines.open(RunnerSpec(graph, "onnx", backend="onnxruntime", layout=about["layout"])) as runner:
            by_name = _answers(runner, dict(zip([t.name for t in inputs], feeds)), 1)
        found["float"] = _like(_in_order(by_name, outputs, runner.outputs), outputs)
    latency, spread = None, 0.0
    if engine:
        progress("golden answers of the engine", 0, 0)
        answers, latency = _engine(Path(bundle), about, feeds)
        least = min(answers)
        found["engine"] = _like(answers[least], outputs)
        spread = max(_figures(found["engine"], one)["relative"] for one in answers.values())
    goldenfile.write(Path(out), feeds, found)
    return {
        "file": Path(out).name,
        "n": len(feeds[0]),
        "tolerance": _tolerance(about, found, spread),
        "latency_ms": latency,
    }


def _run(folder: str, bundle: Optional[str] = None, progress: Progress = quiet) -> Dict[str, Any]:
    """`run`, in the child; against the float answers where a bundle was built here."""
    about = manifest.read(Path(bundle or folder))
    value = shipment.read(Path(folder))
    golden = value["golden"]
    inputs, outputs = _tensors(about)
    own = bundle is None
    if golden is None:
        feeds, expected, against = _feeds(about, inputs, outputs, None, progress), None, "none"
    else:
        feeds, of_engine, of_float = _arrays(Path(folder), inputs, outputs)
        expected, against = (of_engine, "engine") if own and of_engine is not None else (of_float, "float")
        against = "none" if expected is None else against
    progress("golden inputs", 0, 0)
    answers, latency = _engine(Path(bundle or folder), about, feeds)
    found: Dict[str, Any] = {"cosine": None, "relative": None, "max_abs": None, "top1_agreement": None}
    reasons = []
    for batch, given in sorted(answers.items()):
        reasons += [f"batch {batch}: {text}" for text in _broken(given, outputs)]
        if expected is not None:
            tolerance = golden["tolerance"][against]
            figures = _figures(expected, given, about["task"])
            reasons += [f"batch {batch}: {text}" for text in _beyond(figures, tolerance)]
            found = figures if found["relative"] is None or figures["relative"] > found["relative"] else found
    recorded = golden["latency_ms"] if golden and own else None
    return {
        "passed": not reasons,
        "against": against,
        "n": len(feeds[0]),
        "batches": sorted(answers),
        "reasons": reasons,
        "warnings": _slower(latency, recorded),
        **found,
        "latency_ms": latency,
        "recorded_ms": recorded,
    }


def _tensors(about: Dict[str, Any]) -> Tuple[List[TensorSpec], List[TensorSpec]]:
    inputs, outputs = ([TensorSpec.from_json(item) for item in about[side]] for side in ("inputs", "outputs"))
    return inputs, outputs


def _arrays(
    folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Tuple[Arrays, Optional[Arrays], Optional[Arrays]]:
    from optimize.ship import goldenfile

    golden = shipment.read(folder)["golden"]
    return goldenfile.read(folder / golden["file"], golden["n"], inputs, outputs)


def _feeds(
    about: Dict[str, Any],
    inputs: List[TensorSpec],
    outputs: List[TensorSpec],
    data: Optional[str],
    progress: Progress,
) -> Arrays:
    """Golden inputs in the order of the manifest's: images of a data set, else seeded ones."""
    import numpy as np

    from optimize.exporters.inputs import is_image, real, seeded

    spec = RunnerSpec(
        "engine",
        "onnx",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        layout=about["layout"],
        preprocess=about["preprocess"],
        task=about["task"],
    )
    n = _samples(inputs, outputs)
    images = data is not None and len(inputs) == 1 and is_image(inputs[0], spec.layout)
    found = real(spec, str(data), "test", n, 0, n, progress)[1] if images else seeded(spec, n, 0, n)
    parts = list(found)
    return [np.concatenate([part[tensor.name] for part in parts]) for tensor in inputs]


def _samples(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> int:
    import numpy as np

    size = 0
    for tensor in (*inputs, *outputs, *outputs):
        count = np.dtype(tensor.dtype).itemsize
        for length in tensor.shape[1:]:
            count *= length or 1
        size += count
    return max(1, min(SAMPLES, _ROOM // max(1, size)))


def _engine(bundle: Path, about: Dict[str, Any], feeds: Arrays) -> Tuple[Dict[int, Arrays], Dict[str, Any]]:
    """The answers of an engine at each of its batch sizes, and its latency at the smallest."""
    import numpy as np

    import engines
    from bench.loop import measure
    from bench.stats import percentile

    with engines.open(RunnerSpec(str(bundle), "bundle")) as runner:
        names = [tensor.name for tensor in runner.inputs]
        fed = dict(zip(names, feeds))
        _, outputs = _tensors(about)
        batches = sorted({runner.batch_for(batch) for batch in about["batches"]})
        answers = {batch: _in_order(_answers(runner, fed, batch), outputs, runner.outputs) for batch in batches}
        least = batches[0]
        held = {name: np.ascontiguousarray(array[np.arange(least) % len(array)]) for name, array in fed.items()}
        samples = measure(runner.bind(held), _WARMUP_S, _DURATION_S, _QUERIES) / 1e6
    latency = {"batch": least, "p50": round(percentile(samples, 50), 4), "p99": round(percentile(samples, 99), 4)}
    return answers, latency


def _answers(runner: Runner, feeds: Dict[str, npt.NDArray[Any]], batch: int) -> Dict[str, npt.NDArray[Any]]:
    fixed = [tensor.shape[0] for tensor in runner.inputs if tensor.shape and tensor.shape[0] is not None]
    size = int(fixed[0]) if fixed else batch
    return {name: value.copy() for name, value in runner.bind_all(feeds, size)().items()}


def _in_order(found: Dict[str, npt.NDArray[Any]], wanted: Sequence[TensorSpec], has: Sequence[TensorSpec]) -> Arrays:
    """Outputs in the manifest's order: by name, else by position."""
    if all(tensor.name in found for tensor in wanted):
        return [found[tensor.name] for tensor in wanted]
    return [found[tensor.name] for tensor in has]


def _like(arrays: Arrays, tensors: Sequence[TensorSpec]) -> Arrays:
    """As the manifest types them, so that a reader knows what to expect."""
    import numpy as np

    return [np.ascontiguousarray(array.astype(tensor.dtype)) for array, tensor in zip(arrays, tensors)]


def _figures(expected: Arrays, got: Arrays, task: str = "") -> Dict[str, Any]:
    """The worst `cosine`, `relative` and `max_abs` of the outputs, and the agreement of a classifier's first choice."""
    from optimize.exporters.check import Totals

    worst: Dict[str, Any] = {"cosine": 1.0, "relative": 0.0, "max_abs": 0.0, "top1_agreement": None}
    for number, (a, b) in enumerate(zip(expected, got)):
        totals = Totals()
        totals.add(a, b)
        one = totals.figures()
        if totals.trouble:
            one = {"cosine": -1.0, "rel": 1e6, "max_abs": 1e6}
        worst["cosine"] = min(worst["cosine"], one["cosine"])
        worst["relative"] = max(worst["relative"], one["rel"])
        worst["max_abs"] = max(worst["max_abs"], one["max_abs"])
        if task == "classify" and number == 0 and a.shape == b.shape and a.ndim == 2 and a.shape[1] > 1:
            worst["top1_agreement"] = float((a.argmax(1) == b.argmax(1)).mean())
    return worst


def _beyond(figures: Dict[str, Any], tolerance: Dict[str, float]) -> List[str]:
    reasons = []
    if not figures["relative"] <= tolerance["relative"]:
        reasons.append(f"the answers differ by {figures['relative']:.2e} of their norm, {tolerance['relative']:.2e} is")
        reasons[-1] += " the most"
    if not figures["cosine"] >= tolerance["cosine"]:
        reasons.append(f"cosine {figures['cosine']:.6f}, {tolerance['cosine']:.6f} is the least")
    return reasons


def _broken(answers: Arrays, tensors: Sequence[TensorSpec]) -> List[str]:
    import numpy as np

    return [
        f"{tensor.name} holds no number"
        for tensor, array in zip(tensors, answers)
        if array.dtype.kind == "f" and array.size and not np.isfinite(array).any()
    ]


def _tolerance(about: Dict[str, Any], found: Dict[str, Arrays], spread: float) -> Dict[str, Dict[str, float]]:
    """What may differ: from the engine's own answers, and from those of the float graph."""
    from optimize.exporters.check import TOLERANCES

    precision = about["precision"]
    if precision == "best":
        precision = (about.get("chosen") or {}).get("precision", "int8")
    same = max(_SAME[precision], _SLACK * spread)
    least, most = TOLERANCES[precision].cosine, TOLERANCES[precision].relative
    if "engine" in found and "float" in found:
        figures = _figures(found["float"], found["engine"])
        least = min(least, 1 - _SLACK * (1 - figures["cosine"]))
        most = max(most, _SLACK * figures["relative"])
    return {
        "engine": {"cosine": max(-1.0, 1 - same * same), "relative": min(same, 1e6)},
        "float": {"cosine": max(-1.0, least), "relative": min(most, 1e6)},
    }


def _slower(latency: Dict[str, Any], recorded: Optional[Dict[str, Any]]) -> List[str]:
    if not recorded or recorded["batch"] != latency["batch"] or latency["p50"] <= _SLOW * recorded["p99"]:
        return []
    return [
        f"a query of batch {latency['batch']} takes {latency['p50']:.3g} ms here, and took {recorded['p50']:.3g} ms "
        f"(99%: {recorded['p99']:.3g}) where it was shipped"
    ]
