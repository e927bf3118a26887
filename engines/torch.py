"""PyTorch models as originals: exported programs (.pt2), TorchScript, and a state_dict with its module's factory."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from engines import tensors, torchfile, userfile
from engines.errors import IncompatibleError, ModelError, OptimizeError, UsageError
from engines.spec import Feeds, Query, Runner, RunnerSpec, TensorSpec

_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
"""Under these keys training programs keep the state_dict in a checkpoint."""


def torch_module() -> Any:
    """PyTorch, or the error that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise IncompatibleError(f"PyTorch is needed for this model: {error}", "pip install torch") from None
    return torch


def load_module(spec: RunnerSpec) -> Any:
    """The model as a `torch.nn.Module` on the CPU, in evaluation mode.

    No pickle is executed: a state_dict is read with `weights_only=True`, and what names code is refused before that.

    Raises:
        ModelError: The file is damaged, wants to run code, or does not fit the module.
        UsageError: No factory for a state_dict, or one that fails.
        IncompatibleError: PyTorch, torchvision or timm is missing, or too old for the file.
    """
    name = Path(spec.path).name
    if spec.kind in ("torch-pt2", "torch-state-dict"):
        torchfile.check(spec.path, spec.kind)
    torch = torch_module()
    if spec.kind == "torch-pt2":
        module = _exported(torch, spec, name)
    elif spec.kind == "torchscript":
        try:
            module = torch.jit.load(spec.path, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{name} cannot be loaded as TorchScript: {_line(error)}") from None
    else:
        module = _from_state(torch, spec, name)
    return module.float() if spec.policy == "float32" else module


def _exported(torch: Any, spec: RunnerSpec, name: str) -> Any:
    if not hasattr(torch, "export"):
        raise IncompatibleError(f"{name} needs torch.export; this is PyTorch {torch.__version__}", "use PyTorch 2.1+")
    try:
        return torch.export.load(spec.path).module()
    except (OptimizeError, MemoryError):
        raise
    except Exception as error:  # the reader of exported programs has no error class of its own
        raise ModelError(
            f"{name} cannot be loaded by PyTorch {torch.__version__}: {_line(error)}",
            "an exported program is read by the PyTorch that wrote it or a newer one",
        ) from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _from_state(torch: Any, spec: RunnerSpec, name: str) -> Any:
    if not spec.factory:
        raise torchfile.needs_factory(spec.path)
    try:
        loaded = torch.load(spec.path, map_location="cpu", weights_only=True)
    except (OptimizeError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise ModelError(f"{name} cannot be read: {_line(error)}") from None
    state = state_dict(loaded, name)
    # what the library makes by itself is what the random weights are of, whatever their last matrix looks like
    module = _made(torch, spec.factory, {} if spec.options.get("weights") == "random" else state)
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise ModelError(f"{name} does not fit {_short(spec.factory)}: {message[:300]}", "check --factory") from None
    optional = {key for key in found.missing_keys if key.endswith("num_batches_tracked")}
    missing, unexpected = [k for k in found.missing_keys if k not in optional], found.unexpected_keys
    if missing or unexpected:
        what = f"{len(missing)} tensors are missing, {len(unexpected)} unexpected, such as {(missing + unexpected)[0]}"
        raise ModelError(f"{name} does not fit {_short(spec.factory)}: {what}", "check --factory")
    return module.eval()


def state_dict(loaded: Any, name: str = "the file") -> Dict[str, Any]:
    """The state_dict in what a training program saved: under a usual key, without `module.` of DataParallel.

    Raises:
        ModelError: There is none.
    """
    value = loaded
    if isinstance(value, Mapping) and not _is_state(value):
        value = next((value[key] for key in _NESTED if isinstance(value.get(key), Mapping)), value)
    if not isinstance(value, Mapping) or not _is_state(value):
        raise ModelError(f"{name} holds no state_dict", "save it with torch.save(model.state_dict(), FILE.pt)")
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in value):
            value = {key[len(prefix) :]: tensor for key, tensor in value.items()}
    return dict(value)


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(k, str) and hasattr(v, "shape") for k, v in value.items())


def _short(factory: str) -> str:
    return Path(factory.rpartition(":")[0]).name + ":" + factory.rpartition(":")[2] if ":" in factory else factory


def _made(torch: Any, factory: str, state: Mapping[str, Any]) -> Any:
    """Call the factory, with the number of classes of the state_dict where it takes one."""
    if ":" not in factory or factory.partition(":")[0] in torchfile.LIBRARIES:
        return _call(torch, factory, library_model(factory), state)
    (made,) = userfile.load_names(factory).values() if "," not in factory else (None,)
    if made is None:
        raise UsageError(f"--factory {factory}: one name is expected")
    with userfile.importing(userfile.split(factory)[0]):
        return _call(torch, factory, made, state)


def _call(torch: Any, factory: str, make: Any, state: Mapping[str, Any]) -> Any:
    if isinstance(make, torch.nn.Module):
        return make
    if not callable(make):
        raise UsageError(f"--factory {_short(factory)} is not a function or class")
    options = {}
    classes = _classes(state)
    if classes and _takes(make, "num_classes"):
        options["num_classes"] = classes
    try:
        module = make(**options)
    except OptimizeError:
        raise
    except BaseException as error:  # the user's own code
        if not userfile.is_users(error):
            raise
        raise UsageError(
            f"--factory {_short(factory)} failed: {userfile.said(error)}",
            "it is called without arguments (but num_classes)",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"--factory {_short(factory)} made a {type(module).__name__}, not a torch.nn.Module")
    return module


def _takes(make: Any, name: str) -> bool:
    if getattr(make, "takes_num_classes", False):
        return True
    try:
        return name in inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False


def _classes(state: Mapping[str, Any]) -> int:
    """Rows of the last matrix in a state_dict: a classifier's number of classes; 0 without a matrix."""
    rows = [int(tensor.shape[0]) for key, tensor in state.items() if key.endswith("weight") and len(tensor.shape) == 2]
    return rows[-1] if rows else 0


def library_model(name: str) -> Callable[..., Any]:
    """The function that makes a torchvision or timm model, with random weights: nothing is downloaded.

    Args:
        name: `resnet50`, which torchvision is asked for first, or `timm:resnet50`, `torchvision:resnet50`.

    Raises:
        UsageError: There is none of that name.
        IncompatibleError: The library is not installed, or does not fit this PyTorch.
    """
    library, _, model = name.rpartition(":")
    asked = [library] if library else list(torchfile.LIBRARIES)
    missing: List[str] = []
    for one in asked:
        try:
            make = _LIBRARIES[one](model)
        except (ImportError, RuntimeError) as error:  # torchvision that was built for another PyTorch
            missing.append(f"{one} ({_line(error)})")
            continue
        if make is not None:
            return _with_classes(make)
    if len(missing) < len(asked):
        found = " or ".join(one for one in asked if not any(m.startswith(one) for m in missing))
        raise UsageError(
            f"{name}: no model of {found} has that name",
            "its list_models() tells them; or name your own: --factory FILE.py:NAME",
        )
    raise IncompatibleError(
        f"{name} is a name of {' or '.join(asked)}, which cannot be imported: {'; '.join(missing)}",
        f"pip install {asked[0]}, the one for this PyTorch; or name your own: --factory FILE.py:NAME",
    )


def _of_torchvision(name: str) -> Optional[Callable[..., Any]]:
    from torchvision import models

    if not hasattr(models, "get_model") or name not in models.list_models():
        return None
    options: Dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # detection and segmentation would download those
    return lambda **more: models.get_model(name, **options, **more)


def _of_timm(name: str) -> Optional[Callable[..., Any]]:
    import timm

    return (lambda **more: timm.create_model(name, pretrained=False, **more)) if timm.is_model(name) else None


_LIBRARIES: Dict[str, Callable[[str], Optional[Callable[..., Any]]]] = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
}


def _with_classes(make: Callable[..., Any]) -> Callable[..., Any]:
    make.takes_num_classes = True  # type: ignore[attr-defined]
    return make


def load(spec: RunnerSpec) -> Runner:
    """Open a PyTorch model as a runner.

    Raises:
        ModelError, UsageError, IncompatibleError: See `load_module`.
    """
    torch = torch_module()
    if spec.threads:
        torch.set_num_threads(spec.threads)
    return _TorchRunner(torch, load_module(spec), spec)


def boundary(module: Any, spec: RunnerSpec) -> Tuple[Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    """Inputs and outputs of a loaded module; the outputs are told by running it once on zeros.

    Raises:
        UsageError: The input's shape is not known and was not given, or does not fit.
    """
    torch = torch_module()
    inputs = _inputs(module, spec)
    zeros = [torch.zeros([n or 1 for n in t.shape], dtype=getattr(torch, t.dtype)) for t in inputs]
    try:
        with torch.inference_mode():
            result = module(*zeros)
    except RuntimeError as error:
        shape = tensors.text(inputs[0].shape[1:])
        raise UsageError(
            f"{Path(spec.path).name} does not take an input of {shape}: {_line(error)}",
            "give the shape that it was trained on with --input-shape, such as 3x224x224",
        ) from None
    fixed = inputs[0].shape[0]
    outputs = [
        TensorSpec(name, (fixed, *tensor.shape[1:]), _host(tensor).dtype.name)
        for name, tensor in tensors.named(result).items()
    ]
    return inputs, tuple(outputs)


def _host(tensor: Any) -> np.ndarray[Any, Any]:
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()  # NumPy has none
    return tensor.detach().numpy()  # type: ignore[no-any-return]


def _inputs(module: Any, spec: RunnerSpec) -> Tuple[TensorSpec, ...]:
    known = _exported_inputs(module)
    if known:
        if spec.input_shape is not None and len(known) == 1:
            if len(spec.input_shape) != len(known[0].shape) - 1 or any(
                a not in (None, b) for a, b in zip(known[0].shape[1:], spec.input_shape)
            ):
                want, given = tensors.text(known[0].shape[1:]), tensors.text(spec.input_shape)
                raise UsageError(f"--input-shape {given} does not fit {Path(spec.path).name}, which takes {want}")
            known = [TensorSpec(known[0].name, (known[0].shape[0], *spec.input_shape), known[0].dtype)]
        if any(None in tensor.shape[1:] for tensor in known):
            raise UsageError(f"{Path(spec.path).name} takes inputs of a free size", "give it with --input-shape")
        return tuple(known)
    if spec.input_shape is None:
        raise UsageError(
            f"{Path(spec.path).name} does not tell its input's shape", "give it with --input-shape, such as 3x224x224"
        )
    return (TensorSpec(_first_parameter(module), (None, *spec.input_shape)),)


def _first_parameter(module: Any) -> str:
    if hasattr(module, "schema") or hasattr(module, "code"):
        return "input"  # TorchScript numbers its values
    try:
        return next(iter(inspect.signature(module.forward).parameters), "input")
    except (TypeError, ValueError):
        return "input"


def _exported_inputs(module: Any) -> List[TensorSpec]:
    """The inputs that an exported program records: its placeholders with a shape; none for other modules."""
    graph = getattr(module, "graph", None)
    found = []
    for node in getattr(graph, "nodes", ()) if hasattr(graph, "find_nodes") or hasattr(graph, "owning_module") else ():
        value = node.meta.get("val") if getattr(node, "op", "") == "placeholder" else None
        if value is not None and hasattr(value, "shape"):
            shape: List[Optional[int]] = [n if isinstance(n, int) else None for n in value.shape]
            found.append(TensorSpec(str(node.name), tuple(shape), str(value.dtype).split(".")[-1]))
    return found


class _TorchRunner(Runner):
    device = "cpu"

    def __init__(self, torch: Any, module: Any, spec: RunnerSpec) -> None:
        self._torch, self._module = torch, module
        self.inputs, self.outputs = boundary(module, spec)
        layout = spec.layout or tensors.layout(self.inputs[0].shape, "NCHW")
        self.spec = spec.with_(inputs=self.inputs, outputs=self.outputs, layout=layout)
        self._run = torch.compile(module) if spec.form == "compile" else module

    def bind(self, feeds: Feeds) -> Query:
        run, names = self._run, [tensor.name for tensor in self.outputs]
        bound: Sequence[Any] = [self._torch.from_numpy(array) for array in tensors.checked(self.inputs, feeds)]
        inference = self._torch.inference_mode

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            with inference():
                return {name: _host(tensor) for name, (_, tensor) in zip(names, tensors.flat(run(*bound)))}

        return query

    def profile(self, feeds: Feeds, queries: int = 20) -> List[Dict[str, Any]]:
        """See `Runner.profile`: as the form eager, whatever the form is."""
        from engines import torchprofile

        bound = [self._torch.from_numpy(array) for array in tensors.checked(self.inputs, feeds)]
        return torchprofile.layers(self._torch, self._module, bound, queries)

    def close(self) -> None:
        self._module = self._run = None
