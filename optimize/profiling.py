"""`optimize profile`: the time of each layer of an engine or original, and whether it got the precision asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from bench import profile as profiles
from engines import asked, child, jsonfile, manifest
from engines.errors import UsageError
from engines.spec import FORMS, Progress, quiet
from optimize.pipeline.inputs import child_env
from optimize.sources import recognise
from optimize.targets import bench_targets

_BUILT = ("bundle", "onnx")


def profile(
    engine: Union[str, Path],
    batch: Optional[int] = None,
    queries: int = 50,
    data: Optional[str] = None,
    backend: str = "auto",
    threads: int = 0,
    form: Optional[str] = None,
    trace: Optional[Union[str, Path]] = None,
    progress: Progress = quiet,
    **source: Any,
) -> Dict[str, Any]:
    """Time the layers of an engine or of an original, in a child process.

    Args:
        engine: Engine bundle, an ONNX file to run as it is, or an original.
        batch: Images in a query, by default the smallest of the bundle (1 of other files).
        queries: How many are timed.
        data: Test images to feed; random ones by default.
        backend: What runs an ONNX file: auto, openvino or onnxruntime.
        threads: CPU threads; 0 leaves the runtime's default.
        form: How an original runs: predict, function or eager; by default as the function that `predict` calls, or
            eagerly. The layers of predict are those of that function: what it adds is in `query_ms`.
        trace: File to write for Perfetto or chrome://tracing.
        progress: Told what happens.
        source: input_shape, preprocess and the others of `optimize.sources.recognise`.

    Returns:
        `name`, `path`, `backend`, `form` (how an original ran; else empty), `precision`, what `bench.profile.measure`
        returns, `comparison` (see `engines.asked.compare`; None where not known) and `warnings`.

    Raises:
        UsageError: A batch that it does not serve, or a form that it does not have or that has no layers to tell.
        DamagedError, IncompatibleError: A bundle that will not run here.
    """
    kind = recognise(str(engine), **source).kind
    if (batch is not None and batch < 1) or queries < 1:
        raise UsageError(f"batch {batch}, {queries} queries: 1 or more are expected")
    if trace is not None:
        jsonfile.writable(trace, "--trace trace.json")
    forms = _forms(kind, form)
    target, *_ = bench_targets([engine], None, forms, backend, threads, source)  # mixed precision: in float32 too
    about = manifest.read(Path(target.spec.path)) if kind == "bundle" else {}
    arguments = {
        "spec": target.spec.to_json(),
        "batch": batch or min(about.get("batches") or [1]),
        "queries": queries,
        "data": data or "",
    }
    measured = child.call("bench.profile:measure", arguments, progress, child_env(target.spec))
    comparison = about.get("comparison")
    differs = asked.warning(comparison)
    found = {
        "name": target.name,
        "path": target.spec.path,
        "backend": target.backend,
        "form": target.form,
        "precision": "" if kind == "onnx" else target.precision,
        **measured,
        "comparison": comparison,
        "warnings": [f"{target.name}: {differs}"] if differs else [],
    }
    if trace is not None:
        jsonfile.write(trace, profiles.trace(found))
    return found


def _forms(kind: str, form: Optional[str]) -> Optional[List[str]]:
    """How an original runs while its layers are timed; None for what is no original."""
    if kind in _BUILT:
        if form:
            raise UsageError(f"--form {form}: an engine runs in one way only", "leave --form out")
        return None
    able = [one for one in FORMS[kind] if one not in _FUSED]
    if form in _FUSED and form in FORMS[kind]:
        raise UsageError(f"--form {form}: {_FUSED[form]}", f"--form {able[-1]}")
    if form and form not in able:
        raise UsageError(f"--form {form}: a {kind} model has {', '.join(able)}", f"--form {able[-1]}")
    return [form or ("function" if "function" in able else able[0])]


_FUSED = {
    "xla": "XLA makes a few kernels of the whole model, and its layers cannot be told apart",
    "compile": "torch.compile makes kernels of its own of the layers, which cannot be told apart",
}
"""Forms whose layers nothing tells."""
