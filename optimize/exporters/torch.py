"""PyTorch models to ONNX, by tracing: one form for modules, TorchScript and exported programs."""

from __future__ import annotations

import inspect
import io
import warnings
from pathlib import Path
from typing import Any, Dict, List, Union

from engines import tensors
from engines.errors import ModelError
from engines.spec import Progress, RunnerSpec, quiet
from optimize.exporters.traced import Traced


def trace(spec: RunnerSpec, opset: int, batch: Union[str, int], progress: Progress = quiet) -> Traced:
    """Convert a PyTorch model.

    The exporter that traces is used, on every version of PyTorch: the newer one needs onnxscript, and writes opset 18
    or later.

    Raises:
        ModelError: PyTorch has no ONNX for an operator, or an exported program is fixed to another batch.
        UsageError, IncompatibleError: See `engines.torch.load_module` and `boundary`.
    """
    from engines.torch import boundary, load_module

    spec = spec.with_(policy="float32", form="")
    progress("loading the model", 0, 0)
    module = load_module(spec)
    inputs, outputs = boundary(module, spec)
    name, fixed = Path(spec.path).name, inputs[0].shape[0]
    if fixed is not None and fixed != batch:
        raise ModelError(
            f"{name} was exported for batch {fixed}, {'a free one' if batch == 'dynamic' else batch} was asked for",
            f"--batch {fixed}, or export it with dynamic_shapes for the batch",
        )

    import torch

    if spec.kind == "torch-pt2":
        module.train = lambda mode=True: module  # it has no modes, and its own train() raises; the exporter calls it

    class Flat(torch.nn.Module):  # type: ignore[misc]
        """Returns the tensors of a nested result one after another, in the order of their names."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *given: Any) -> Any:
            return tuple(tensor for _, tensor in tensors.flat(self.inner(*given)))

    progress("converting to ONNX", 0, 0)
    generator = torch.Generator().manual_seed(0)
    size = 2 if batch == "dynamic" else int(batch)  # 2: a batch of 1 may be taken for a constant
    given = tuple(_example(torch, t.shape, t.dtype, size, generator) for t in inputs)
    labels = [f"input_{i}" for i in range(len(inputs))], [f"output_{i}" for i in range(len(outputs))]
    options: Dict[str, Any] = {"opset_version": opset, "input_names": labels[0], "output_names": labels[1]}
    if batch == "dynamic":
        options["dynamic_axes"] = {label: {0: "batch"} for label in (*labels[0], *labels[1])}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # TorchScript cannot be called inside a trace; the exporter takes it, and flattens its results, itself.
            torch.onnx.export(module if spec.kind == "torchscript" else Flat().eval(), given, buffer, **options)
    except Exception as error:  # the exporter and the model's own code raise every class there is
        text = " ".join(str(error).split())[:400]
        raise ModelError(f"{name} cannot be converted to ONNX: {type(error).__name__}: {text}") from error
    return Traced(_parsed(buffer.getvalue()), inputs, outputs, spec.layout or tensors.layout(inputs[0].shape, "NCHW"))


def _example(torch: Any, shape: Any, dtype: str, size: int, generator: Any) -> Any:
    dims: List[int] = [size, *shape[1:]]
    kind = getattr(torch, dtype)
    return torch.randn(dims, generator=generator).to(kind) if kind.is_floating_point else torch.zeros(dims, dtype=kind)


def _parsed(data: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(data)
