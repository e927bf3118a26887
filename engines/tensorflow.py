"""SavedModel folders as originals, through their serving signature; no Keras generation and no user code is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from engines import tensorflowdevice, tensors
from engines.errors import IncompatibleError, ModelError, UsageError
from engines.keras import limit_threads
from engines.spec import Feeds, Query, Runner, RunnerSpec, TensorSpec

_DEFAULT = "serving_default"


def load_signature(spec: RunnerSpec) -> Tuple[Any, Any]:
    """Load a SavedModel.

    Returns:
        The loaded object, which must be kept as long as the second is used; and the function to call with tensors by
        input name, which returns a dictionary of tensors by output name.

    Raises:
        ModelError: It cannot be loaded, or has nothing to call.
        IncompatibleError: TensorFlow is missing.
    """
    name = Path(spec.path).name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tensorflowdevice.share_memory()
    try:
        import tensorflow as tf
    except ImportError as error:
        raise IncompatibleError(f"{name} needs TensorFlow: {error}", "pip install tensorflow") from None
    try:
        loaded = tf.saved_model.load(spec.path)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, tf.errors.OpError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{name} cannot be loaded: {type(error).__name__}: {text}") from error
    signatures = dict(getattr(loaded, "signatures", None) or {})
    if _DEFAULT in signatures or len(signatures) == 1:
        return loaded, signatures.get(_DEFAULT) or next(iter(signatures.values()))
    if signatures:
        raise ModelError(
            f"{name} has the signatures {', '.join(sorted(signatures))} and none is {_DEFAULT}",
            f'save it with signatures={{"{_DEFAULT}": function}}',
        )
    return loaded, _callable(tf, loaded, name)


def _callable(tf: Any, loaded: Any, name: str) -> Any:
    """A function of the first traced call of a Keras or other callable object saved without signatures."""
    for attribute in ("serve", "__call__", "call"):
        function = getattr(loaded, attribute, None)
        for concrete in getattr(function, "concrete_functions", ()):
            args, kwargs = concrete.structured_input_signature
            flat = [s for s in tf.nest.flatten((args, kwargs)) if isinstance(s, tf.TensorSpec)]
            extra = {k: v for k, v in kwargs.items() if not isinstance(v, tf.TensorSpec)}
            if not flat or extra.get("training") is True or True in args:
                continue
            return _Signature(concrete, flat)
    raise ModelError(f"{name} has no serving signature and nothing to call", "save it with model.export(FOLDER)")


class _Signature:
    """A traced call, made to look like a signature: tensors by name in, a dictionary of tensors out."""

    def __init__(self, concrete: Any, flat: List[Any]) -> None:
        self._concrete = concrete
        self.variables = concrete.variables
        self._names = [str(s.name or f"input_{i}").split(":")[0] for i, s in enumerate(flat)]
        self.structured_input_signature = ((), dict(zip(self._names, flat)))
        self.structured_outputs = tensors.named(concrete.structured_outputs)

    def __call__(self, **given: Any) -> Dict[str, Any]:
        import tensorflow as tf

        captured = self._concrete.inputs[: len(self._names)]
        ordered = [tf.cast(given[name], want.dtype) for name, want in zip(self._names, captured)]
        return tensors.named(self._concrete(*ordered))


def boundary(signature: Any, spec: RunnerSpec) -> Tuple[Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    """Inputs and outputs of a signature, the batch as it was saved.

    Raises:
        UsageError: The input's size is free and was not given, or the one given does not fit.
    """
    name = Path(spec.path).name
    specs = signature.structured_input_signature[1]
    inputs = []
    for key in sorted(specs):
        rank = specs[key].shape.rank
        shape = tuple(specs[key].shape) if rank is not None else None
        if spec.input_shape is not None and len(specs) == 1:
            given = spec.input_shape
            if shape is not None and (
                len(shape) != len(given) + 1 or any(a not in (None, b) for a, b in zip(shape[1:], given))
            ):
                want = tensors.text(shape[1:])
                raise UsageError(f"--input-shape {tensors.text(given)} does not fit {name}, which takes {want}")
            shape = (shape[0] if shape else None, *given)
        if shape is None or None in shape[1:]:
            raise UsageError(f"{name} takes inputs of a free size", "give it with --input-shape, such as 224x224x3")
        inputs.append(TensorSpec(str(key), shape, specs[key].dtype.name))
    outputs = []
    for key, value in sorted(signature.structured_outputs.items()):
        dims = tuple(value.shape) if value.shape.rank is not None else None
        if dims is None or None in dims[1:]:
            dims = _probe(signature, inputs)[key]
        outputs.append(TensorSpec(str(key), dims, value.dtype.name))
    return tuple(inputs), tuple(outputs)


def _probe(signature: Any, inputs: List[TensorSpec]) -> Dict[str, Tuple[Any, ...]]:
    """Shapes of the outputs, the batch as that of the input, from a run on zeros."""
    import tensorflow as tf

    given = {t.name: tf.zeros([n or 1 for n in t.shape], t.dtype) for t in inputs}
    return {key: (inputs[0].shape[0], *tuple(value.shape)[1:]) for key, value in signature(**given).items()}


def load(spec: RunnerSpec) -> Runner:
    """Open a SavedModel as a runner.

    Raises:
        ModelError, UsageError, IncompatibleError: See `load_signature`, `boundary` and `engines.keras.limit_threads`.
    """
    if spec.threads:
        try:
            limit_threads(spec.threads)
        except ImportError as error:
            raise IncompatibleError(f"TensorFlow is missing: {error}", "pip install tensorflow") from None
    return _SavedModelRunner(spec)


class _SavedModelRunner(Runner):
    def __init__(self, spec: RunnerSpec) -> None:
        self._loaded, self._signature = load_signature(spec)
        variables = getattr(self._signature, "variables", ())
        self.device = tensorflowdevice.placed(variables, spec.options.get("device", "auto"))
        self.inputs, self.outputs = boundary(self._signature, spec)
        layout = spec.layout or tensors.layout(self.inputs[0].shape, "NHWC")
        self.spec = spec.with_(inputs=self.inputs, outputs=self.outputs, layout=layout)
        self._functions: Dict[Tuple[Any, ...], Any] = {}

    def bind(self, feeds: Feeds) -> Query:
        import tensorflow as tf

        arrays = tensors.checked(self.inputs, feeds)
        concrete = self._concrete(arrays)
        names, constant = [tensor.name for tensor in self.outputs], tf.constant

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            found = concrete(*[constant(array) for array in arrays])
            return {name: tensor.numpy() for name, tensor in zip(names, found)}

        return query

    def profile(self, feeds: Feeds, queries: int = 20) -> List[Dict[str, Any]]:
        """See `Runner.profile`."""
        from engines import tensorflowprofile

        function = self._concrete(tensors.checked(self.inputs, feeds))
        return tensorflowprofile.layers(self.bind(feeds), function, queries, self.device)

    def _concrete(self, arrays: List[np.ndarray[Any, Any]]) -> Any:
        import tensorflow as tf

        key = tuple(array.shape for array in arrays)
        if key not in self._functions:
            self._functions[key] = self._traced([tf.TensorSpec(a.shape, a.dtype) for a in arrays])
        return self._functions[key]

    def _traced(self, shapes: List[Any]) -> Any:
        import tensorflow as tf

        signature = self._signature
        inputs, outputs = [t.name for t in self.inputs], [t.name for t in self.outputs]

        def forward(*given: Any) -> List[Any]:
            found = signature(**dict(zip(inputs, given)))
            return [found[name] for name in outputs]

        compiled = tf.function(forward, jit_compile=True if self.spec.form == "xla" else None)
        return compiled.get_concrete_function(*shapes)

    def close(self) -> None:
        self._functions = {}
        self._loaded = self._signature = None
