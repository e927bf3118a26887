"""From a model file to verified engine bundles: export, check, calibrate, build, measure accuracy, gate, publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple, Union

from engines import asked, jsonfile, manifest
from engines import backend as backends
from engines.device import DeviceKey, device_key
from engines.errors import GateError, IncompatibleError, ModelError, OptimizeError, UsageError
from engines.spec import Progress, RunnerSpec, quiet
from optimize.exporters.check import NOT_FINITE
from optimize.pipeline import engine
from optimize.pipeline.described import described
from optimize.pipeline.imported import imported
from optimize.pipeline.inputs import CALIBRATION_PACKAGES, EXPORT_PACKAGES, child_env, doubtful
from optimize.pipeline.options import BuildOptions
from optimize.pipeline.results import Build, Built, Candidate, as_tuned, unchanged
from optimize.pipeline.stages import Workspace, value_of
from optimize.pipeline.variants import Variant, variants
from optimize.pipeline.watch import Watch
from optimize.verification import accuracy_against, judge, reference, surprise
from optimize.zoo import library

_SEEDED_IMAGES = 64
"""Inputs of a numerical check where no data is given."""

_CHECK_IMAGES = 512
"""Real images of the export's check; accuracy is measured on all of the test images later."""


def output_folder(model: Path, options: BuildOptions) -> Path:
    """`<model>.optimized` beside the model, unless `-o` says otherwise."""
    return (options.out or library.beside(model, model.name.rsplit(".", 1)[0] + ".optimized")).resolve()


def backend_for(options: BuildOptions) -> str:
    """The backend that builds here.

    Raises:
        UsageError, IncompatibleError: There is none of that name, it is not here, or it lacks what is asked.
    """
    backend = backends.choose(options.backend)
    if backend != "tensorrt" and options.tensorrt.given():
        raise UsageError(f"{', '.join(options.tensorrt.given())}: only TensorRT has this, and {backend} builds here")
    return backend


def build(spec: RunnerSpec, options: BuildOptions, progress: Progress = quiet) -> Build:
    """Build every asked precision of one model, each verified.

    Args:
        spec: The source, from `optimize.sources.recognise`.
        options: What is asked.
        progress: Told what happens.

    Returns:
        The bundles, in the order asked; a precision that failed is in `failures`, the others are kept.

    Raises:
        GateError: The exported graph does not do what the source does.
        OptimizeError: A stage that all precisions need failed.
    """
    backend = backend_for(options)
    out = output_folder(Path(spec.path), options)
    out.mkdir(parents=True, exist_ok=True)
    space = Workspace(out / ".optimize")
    with space.locked(progress):
        job = Job(spec, options, backend, space, progress)
        done = job.prepare(out)
        for precision in options.precisions:
            try:
                done.bundles.append(job.make(precision, out))
            except OptimizeError as error:
                done.failures.append((precision, error))
    told = [(one.path.name, asked.warning(one.manifest.get("comparison"))) for one in done.bundles]
    done.warnings += [f"{name}: {text}" for name, text in told if text]
    if done.failures and not done.bundles:
        raise done.failures[0][1]
    return done


class Job:
    """One build under way: what every precision shares."""

    def __init__(
        self, spec: RunnerSpec, options: BuildOptions, backend: str, space: Workspace, progress: Progress
    ) -> None:
        self.spec, self.options, self.backend, self.space, self.progress = spec, options, backend, space, progress
        self.key: DeviceKey = device_key(backend)
        progress("reading the model", 0, 0)
        self.watch = Watch(spec, options.data)
        self.source, self.data = self.watch.source, self.watch.data
        self.classes: List[str] = []
        self.warnings: List[str] = []

    def prepare(self, out: Path) -> Build:
        """Export, check against the source and, with data, measure the source's accuracy in float32."""
        o = self.options
        if self.data:
            seen = self._look_at_data()
            self.classes, self.warnings = seen["classes"], doubtful(seen)
            self.data = self.watch.data  # by now it is on this machine
        export = self.space.run(
            "export",
            "optimize.exporters:export",
            {"spec": self.spec.to_json(), "opset": o.opset, "batch": self._export_batch(), "layout": o.layout},
            {**self.source, "opset": o.opset, "batch": self._export_batch(), "layout": o.layout},
            self.progress,
            EXPORT_PACKAGES,
            out="out=model.onnx",
            env=child_env(self.spec),
            force=o.force,
            unchanged=self.watch.source_unchanged,
        )
        self.onnx = export["onnx"]
        self.graph = jsonfile.sha256(self.onnx)
        self.names: Dict[str, str] = export.get("names", {})
        # a stage of an earlier run may know the same files under other paths
        mine = {name: getattr(self.spec, name) for name in ("path", "custom_objects", "factory", "preprocess")}
        self.spec = RunnerSpec.from_json(export["spec"]).with_(**mine)
        self.boundary = RunnerSpec.from_json({"path": self.onnx, "kind": "onnx", **export["boundary"]})
        self._settle_preprocess()
        check = self._check_export()
        if not check["passed"] and any(NOT_FINITE in reason for reason in check["reasons"]):
            raise ModelError(
                f"{Path(self.spec.path).name} itself is broken: {'; '.join(check['reasons'])}",
                f"its weights: NaN or infinity; or its inputs: --preprocess (optimize inspect {self.onnx})",
            )
        if not check["passed"]:
            raise GateError(
                f"the exported ONNX disagrees with {Path(self.spec.path).name}: {'; '.join(check['reasons'])}",
                f"see the graph in {self.onnx}",
            )
        self.source_scores = self._scores("source", reference(self.spec), self.source, [])
        about = {k: v for k, v in self.source_scores.items() if k in ("top1", "top5", "dataset")}
        if self.spec.options.get("weights") == "random":
            self.warnings.append("the weights are random: times mean something, answers and accuracies do not")
        self.warnings += surprise(self.source_scores, None, self.options.expect_top1)
        return Build(Path(self.spec.path), out, self.backend, self.spec, check, about or None, self.warnings)

    def _export_batch(self) -> Union[str, int]:
        """A free batch, unless the source itself has a fixed one that is the only one asked for."""
        fixed = self.spec.kind == "torch-pt2" or (self.spec.inputs and self.spec.inputs[0].shape[0] is not None)
        return self.options.batches[0] if fixed and len(self.options.batches) == 1 else "dynamic"

    def _look_at_data(self) -> Dict[str, Any]:
        o = self.options
        more = ["calibration", "holdout"] if o.may_int8 and o.calibration_cache is None else []
        gated = o.max_drop is not None or o.expect_top1 is not None  # each is a matter of labels
        arguments = {
            **{"data": o.data, "splits": ["test", *more], "seed": o.seed, "samples": o.samples},
            "labelled": gated,
        }
        return self.space.run(
            "data",
            "optimize.pipeline.inputs:look_at_data",
            arguments,
            {**arguments, "data": self.data},
            self.progress,
            unchanged=self.watch.data_unchanged,
        )

    def _settle_preprocess(self) -> None:
        """Where preprocessing was not given and there are labels, let the accuracy tell `unit` from `raw`."""
        if self.spec.task != "classify":
            return
        if self.spec.preprocess is None or self.spec.preprocess.get("inferred"):
            from calib.preprocess import parse

            text = "unit"
            if self.data:
                chosen = self.space.run(
                    "preprocess",
                    "bench.accuracy:choose_preprocess",
                    {"spec": self._graph_spec().to_json(), "data": self.options.data, "seed": self.options.seed},
                    {"onnx": self.graph, "data": self.data, "seed": self.options.seed},
                    self.progress,
                    CALIBRATION_PACKAGES,
                    unchanged=self.watch.data_unchanged,
                )
                text = chosen["preprocess"]
                if chosen.get("doubt"):
                    self.warnings.append(f"{chosen['doubt']}: say how it was trained with --preprocess")
            self.spec = self.spec.with_(preprocess={**parse(text).to_json(), "inferred": True})

    def _graph_spec(self) -> RunnerSpec:
        """The exported graph on ONNX Runtime: FP32, the reference of everything after it."""
        return self.boundary.with_(backend="onnxruntime", preprocess=self.spec.preprocess, task=self.spec.task)

    def _check_export(self) -> Dict[str, Any]:
        o = self.options
        n = _CHECK_IMAGES if self.data else _SEEDED_IMAGES
        return self.space.run(
            "check",
            "optimize.exporters.check:against_source",
            {"spec": self.spec.to_json(), "onnx": self.onnx, "data": o.data or "", "n": n, "seed": o.seed},
            {
                **self.source,
                "onnx": self.graph,
                "preprocess": self.spec.preprocess,
                "data": self.data,
                "n": n,
                "seed": o.seed,
            },
            self.progress,
            EXPORT_PACKAGES,
            env=child_env(self.spec),
            force=o.force,
            unchanged=self.watch.unchanged,
        )

    def _scores(self, name: str, spec: RunnerSpec, identity: Dict[str, Any], others: List[int]) -> Dict[str, Any]:
        """Accuracy of a classifier on all test images at the largest batch, checked at others; nothing without data."""
        if not self.data or spec.task != "classify":
            return {}
        batch = max(self.options.batches)
        return self.space.run(
            f"accuracy-{name}",
            "bench.accuracy:evaluate",
            {"spec": spec.to_json(), "data": self.options.data, "batch": batch, "batches": others},
            {
                "runner": identity,
                "preprocess": spec.preprocess,
                "data": self.data,
                "batch": batch,
                "batches": others,
            },
            self.progress,
            CALIBRATION_PACKAGES,
            out="out=scores.npz",
            env=child_env(spec),
            force=self.options.force,
            unchanged=self.watch.unchanged if name == "source" else self.watch.data_unchanged,
        )

    def calibrate(self, kept: Sequence[str] = ()) -> Dict[str, Any]:
        """The Q/DQ graph for the backend, made once for all that need it (`calib.calibrate.calibrate`).

        Args:
            kept: Layers that stay float, besides those that the user named.
        """
        o = self.options
        if o.calibration_cache is not None:
            return imported(self, kept)
        arguments = {
            "data": o.data,
            "preprocess": self.spec.preprocess,
            "layout": self.boundary.layout,
            "target": self.backend,
            "samples": o.samples,
            "seed": o.seed,
            "keep_float": [*o.keep_fp32, *(name for name in kept if name not in o.keep_fp32)],
            "without": list(o.without),
        }
        return self.space.run(
            "calibrate",
            "calib.calibrate:calibrate",
            {**arguments, "onnx": self.onnx, "state": str(self.space.root / "ranges.npz")},
            {**arguments, "data": self.data, "onnx": self.graph},
            self.progress,
            CALIBRATION_PACKAGES,
            out="out=int8.onnx",
            force=o.force,
            unchanged=self.watch.data_unchanged,
        )

    def make(self, precision: str, out: Path) -> Built:
        """One bundle: calibrated where needed, built, measured, gated and put in its place."""
        if precision == "best":
            from optimize.pipeline.best import make_best

            return make_best(lambda name: self.make(name, out), self.options, self.space, self.progress)
        self.watch.data_unchanged()  # what cannot be measured any more is not built
        found, failed = self._candidates(precision)
        journal = None
        if precision == "int8" and self._may_search() and not any(one.passed for one in found):
            from optimize.pipeline.search import search

            self.progress("INT8 fails the gate: looking for the layers that cost accuracy", 0, 0)
            candidates, journal = search(self)
            found += candidates
        chosen, times = (found[0], None) if len(found) == 1 else self._fastest(precision, found)
        about = chosen.manifest
        if times:
            about = {**about, "variants": [one.compared(times, one is chosen) for one in found]}
        if failed:
            about = {**about, "failed_variants": failed}
        if journal:
            about = {**about, "search": journal}
        bundle = out / engine.bundle_name(precision, self.backend, self.key.version, self.key.compute_capability)
        if not self.options.force:
            self._refuse_to_replace(bundle)
        about = as_tuned(bundle, about)
        reused = chosen.reused and unchanged(bundle, about)
        if not reused:
            engine.publish(chosen.stage, [f["path"] for f in about["files"]], about, bundle)
        return Built(bundle, precision, about, reused)

    def _candidates(self, precision: str) -> Tuple[List[Candidate], List[Dict[str, str]]]:
        """Every way to build that can be built, and the others with why not.

        Raises:
            OptimizeError: None can be built.
        """
        found: List[Candidate] = []
        failed: List[Tuple[str, OptimizeError]] = []
        for variant in variants(self, precision):
            try:
                found.append(self.engine(precision, variant))
            except OptimizeError as error:
                failed.append((variant.name, error))
        if not found:
            raise failed[0][1]
        return found, [{"name": name, "why": error.message} for name, error in failed]

    def _may_search(self) -> bool:
        """An accelerator does not run the Q/DQ graphs that a search makes."""
        return self.options.search_budget > 0 and self.options.tensorrt.dla is None

    def _refuse_to_replace(self, bundle: Path) -> None:
        """A bundle in place that was built from a file of another name is another model's: `net.pt` and `net.onnx`."""
        try:
            there = manifest.read(bundle)["model"]["name"]
        except (OptimizeError, OSError):
            return
        mine = Path(self.spec.path).name
        if there != mine:
            raise UsageError(f"{bundle} was built from {there}, not {mine}", "another folder with -o DIR, or --force")

    def engine(self, precision: str, variant: Variant) -> Candidate:
        """Build one way and measure it."""
        o = self.options
        name = f"{precision}-{variant.name}" if variant.name else precision
        identity = {
            "onnx": jsonfile.sha256(variant.onnx),
            "precision": precision,
            "backend": self.backend,
            "device": self.key.to_json(),
            "batches": list(o.batches),
            "options": variant.settings,
        }
        built = self.space.run(
            f"engine-{name}",
            "optimize.pipeline.engine:build_engine",
            {
                "onnx": variant.onnx,
                "precision": precision,
                "batches": list(o.batches),
                "backend": self.backend,
                "options": {**variant.settings, **variant.unkeyed},
            },
            identity,
            self.progress,
            out="out",
            force=o.force,
        )
        if o.strict and "no-fast-fp16" in built["flags"]:
            raise IncompatibleError(
                f"--precision {precision} --strict: this machine has no fast 16-bit format", "leave --strict out"
            )
        stage = Path(built["folder"])
        spec = self._graph_spec().with_(
            path=str(stage / built["files"][0]), backend=self.backend, options=built["options"], threads=o.threads
        )
        about = described(self, precision, built, variant.calibration, identity, stage)
        # two builds of one input differ in TensorRT: what was measured is said of these files alone
        about.update(self._measure(name, spec, {**identity, "files": about["files"]}))
        return Candidate(variant.name, stage, spec, about, built["reused"])

    def _fastest(self, precision: str, found: List[Candidate]) -> Tuple[Candidate, Dict[str, float]]:
        """Of several ways to build, the fastest that passes the gate; the first where none does."""
        from optimize.pipeline.best import rank

        times = rank(
            self.space,
            f"fastest-{precision}",
            {one.name: one.spec for one in found},
            {one.name: [one.manifest["build_key"], one.manifest["files"]] for one in found},
            self.options,
            self.progress,
        )
        passing = [one for one in found if one.passed]
        return min(passing, key=lambda one: times[one.name]) if passing else found[0], times

    def _measure(self, name: str, spec: RunnerSpec, identity: Dict[str, Any]) -> Dict[str, Any]:
        """Accuracy against the source where data is given, else a numerical check on seeded inputs; and the gate."""
        others = [b for b in self.options.batches if b != max(self.options.batches)]
        scores = self._scores(name, spec, identity, others)
        if not scores:
            n = _SEEDED_IMAGES
            check = self.space.run(
                f"check-{name}",
                "optimize.exporters.check:compare",
                {
                    "reference": self._graph_spec().to_json(),
                    "candidate": spec.to_json(),
                    "data": self.options.data or "",
                    "n": n,
                    "seed": self.options.seed,
                },
                {
                    **identity,
                    "reference": self.graph,
                    "preprocess": spec.preprocess,
                    "data": self.data,
                    "n": n,
                    "seed": self.options.seed,
                },
                self.progress,
                force=self.options.force,
                unchanged=self.watch.data_unchanged,
            )
            return {"accuracy": None, "check": value_of(check), "gate": None}
        accuracy = accuracy_against(self.source_scores, scores)
        return {
            "accuracy": accuracy,
            "check": None,
            "gate": judge(accuracy, self.options.drop_gate, self.options.min_agreement),
        }
