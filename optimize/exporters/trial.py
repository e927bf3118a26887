"""Load a source as its export does, and stop: what `--dry-run` tries where the user's code takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping

from engines.spec import Progress, RunnerSpec, quiet


def load(spec: Mapping[str, Any], progress: Progress = quiet) -> Dict[str, Any]:
    """Load a Keras or PyTorch model with the code that it needs: a child-process stage.

    Args:
        spec: RunnerSpec of the source, as JSON.
        progress: Told what is loaded.

    Returns:
        `inputs` and `outputs` of the model, as `engines.spec.TensorSpec`.

    Raises:
        UsageError, ModelError, IncompatibleError: Those of the export: a name that the file lacks, code that fails,
            custom objects or a factory that do not fit the file, an input's shape that is needed or does not fit.
    """
    source = RunnerSpec.from_json(spec).with_(policy="float32", form="")
    progress(f"loading {Path(source.path).name}", 0, 0)
    if source.kind.startswith("keras"):
        from engines import keras

        inputs, outputs = keras.boundary(keras.load_model(source), source)
    else:
        from engines import torch

        inputs, outputs = torch.boundary(torch.load_module(source), source)
    return {"inputs": [vars(t) for t in inputs], "outputs": [vars(t) for t in outputs]}
